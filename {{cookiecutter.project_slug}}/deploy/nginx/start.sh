#!/bin/sh
# Checks what the environment says, writes it down for nginx.conf, and becomes nginx.
set -eu

: "${LOG_FORMAT:=json}" "${MASKED_QUERY:=}" "${MAX_BODY_BYTES:=16777216}" "${REQUEST_ID_HEADER:=X-Request-ID}"
: "${REQUEST_ID_TRUST:=always}" "${TRUSTED_PROXIES:=}" "${RATE_LIMIT:=1000}" "${MAX_CONCURRENCY:=4000}"
: "${ANSWER_TIMEOUT:=60}" "${SERVICE:=api:8000}" "${WRITES:=/tmp/nginx}"

faults=0
refuse() {
    printf 'The environment variable %s is %s: %s.\n' "$1" "'$2'" "$3" >&2
    faults=1
}
one_of() { # NAME VALUE WORD...
    name=$1 value=$2
    shift 2
    for word; do [ "$value" = "$word" ] && return; done
    refuse "$name" "$value" "it is one of: $*"
}
number() { # NAME VALUE LOWEST HIGHEST
    case $2 in
        *[!0-9]* | "" | ??????????????*) refuse "$1" "$2" "it is a whole number from $3 to $4" ;;
        *) if [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then refuse "$1" "$2" "it is a whole number from $3 to $4"; fi ;;
    esac
}
only() { # NAME VALUE PATTERN-OF-WHAT-IT-MUST-NOT-HOLD WORDS
    case $2 in $3) refuse "$1" "$2" "$4" ;; esac
}

one_of LOG_FORMAT "$LOG_FORMAT" text json
one_of REQUEST_ID_TRUST "$REQUEST_ID_TRUST" always proxies never
number MAX_BODY_BYTES "$MAX_BODY_BYTES" 0 1099511627776
number RATE_LIMIT "$RATE_LIMIT" 1 1000000
number MAX_CONCURRENCY "$MAX_CONCURRENCY" 1 8000
number ANSWER_TIMEOUT "$ANSWER_TIMEOUT" 1 86400
# nginx drops header lines with other characters.
only REQUEST_ID_HEADER "$REQUEST_ID_HEADER" '*[!A-Za-z0-9-]*' 'a header name here has letters, digits and hyphens'
only MASKED_QUERY "$MASKED_QUERY" '*[!A-Za-z0-9_.,\ -]*' 'the words have letters, digits and any of _ . -'
only TRUSTED_PROXIES "$TRUSTED_PROXIES" '*[!0-9A-Fa-f.:/,\ ]*' 'it is a list of addresses or networks, with commas'
[ "$faults" = 0 ] || exit 1

words() { printf '%s' "$1" | tr ',' ' '; }
header=$(printf '%s' "$REQUEST_ID_HEADER" | tr 'A-Z-' 'a-z_')
masked=$(words "$MASKED_QUERY" | sed 's/[.]/\\./g; s/^ *//; s/ *$//; s/  */|/g')
resolvers=$(sed -n 's/^nameserver *\([^ ]*\).*/\1/p' /etc/resolv.conf | sed 's/.*:.*/[&]/' | tr '\n' ' ')
# Since 1.27.3 nginx follows a name's addresses by itself, and keeps connections to them open. Before, it can only ask
# for the name again and again, and opens a connection for each request.
version=$(nginx -v 2>&1 | sed 's/[^0-9]*\([0-9]*\)\.\([0-9]*\)\.\([0-9]*\).*/\1 \2 \3/')
follows() { [ "$(($1 * 1000000 + $2 * 1000 + $3))" -ge 1027003 ]; }

mkdir -p "$WRITES/body" "$WRITES/proxy" "$WRITES/unused"
{
    case $REQUEST_ID_TRUST in
        always) echo "map \$http_$header \$incoming_id { default \$http_$header; }" ;;
        proxies) echo "map \$from_proxy \$incoming_id { 1 \$http_$header; default ''; }" ;;
        never) echo "map '' \$incoming_id { default ''; }" ;;
    esac
    echo "geo \$realip_remote_addr \$from_proxy { default 0;"
    for address in $(words "$TRUSTED_PROXIES"); do echo "    $address 1;"; done
    echo "}"
    echo "map \$raw_query \$logged_query {"
    # A name that is percent-encoded may hide one of the words.
    [ -z "$masked" ] || echo "    '~*(^|[&;])[^=&;]*($masked|%)[^=&;]*=' '***';"
    echo "    default \$raw_query;"
    echo "}"
    echo "limit_req_zone \$binary_remote_addr zone=client:10m rate=${RATE_LIMIT}r/s;"
    echo "limit_conn_zone \$server_port zone=all:1m;"
    echo "resolver $resolvers valid=1s ipv6=off;"
    echo "resolver_timeout 2s;"
    # shellcheck disable=SC2086 # three numbers
    if follows $version; then
        echo "upstream service {"
        echo "    zone service 256k;"
        echo "    server $SERVICE resolve max_fails=0;"
        echo "    keepalive 64;"
        # Below KEEPALIVE of the service, or a request meets a connection that is just closing.
        echo "    keepalive_timeout 30s;"
        echo "}"
        echo "map '' \$service { default service; }"
    else
        echo "map '' \$service { default $SERVICE; }"
    fi
} >"$WRITES/http.conf"
{
    echo "access_log /dev/stdout $LOG_FORMAT if=\$is_logged;"
    echo "client_max_body_size $MAX_BODY_BYTES;"
    echo "proxy_read_timeout ${ANSWER_TIMEOUT}s;"
    echo "limit_req zone=client burst=$RATE_LIMIT nodelay;"
    echo "limit_req_status 429;"
    echo "limit_conn all $MAX_CONCURRENCY;"
    echo "limit_conn_status 503;"
    echo "add_header $REQUEST_ID_HEADER \$final_id always;"
    echo "proxy_set_header $REQUEST_ID_HEADER \$final_id;"
    echo "proxy_hide_header $REQUEST_ID_HEADER;"
    for address in $(words "$TRUSTED_PROXIES"); do echo "set_real_ip_from $address;"; done
    echo "real_ip_header X-Forwarded-For;"
    echo "real_ip_recursive on;"
} >"$WRITES/server.conf"

# Each connection is an open file, and the limit to begin with is often 1024.
ulimit -Sn "$(ulimit -Hn)"
exec nginx -c /etc/nginx/service/nginx.conf -g 'daemon off;'
