#!/bin/sh
# Checks what the environment says, writes it down for nginx.conf, and becomes nginx.
# Only values that were found good are written, so none of them can become a directive.
set -euf

: "${LOG_FORMAT:=json}" "${MAX_BODY_BYTES:=16777216}" "${REQUEST_ID_HEADER:=X-Request-ID}" "${REQUEST_ID_TRUST:=always}"
: "${MASKED_QUERY:=token,pass,pwd,secret,key,auth,jwt,credential,signature,session}" "${TRUSTED_PROXIES:=}"
: "${RATE_LIMIT:=1000}" "${CLIENT_CONCURRENCY:=2000}" "${MAX_CONCURRENCY:=4000}" "${ANSWER_TIMEOUT:=60}"
: "${WAIT_FOR_SERVICE:=true}" "${CORS_ORIGINS:=}" "${GRACEFUL_TIMEOUT:=30}" "${SERVICE:=api:8000}"
written=/tmp/nginx

# --- what is wrong: all of it, one sentence each -------------------------------------------------------------------
faults=0
refuse() { # NAME VALUE WORDS
    # Printable ASCII; BusyBox does not know [:print:].
    value=$(printf '%.100s' "$2" | LC_ALL=C tr -c '\040-\176' '?')
    printf "The environment variable %s is '%s': %s.\n" "$1" "$value" "$3" >&2
    faults=1
}
matches() { # VALUE EXTENDED-REGULAR-EXPRESSION, which holds for the whole of one line
    case $1 in *"
"*) return 1 ;; esac
    printf '%s\n' "$1" | LC_ALL=C grep -Eqx -e "$2"
}
one_of() { # NAME VALUE WORD...
    name=$1 value=$2
    shift 2
    for word; do if [ "$value" = "$word" ]; then return; fi; done
    refuse "$name" "$value" "it is one of: $*"
}
number() { # NAME VALUE LOWEST HIGHEST
    if ! matches "$2" '[0-9]{1,13}' || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
        refuse "$1" "$2" "it is a whole number from $3 to $4"
    fi
}
words() { printf '%s' "$1" | tr ',' ' '; }

number_below_256='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
ipv4="($number_below_256\.){3}$number_below_256(/(3[0-2]|[12]?[0-9]))?"
h='[0-9A-Fa-f]{1,4}'
# To nginx, `::` stands for two groups at least.
ipv6="($h:){7}$h|($h:){1,6}:|($h:){1,5}:$h|($h:){1,4}(:$h){1,2}|($h:){1,3}(:$h){1,3}|($h:){1,2}(:$h){1,4}"
ipv6="($ipv6|$h:(:$h){1,5}|:(:$h){1,6}|::)(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"

one_of LOG_FORMAT "$LOG_FORMAT" text json
one_of REQUEST_ID_TRUST "$REQUEST_ID_TRUST" always proxies never
# nginx takes 0 for no limit; the service, which takes it for no body, refuses the one byte that gets through.
number MAX_BODY_BYTES "$MAX_BODY_BYTES" 0 1099511627776
number RATE_LIMIT "$RATE_LIMIT" 1 1000000
number CLIENT_CONCURRENCY "$CLIENT_CONCURRENCY" 1 8000
number MAX_CONCURRENCY "$MAX_CONCURRENCY" 1 8000
number ANSWER_TIMEOUT "$ANSWER_TIMEOUT" 1 86400
number GRACEFUL_TIMEOUT "$GRACEFUL_TIMEOUT" 2 86400
one_of WAIT_FOR_SERVICE "$WAIT_FOR_SERVICE" true false
matches "$CORS_ORIGINS" '( *(\*|https?://[A-Za-z0-9.:-]{1,260}) *(,|$))*' ||
    refuse CORS_ORIGINS "$CORS_ORIGINS" 'it is a list of origins such as https://example.org, with commas, or *'
matches "$SERVICE" '[A-Za-z0-9._-]{1,253}:[0-9]{1,5}' || refuse SERVICE "$SERVICE" 'it is a host and a port: api:8000'
matches "$MASKED_QUERY" '[A-Za-z0-9_., -]*' ||
    refuse MASKED_QUERY "$MASKED_QUERY" 'it is a list of words of letters, digits and any of _ . -, with commas'
if ! matches "$TRUSTED_PROXIES" '[0-9A-Fa-f.:/, ]*'; then
    refuse TRUSTED_PROXIES "$TRUSTED_PROXIES" 'it is a list of addresses or networks, with commas'
else
    for network in $(words "$TRUSTED_PROXIES"); do
        matches "$network" "$ipv4|$ipv6" && continue
        refuse TRUSTED_PROXIES "$TRUSTED_PROXIES" "$network is no address and no network"
        break
    done
fi
# The same names as the service refuses, and those that nginx sets; it drops header lines with other characters.
header=$(printf '%s' "$REQUEST_ID_HEADER" | tr 'A-Z-' 'a-z_')
taken='accept|allow|authorization|cache_control|connection|cookie|date|etag|expect|forwarded|host|http2_settings'
taken="$taken|keep_alive|location|origin|range|referer|retry_after|server|set_cookie|strict_transport_security|te"
taken="$taken|trailer|transfer_encoding|upgrade|user_agent|vary|via|x_real_ip|x_content_type_options|x_frame_options"
taken="($taken|referrer_policy|(access_control|content|if|proxy|sec|x_forwarded|x_accel)_.*)"
if ! matches "$REQUEST_ID_HEADER" '[A-Za-z0-9-]{1,64}'; then
    refuse REQUEST_ID_HEADER "$REQUEST_ID_HEADER" 'it is the name of a header: up to 64 letters, digits and hyphens'
elif matches "$header" "$taken"; then
    refuse REQUEST_ID_HEADER "$REQUEST_ID_HEADER" 'this header means something else; choose a name such as X-Request-ID'
fi
# Of a link-local resolver the zone is not known to nginx.
resolvers=$(sed -n 's/^nameserver[[:space:]]*\([0-9A-Fa-f.:]*\)[[:space:]]*$/\1/p' /etc/resolv.conf |
    sed 's/.*:.*/[&]/' | tr '\n' ' ')
if [ -z "$resolvers" ]; then
    echo "The file /etc/resolv.conf names no server that could be asked for the address of '$SERVICE'." >&2
    faults=1
fi
# Two bodies at least, in kibibytes; a larger one would end with 500, whatever the limit says.
room=$(df -Pk "${written%/*}" | awk 'END {print $4}')
if [ "$faults" = 0 ] && [ "$((MAX_BODY_BYTES / 512))" -gt "$room" ]; then
    refuse MAX_BODY_BYTES "$MAX_BODY_BYTES" "there is room for $room KiB of bodies that arrive, and two must fit in; \
give nginx a larger UPLOAD_SPACE"
fi
# Each request takes two open files, and the limit to begin with is often 1024.
# shellcheck disable=SC3045 # dash and ash have it
files=$(ulimit -Hn)
if [ "$faults" = 0 ] && [ "$files" != unlimited ] && [ "$((2 * MAX_CONCURRENCY))" -gt "$files" ]; then
    refuse MAX_CONCURRENCY "$MAX_CONCURRENCY" "each request takes two files, and $files may be open (nofile)"
fi
[ "$faults" = 0 ] || exit 1
mkdir -p "$written/body" "$written/proxy" "$written/unused"

# --- what is right: for nginx.conf ---------------------------------------------------------------------------------
masked=$(words "$MASKED_QUERY" | sed 's/[.]/\\./g; s/^ *//; s/ *$//; s/  */|/g')
[ "$MAX_BODY_BYTES" -gt 0 ] || MAX_BODY_BYTES=1
# Since 1.27.3 nginx follows a name's addresses by itself, and keeps connections to them open. Before, it can only ask
# for the name again and again, and opens a connection for each request.
version=$(nginx -v 2>&1 | sed 's/[^0-9]*\([0-9]*\)\.\([0-9]*\)\.\([0-9]*\).*/\1 \2 \3/')
follows() { [ "$(($1 * 1000000 + $2 * 1000 + $3))" -ge 1027003 ]; }

{
    case $REQUEST_ID_TRUST in
        always) echo "map '' \$incoming_id { default \$http_$header; }" ;;
        proxies) echo "map \$from_proxy \$incoming_id { 1 \$http_$header; default ''; }" ;;
        never) echo "map '' \$incoming_id { default ''; }" ;;
    esac
    # Whoever asks for the state wants to know it now.
    if [ "$WAIT_FOR_SERVICE" = true ]; then
        echo "map \$uri \$first_wait { /livez never; /readyz never; default ''; }"
    else
        echo "map '' \$first_wait { default never; }"
    fi
    echo "map \$http_origin \$allowed_origin { default '';"
    for origin in $(words "$CORS_ORIGINS"); do
        if [ "$origin" = '*' ]; then echo "    ~^. '*';"; else echo "    $origin $origin;"; fi
    done
    echo "}"
    echo "map \$own_origin \$own_exposed { '' ''; default $REQUEST_ID_HEADER; }"
    echo "geo \$realip_remote_addr \$from_proxy {"
    for network in $(words "$TRUSTED_PROXIES"); do echo "    $network 1;"; done
    echo "}"
    echo "map \$raw_query \$logged_query {"
    # A name that is percent-encoded may hide one of the words.
    [ -z "$masked" ] || echo "    '~*(^|[&;])[^=&;]*($masked|%)[^=&;]*=' '***';"
    echo "    default \$raw_query;"
    echo "}"
    echo "limit_req_zone \$binary_remote_addr zone=client:10m rate=${RATE_LIMIT}r/s;"
    echo "limit_conn_zone \$binary_remote_addr zone=of_client:10m;"
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
} >"$written/http.conf"
{
    echo "access_log /dev/stdout $LOG_FORMAT if=\$is_logged;"
    echo "client_max_body_size $MAX_BODY_BYTES;"
    echo "proxy_read_timeout ${ANSWER_TIMEOUT}s;"
    echo "limit_req zone=client burst=$RATE_LIMIT nodelay;"
    echo "limit_req_status 429;"
    echo "limit_conn of_client $CLIENT_CONCURRENCY;"
    echo "limit_conn all $MAX_CONCURRENCY;"
    echo "limit_conn_status 503;"
    [ ! -e /proc/net/if_inet6 ] || echo "listen [::]:8080 default_server ipv6only=on backlog=4096;"
    echo "add_header Access-Control-Expose-Headers \$own_exposed always;"
    echo "add_header $REQUEST_ID_HEADER \$final_id always;"
    echo "proxy_set_header $REQUEST_ID_HEADER \$final_id;"
    echo "proxy_hide_header $REQUEST_ID_HEADER;"
    for network in $(words "$TRUSTED_PROXIES"); do echo "set_real_ip_from $network;"; done
    echo "real_ip_header X-Forwarded-For;"
    echo "real_ip_recursive on;"
} >"$written/server.conf"

# shellcheck disable=SC3045 # as above
ulimit -Sn "$files"
# A worker that was told to end may finish what it has as long as the service may, and a little longer.
exec nginx -c /etc/nginx/service/nginx.conf -g "daemon off; worker_shutdown_timeout $((GRACEFUL_TIMEOUT + 5))s;"
