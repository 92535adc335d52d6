#!/bin/sh
# Validates the environment variables, writes the files that nginx.conf includes, and starts nginx in its place (exec).
# Only valid values are written, so that no value can inject a directive.
set -euf

: "${LOG_FORMAT:=json}" "${MAX_BODY_BYTES:=16777216}" "${REQUEST_ID_HEADER:=X-Request-ID}" "${REQUEST_ID_TRUST:=always}"
: "${MASKED_QUERY:=token,pass,pwd,secret,key,auth,jwt,credential,signature,session}" "${TRUSTED_PROXIES:=}"
: "${RATE_LIMIT:=1000}" "${CLIENT_CONCURRENCY:=2000}" "${MAX_CONCURRENCY:=4000}" "${ANSWER_TIMEOUT:=60}"
: "${WAIT_FOR_SERVICE:=true}" "${CORS_ORIGINS:=}" "${GRACEFUL_TIMEOUT:=30}" "${SERVICE:=api:8000}"
work_dir=/tmp/nginx

# --- validation: one message for each invalid variable -------------------------------------------------------------
has_errors=0
reject() { # NAME VALUE REQUIREMENT
    # Replaces all but printable ASCII; BusyBox does not support [:print:].
    value=$(printf '%.100s' "$2" | LC_ALL=C tr -c '\040-\176' '?')
    printf "The environment variable %s is '%s': %s.\n" "$1" "$value" "$3" >&2
    has_errors=1
}
matches() { # VALUE EXTENDED-REGULAR-EXPRESSION; the value must be one line, and match in full
    case $1 in *"
"*) return 1 ;; esac
    printf '%s\n' "$1" | LC_ALL=C grep -Eqx -e "$2"
}
check_one_of() { # NAME VALUE WORD...
    name=$1 value=$2
    shift 2
    for word; do if [ "$value" = "$word" ]; then return; fi; done
    reject "$name" "$value" "it must be one of: $*"
}
check_number() { # NAME VALUE MINIMUM MAXIMUM
    if ! matches "$2" '[0-9]{1,13}' || [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then
        reject "$1" "$2" "it must be a whole number from $3 to $4"
    fi
}
split_words() { printf '%s' "$1" | tr ',' ' '; }

number_below_256='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
ipv4="($number_below_256\.){3}$number_below_256(/(3[0-2]|[12]?[0-9]))?"
h='[0-9A-Fa-f]{1,4}'
# nginx accepts `::` only for two or more groups.
ipv6="($h:){7}$h|($h:){1,6}:|($h:){1,5}:$h|($h:){1,4}(:$h){1,2}|($h:){1,3}(:$h){1,3}|($h:){1,2}(:$h){1,4}"
ipv6="($ipv6|$h:(:$h){1,5}|:(:$h){1,6}|::)(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?"

check_one_of LOG_FORMAT "$LOG_FORMAT" text json
check_one_of REQUEST_ID_TRUST "$REQUEST_ID_TRUST" always proxies never
# In nginx, 0 means no limit. In the service it means no body, so nginx gets a limit of 1 byte (below), and the service
# rejects that byte.
check_number MAX_BODY_BYTES "$MAX_BODY_BYTES" 0 1099511627776
check_number RATE_LIMIT "$RATE_LIMIT" 1 1000000
check_number CLIENT_CONCURRENCY "$CLIENT_CONCURRENCY" 1 8000
check_number MAX_CONCURRENCY "$MAX_CONCURRENCY" 1 8000
check_number ANSWER_TIMEOUT "$ANSWER_TIMEOUT" 1 86400
check_number GRACEFUL_TIMEOUT "$GRACEFUL_TIMEOUT" 2 86400
check_one_of WAIT_FOR_SERVICE "$WAIT_FOR_SERVICE" true false
matches "$CORS_ORIGINS" '( *(\*|https?://[A-Za-z0-9.:-]{1,260}) *(,|$))*' ||
    reject CORS_ORIGINS "$CORS_ORIGINS" 'it must be a comma-separated list of origins such as https://example.org, or *'
matches "$SERVICE" '[A-Za-z0-9._-]{1,253}:[0-9]{1,5}' ||
    reject SERVICE "$SERVICE" 'it must be a host and a port, such as api:8000'
matches "$MASKED_QUERY" '[A-Za-z0-9_., -]*' ||
    reject MASKED_QUERY "$MASKED_QUERY" 'it must be a comma-separated list of words of letters, digits and _ . -'
if ! matches "$TRUSTED_PROXIES" '[0-9A-Fa-f.:/, ]*'; then
    reject TRUSTED_PROXIES "$TRUSTED_PROXIES" 'it must be a comma-separated list of IP addresses and networks'
else
    for network in $(split_words "$TRUSTED_PROXIES"); do
        matches "$network" "$ipv4|$ipv6" && continue
        reject TRUSTED_PROXIES "$TRUSTED_PROXIES" "$network is not an IP address or network"
        break
    done
fi
# The names that the service rejects, and the headers that nginx sets. nginx drops header lines whose names have other
# characters.
header=$(printf '%s' "$REQUEST_ID_HEADER" | tr 'A-Z-' 'a-z_')
reserved='accept|allow|authorization|cache_control|connection|cookie|date|etag|expect|forwarded|host|http2_settings'
reserved="$reserved|keep_alive|location|origin|range|referer|retry_after|server|set_cookie|strict_transport_security|te"
reserved="$reserved|trailer|transfer_encoding|upgrade|user_agent|vary|via|x_real_ip|x_content_type_options"
reserved="($reserved|x_frame_options|referrer_policy|(access_control|content|if|proxy|sec|x_forwarded|x_accel)_.*)"
if ! matches "$REQUEST_ID_HEADER" '[A-Za-z0-9-]{1,64}'; then
    reject REQUEST_ID_HEADER "$REQUEST_ID_HEADER" 'it must be a header name of up to 64 letters, digits and hyphens'
elif matches "$header" "$reserved"; then
    reject REQUEST_ID_HEADER "$REQUEST_ID_HEADER" 'this header has another meaning; choose a name such as X-Request-ID'
fi
# Link-local addresses are left out: nginx does not support their zone (%eth0).
resolvers=$(sed -n 's/^nameserver[[:space:]]*\([0-9A-Fa-f.:]*\)[[:space:]]*$/\1/p' /etc/resolv.conf |
    sed 's/.*:.*/[&]/' | tr '\n' ' ')
if [ -z "$resolvers" ]; then
    echo "The file /etc/resolv.conf has no usable nameserver: nginx needs one to resolve '$SERVICE'." >&2
    has_errors=1
fi
# /tmp must have room for two bodies at least. A body without room would get a 500, although it is within the limit.
free_kib=$(df -Pk "${work_dir%/*}" | awk 'END {print $4}')
if [ "$has_errors" = 0 ] && [ "$((MAX_BODY_BYTES / 512))" -gt "$free_kib" ]; then
    reject MAX_BODY_BYTES "$MAX_BODY_BYTES" "two request bodies of this size must fit into the $free_kib KiB of /tmp; \
raise UPLOAD_SPACE, or lower MAX_BODY_BYTES"
fi
# Each request needs two open files. The soft limit is often 1024, so it is raised to the hard limit below.
# shellcheck disable=SC3045 # dash and ash support it
max_files=$(ulimit -Hn)
if [ "$has_errors" = 0 ] && [ "$max_files" != unlimited ] && [ "$((2 * MAX_CONCURRENCY))" -gt "$max_files" ]; then
    reject MAX_CONCURRENCY "$MAX_CONCURRENCY" "each request needs two open files, and the limit (nofile) is $max_files"
fi
[ "$has_errors" = 0 ] || exit 1
mkdir -p "$work_dir/body" "$work_dir/proxy" "$work_dir/unused"

# --- the files that nginx.conf includes ----------------------------------------------------------------------------
masked_names=$(split_words "$MASKED_QUERY" | sed 's/[.]/\\./g; s/^ *//; s/ *$//; s/  */|/g')
[ "$MAX_BODY_BYTES" -gt 0 ] || MAX_BODY_BYTES=1
# Since 1.27.3 nginx can resolve the name of an upstream server at run time, and keep connections to it open. Older
# versions resolve a name in proxy_pass again every second (valid=1s), and open a new connection for each request.
version=$(nginx -v 2>&1 | sed 's/[^0-9]*\([0-9]*\)\.\([0-9]*\)\.\([0-9]*\).*/\1 \2 \3/')
can_resolve_upstream() { [ "$(($1 * 1000000 + $2 * 1000 + $3))" -ge 1027003 ]; }

{
    case $REQUEST_ID_TRUST in
        always) echo "map '' \$incoming_id { default \$http_$header; }" ;;
        proxies) echo "map \$from_proxy \$incoming_id { 1 \$http_$header; default ''; }" ;;
        never) echo "map '' \$incoming_id { default ''; }" ;;
    esac
    # Health checks must not wait.
    if [ "$WAIT_FOR_SERVICE" = true ]; then
        echo "map \$uri \$first_wait { /livez never; /readyz never; default ''; }"
    else
        echo "map '' \$first_wait { default never; }"
    fi
    echo "map \$http_origin \$allowed_origin { default '';"
    for origin in $(split_words "$CORS_ORIGINS"); do
        if [ "$origin" = '*' ]; then echo "    ~^. '*';"; else echo "    $origin $origin;"; fi
    done
    echo "}"
    echo "map \$own_origin \$own_exposed { '' ''; default $REQUEST_ID_HEADER; }"
    echo "geo \$realip_remote_addr \$from_proxy {"
    for network in $(split_words "$TRUSTED_PROXIES"); do echo "    $network 1;"; done
    echo "}"
    echo "map \$raw_query \$logged_query {"
    # Percent-encoding in a name could hide one of the words, so any % in a name masks the query.
    [ -z "$masked_names" ] || echo "    '~*(^|[&;])[^=&;]*($masked_names|%)[^=&;]*=' '***';"
    echo "    default \$raw_query;"
    echo "}"
    echo "limit_req_zone \$binary_remote_addr zone=client_rate:10m rate=${RATE_LIMIT}r/s;"
    echo "limit_conn_zone \$binary_remote_addr zone=per_client:10m;"
    echo "limit_conn_zone \$server_port zone=total:1m;"
    echo "resolver $resolvers valid=1s ipv6=off;"
    echo "resolver_timeout 2s;"
    # shellcheck disable=SC2086 # three numbers
    if can_resolve_upstream $version; then
        echo "upstream service {"
        echo "    zone service 256k;"
        echo "    server $SERVICE resolve max_fails=0;"
        echo "    keepalive 64;"
        # Shorter than KEEPALIVE of the service; otherwise nginx may reuse a connection that is being closed.
        echo "    keepalive_timeout 30s;"
        echo "}"
        echo "map '' \$service { default service; }"
    else
        echo "map '' \$service { default $SERVICE; }"
    fi
} >"$work_dir/http.conf"
{
    echo "access_log /dev/stdout $LOG_FORMAT if=\$is_logged;"
    echo "client_max_body_size $MAX_BODY_BYTES;"
    echo "proxy_read_timeout ${ANSWER_TIMEOUT}s;"
    echo "limit_req zone=client_rate burst=$RATE_LIMIT nodelay;"
    echo "limit_req_status 429;"
    echo "limit_conn per_client $CLIENT_CONCURRENCY;"
    echo "limit_conn total $MAX_CONCURRENCY;"
    echo "limit_conn_status 503;"
    [ ! -e /proc/net/if_inet6 ] || echo "listen [::]:8080 default_server ipv6only=on backlog=4096;"
    echo "add_header Access-Control-Expose-Headers \$own_exposed always;"
    echo "add_header $REQUEST_ID_HEADER \$final_id always;"
    echo "proxy_set_header $REQUEST_ID_HEADER \$final_id;"
    echo "proxy_hide_header $REQUEST_ID_HEADER;"
    for network in $(split_words "$TRUSTED_PROXIES"); do echo "set_real_ip_from $network;"; done
    echo "real_ip_header X-Forwarded-For;"
    echo "real_ip_recursive on;"
} >"$work_dir/server.conf"

# shellcheck disable=SC3045 # as above
ulimit -Sn "$max_files"
# In a graceful shutdown, in-flight requests have a little longer than in the service.
exec nginx -c /etc/nginx/service/nginx.conf -g "daemon off; worker_shutdown_timeout $((GRACEFUL_TIMEOUT + 5))s;"
