"""nginx in front of the service: its own error responses, limits, forwarded headers, retries."""

import gzip
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.live.smuggling_cases import ONE_MESSAGE, Smuggled
from tests.support.baking import must
from tests.support.client import Response, build_request, new_id
from tests.support.speed import scaled
from tests.support.stack import Stack, docker
from tests.support.waiting import wait_for

from .edge import RESOLVES_UPSTREAM, Nginx, check_error_response, version_of

pytestmark = pytest.mark.full

ID = b"X-Request-ID: %b\r\n"
HOST = b"Host: a\r\n"
POST = b"POST /a HTTP/1.1\r\n%bHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"

# The bytes of a request, with `%b` for the ID header line; its status; the logged method, path, query and version.
# nginx generates the ID if it rejects a request before it has read the ID header.
REJECTED = {
    "no request line": (b"GET\r\n%b\r\n", 400, "GET - - -"),
    "binary data": (b"\x00\x01\x02\r\n%b\r\n", 400, "- - - -"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03%b\r\n", 400, "- - - -"),
    "lower-case method": (b"get /a HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "- /a - 1.1"),
    "path above the root": (b"GET /../x?a=b HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /../x a=b 1.1"),
    "invalid percent-encoding": (b"GET /%%zz HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /%zz - 1.1"),
    "byte in the target": (b"GET /a\xe9b HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /a - 1.1"),
    "password in the target": (b"GET http://u:p@a/b?c=d HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /b c=d 1.1"),
    "NUL in a header": (b"GET /a HTTP/1.1\r\n%bA: \x00\r\n\r\n", 400, "GET /a - 1.1"),
    "no host": (b"GET /a HTTP/1.1\r\n%b\r\n", 400, "GET /a - 1.1"),
    "invalid host": (b"GET /a HTTP/1.1\r\n%bHost: a/b\r\n\r\n", 400, "GET /a - 1.1"),
    "two hosts": (b"GET /a HTTP/1.1\r\n%bHost: a\r\nHost: b\r\n\r\n", 400, "GET /a - 1.1"),
    "masked query": (b"GET /a?x=1&p%%61ssword=s3cret HTTP/1.1\r\n%b\r\n", 400, "GET /a *** 1.1"),
    "length and coding": (CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n", 400, "POST /a - 1.1"),
    "invalid chunk": (CHUNKED + b"\r\nzz\r\n", 400, "POST /a - 1.1"),
    "TRACE": (b"TRACE /a HTTP/1.1\r\n%bHost: a\r\n\r\n", 405, "TRACE /a - 1.1"),
    "unknown method": (b"M-BREW /a HTTP/1.1\r\n%bHost: a\r\n\r\n", 405, "M-BREW /a - 1.1"),
    "length too large": (POST + b"Content-Length: 16777217\r\n\r\n", 413, "POST /a - 1.1"),
    "100-continue too large": (
        POST + b"Expect: 100-continue\r\nContent-Length: 16777217\r\n\r\n",
        413,
        "POST /a - 1.1",
    ),
    "chunk too large": (CHUNKED + b"\r\n1000001\r\nx", 413, "POST /a - 1.1"),
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n%b\r\n", 414, f"GET /{'a' * 1999} - -"),
    "long header": (b"GET /a HTTP/1.1\r\n%bHost: a\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431, "GET /a - 1.1"),
    "many headers": (b"GET /a HTTP/1.1\r\n%bHost: a\r\n" + b"A: b\r\n" * 9000 + b"\r\n", 431, "GET /a - 1.1"),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "POST /a - 1.1"),
    "unsupported version": (b"GET /a HTTP/3.0\r\n" + HOST + b"%b\r\n", 505, "GET /a - 3.0"),
    "internal path": (b"GET /__envelope HTTP/1.1\r\n%bHost: a\r\n\r\n", 404, "GET /__envelope - 1.1"),
    "service unavailable": (b"GET /livez?a=b HTTP/1.1\r\n%bHost: a\r\n\r\n", 502, "GET /livez a=b 1.1"),
}
# Rejected before the ID header is read.
ID_NOT_READ = {"no request line", "binary data", "TLS", "lower-case method", "path above the root",
               "invalid percent-encoding", "password in the target", "long target", "unsupported version"}  # fmt: skip


@pytest.mark.parametrize("head", [False, True], ids=["all", "HEAD"])
def test_error_response_has_envelope_id_security_headers_and_one_log_line(nginx_alone: Nginx, *, head: bool) -> None:
    found = {}
    for name, (pattern, status, logged) in REJECTED.items():
        if head and not pattern.startswith(b"GET /"):
            continue
        sent, data = new_id("own"), pattern.replace(b"GET", b"HEAD") if head else pattern
        request_id = check_error_response(nginx_alone.send(data % (ID % sent.encode())), status, head=head)
        assert (request_id == sent) is (name not in ID_NOT_READ), name
        found[request_id] = f"{status} {logged.replace('GET', 'HEAD') if head else logged}"
    fields = ("status", "method", "path", "query", "http_version")
    lines = {line["request_id"]: " ".join(str(line[f] or "-") for f in fields) for line in nginx_alone.lines_of(*found)}
    assert lines == found
    assert b"s3cret" not in nginx_alone.output()
    assert nginx_alone.output(errors=True) == b""


def test_http_0_9_request_gets_the_envelope_without_headers(nginx_alone: Nginx) -> None:
    with nginx_alone.connect() as connection:
        connection.send(b"GET /a\r\n")
        assert connection.read_to_end().startswith(b'{"code":400')


def test_slow_clients_are_disconnected_and_do_not_block_others(
    built_project: Path, images: list[str], tmp_path: Path
) -> None:
    """A head or body that does not arrive within 10 s, here 2 s, closes the connection; status 408 is logged."""
    files = tmp_path / "deploy/nginx"
    shutil.copytree(built_project / "deploy/nginx", files)
    text, count = re.subn(r"(client_(header|body)_timeout) 10s;", r"\1 2s;", (files / "nginx.conf").read_text())
    assert count == 2
    (files / "nginx.conf").write_text(text)
    heads, bodies = new_id("head"), new_id("body")
    with Nginx(tmp_path, images[0]) as nginx, ExitStack() as stack:
        began = time.monotonic()
        slow = [stack.enter_context(nginx.connect()) for _ in range(200)]
        for connection in slow[2:]:
            connection.send(b"GET / HTTP/1.1\r\nHo")
        slow[0].send(b"GET / HTTP/1.1\r\n" + ID % heads.encode() + b"Ho")
        slow[1].send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n" + ID % bodies.encode() + b"\r\nab")
        check_error_response(nginx.send(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"), 502)
        assert time.monotonic() - began < scaled(2)
        assert {connection.read_to_end() for connection in slow} == {b""}
        assert 1.9 < time.monotonic() - began < scaled(8)
        assert [line["status"] for line in nginx.lines_of(heads, bodies)] == [408, 408]


def get(target: str, *, request_id: str = "", **headers: str) -> bytes:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return build_request("GET", target, pairs, request_id=request_id or None)


def test_limits_of_concurrency_time_and_size(stack: Stack, images: list[str]) -> None:
    """One concurrent request, one second for a response, no body, no incoming ID accepted: 503, 504, 413."""
    variables = {"MAX_CONCURRENCY": "1", "ANSWER_TIMEOUT": "1", "MAX_BODY_BYTES": "0", "REQUEST_ID_TRUST": "never"}
    sent = new_id("slow")

    def exceed_concurrency() -> list[Response]:
        """Send a second request during a slow one; return nothing if an earlier request still occupies the slot."""
        with nginx.connect() as first:
            first.send(get("/probe/slow?seconds=3", request_id=sent))
            responses = [nginx.send(get("/api/demo")), first.read_response()]
        return responses if [response.status for response in responses] == [503, 504] else []

    def wait_for_free_slot(request: bytes) -> None:
        wait_for(lambda: nginx.send(request).status == 200, "a free slot")

    with Nginx(stack, images[0], **variables) as nginx:
        second, first = wait_for(exceed_concurrency, "two concurrent requests")
        ids = [check_error_response(second, 503), check_error_response(first, 504)]
        wait_for_free_slot(get("/api/demo"))
        ids.append(check_error_response(nginx.send(build_request("POST", "/probe/upload", body=b"ab")), 413))
        wait_for_free_slot(build_request("POST", "/probe/upload"))
        lines = nginx.lines_of(*ids)
        assert [(line["status"], line["upstream_status"]) for line in lines] == [
            (503, ""), (504, "504"), (413, "")]  # fmt: skip
        assert sent.encode() not in nginx.output()
        assert stack.wait_for_lines(ids[1], 1, "api")


def test_rate_limit_per_client_address(stack: Stack, images: list[str]) -> None:
    """Above RATE_LIMIT per second: 429. The ID is in a custom header, and replaced: the client is no trusted proxy."""
    variables = {"RATE_LIMIT": "5", "REQUEST_ID_HEADER": "X-Correlation-ID", "REQUEST_ID_TRUST": "proxies",
                 "TRUSTED_PROXIES": "192.0.2.0/24"}  # fmt: skip
    with Nginx(stack, images[0], **variables) as nginx:
        time.sleep(1)  # until the requests at startup no longer count
        sent = new_id("rate")
        request = get("/probe/echo", X_Correlation_ID=sent, X_Forwarded_For="192.0.2.1")
        with ThreadPoolExecutor(10) as pool:
            responses = list(pool.map(lambda _: nginx.send(request), range(30)))
        rejected = [response for response in responses if response.status == 429]
        served = [response for response in responses if response.status == 200]
        assert len(served) >= 5
        assert rejected
        assert len(served) + len(rejected) == len(responses)
        ids = [check_error_response(response, 429, header="X-Correlation-ID") for response in rejected]
        for response in served:
            assert ["x-correlation-id", response.header("X-Correlation-ID")] in response.json()["result"]
        assert sent not in {*ids, *(response.header("X-Correlation-ID") for response in served)}
        assert {line["status"] for line in nginx.lines_of(*ids)} == {429}


def test_body_is_500_if_the_temporary_folder_is_full(stack: Stack, images: list[str]) -> None:
    limit = 900_000
    with Nginx(stack, images[0], size="2m", MAX_BODY_BYTES=str(limit)) as nginx, ExitStack() as bodies:
        for unfinished in [bodies.enter_context(nginx.connect()) for _ in range(2)]:
            unfinished.send(build_request("POST", "/probe/upload", body=b"x" * limit)[:-1])
        wait_for(lambda: docker("exec", nginx.name, "df", "/tmp").stdout.split()[-2] > "85%", "bodies that arrive")
        data = build_request("POST", "/probe/upload?token=s3cret", body=b"x" * limit)
        request_id = check_error_response(nginx.send(data), 500)
        assert nginx.lines_of(request_id)[0]["query"] == "***"
        assert b"s3cret" not in nginx.output() + nginx.output(errors=True)
        assert nginx.send(get("/api/demo")).status == 200


def smuggle(nginx: Nginx, case: Smuggled) -> bytes:
    """Send the bytes of a case, and return what comes back until there is a pause of half a second."""
    data = b""
    with nginx.connect() as connection, suppress(TimeoutError, ConnectionResetError):
        connection.send(case.data)
        while part := connection.socket.recv(65536):
            data += part
            connection.socket.settimeout(0.5)
    return data


# nginx parses these as two requests, and forwards each separately, with its own length, ID and access log line.
LENIENT = {"chunk size b'5 5'", "bare LF in head", "chunk ended by LF", "data ended by LF", "trailer without colon",
           "trailer with LF", "trailers named like headers", "extension", "zeros before the size"}  # fmt: skip


def test_service_gets_no_request_that_nginx_has_not_parsed(nginx: Nginx, stack: Stack) -> None:
    with ThreadPoolExecutor(32) as pool:
        responses = list(pool.map(lambda case: smuggle(nginx, case), ONE_MESSAGE))
    for case, data in zip(ONE_MESSAGE, responses, strict=True):
        count = data.count(b"HTTP/1.1 ")
        assert count == 1 or (count == 2 and case.name in LENIENT) or b'"code":400' in data, (case, data)
        assert b"HTTP/1.1 5" not in data or data[9:12] in {b"501", b"505"}, (case, data)
    last = nginx.send(get("/api/demo", request_id=new_id("after")))
    stack.wait_for_lines(last.header(), 1, "api")
    logged = {line["request_id"] for line in nginx.lines() if line["path"] == "/hidden"}
    hidden = {line["request_id"] for line in stack.lines("api") if line.get("path") == "/hidden"}
    assert len(logged) <= len(LENIENT)
    assert hidden <= logged


def test_streamed_response_is_not_buffered(nginx: Nginx) -> None:
    """The first part arrives ten minutes before the second, and is not compressed."""
    with nginx.connect() as connection:
        connection.send(get("/probe/stream?seconds=600", Accept_Encoding="gzip"))
        assert b"content-encoding" not in connection._until(b"\r\n\r\n").lower()
        assert b"data: 0" in connection._until(b"\n\n")


def test_large_text_response_is_compressed(nginx: Nginx) -> None:
    """It has `Vary: Accept-Encoding`; small responses are not compressed."""
    large = nginx.send(get("/probe/large", Accept_Encoding="gzip"))
    assert large.header("Content-Encoding") == "gzip"
    assert large.header("Vary") == "Accept-Encoding"
    assert gzip.decompress(large.body) == b"x" * 100_000
    assert len(large.body) < 2000
    plain = nginx.send(get("/probe/large"))
    assert plain.header_values("Content-Encoding") == []
    assert plain.header("Vary") == "Accept-Encoding"
    assert nginx.send(get("/api/demo", Accept_Encoding="gzip")).header_values("Content-Encoding") == []


def test_websocket_has_the_id_and_one_log_line(nginx: Nginx) -> None:
    sent = new_id("socket")
    uri = f"ws://127.0.0.1:{nginx.port}/probe/socket"
    with connect(uri, additional_headers={"X-Request-ID": sent}, proxy=None) as websocket:
        assert websocket.response is not None
        assert websocket.response.headers.get_all("X-Request-ID") == [sent]
        assert websocket.recv(timeout=30) == sent
        websocket.send("ä" * 100_000)
        assert websocket.recv(timeout=30) == "ä" * 100_000
    assert nginx.lines_of(sent)[0]["status"] == 101


def test_large_request_bodies_are_forwarded(nginx: Nginx) -> None:
    body = b"x" * 5_000_000
    assert nginx.send(build_request("POST", "/probe/upload", body=body)).json()["result"] == len(body)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [body[:65536]] * 40) + b"0\r\n\r\n"
    data = build_request("POST", "/probe/upload", [("Transfer-Encoding", "chunked")], chunks)
    assert nginx.send(data).json()["result"] == 40 * 65536
    with nginx.connect() as connection:
        connection.send(build_request("POST", "/probe/upload", [("Content-Length", "3"), ("Expect", "100-continue")]))
        assert connection._until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.send(b"abc")
        assert connection.read_response().json()["result"] == 3


def echoed_headers(response: Response) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in response.json()["result"]:
        found.setdefault(name, []).append(value)
    return found


FORWARDED_HEADERS = {"X_Forwarded_For": "9.9.9.9", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example",
                     "X_Real_IP": "9.9.9.9", "Forwarded": "for=9.9.9.9;proto=https"}  # fmt: skip


def test_forwarded_headers_of_a_client_are_ignored(nginx: Nginx) -> None:
    response = nginx.send(get("/probe/echo", Host="a.example:81", **FORWARDED_HEADERS))
    found = echoed_headers(response)
    assert not re.search("9\\.9\\.9\\.9|evil", repr(found))
    assert found["host"] == found["x-forwarded-host"] == ["a.example:81"]
    assert found["x-forwarded-for"] == found["x-real-ip"] == found[":client"]
    assert found["x-forwarded-proto"] == found[":scheme"] == ["http"]
    assert response.header_values("Strict-Transport-Security") == []


def test_forwarded_headers_of_a_trusted_proxy_are_used(proxied_nginx: Nginx) -> None:
    """The ID of the proxy is accepted too. A client address from X-Forwarded-For has no port in a text line."""
    sent, later = new_id("proxied"), new_id("later")
    response = proxied_nginx.send(
        get("/probe/echo", request_id=sent, **(FORWARDED_HEADERS | {"X_Forwarded_For": "7.7.7.7, 9.9.9.9"}))
    )
    found = echoed_headers(response)
    assert found["x-forwarded-for"] == found["x-real-ip"] == found[":client"] == ["9.9.9.9"]
    assert (found[":scheme"], found["x-forwarded-host"], response.header()) == (["https"], ["evil.example"], sent)
    assert response.header("Strict-Transport-Security") == "max-age=31536000"
    proxied_nginx.send(get("/probe/echo", request_id=later, X_Forwarded_For="2001:db8::1"))
    wait_for(lambda: later in proxied_nginx.output().decode(), "line of the second request")
    text = proxied_nginx.output().decode()
    assert re.search(rf'\] {sent} 200 \S+s 9\.9\.9\.9 - "GET /probe/echo HTTP/1\.1" ', text)
    assert re.search(rf'\] {later} 200 \S+s \[2001:db8::1\] - "GET /probe/echo HTTP/1\.1" ', text)


def test_host_is_read_from_an_absolute_target_or_the_default(nginx: Nginx) -> None:
    assert echoed_headers(nginx.send(b"GET /probe/echo HTTP/1.0\r\n\r\n"))["host"] == ["localhost"]
    assert echoed_headers(nginx.send(get("http://b.example/probe/echo", Host="b.example")))["host"] == ["b.example"]


def test_hop_by_hop_headers_are_removed(nginx: Nginx) -> None:
    headers = {"Connection": "close, Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA", "TE": "a",
               "Keep-Alive": "5", "Proxy-Connection": "close", "Proxy": "evil",
               "Proxy-Authorization": "a", "Trailer": "X"}  # fmt: skip
    found = echoed_headers(nginx.send(build_request("GET", "/probe/echo", headers.items())))
    assert not {name.lower() for name in headers} & (found.keys() - {"connection"})
    assert found.get("connection", ["close"]) == ["close"]


def connections_to_service(nginx: Nginx) -> set[str]:
    """Return nginx's local addresses of connections to the service, closed ones of the last minute too (TIME_WAIT)."""
    table = must(docker("exec", nginx.name, "cat", "/proc/net/tcp")).stdout.splitlines()[1:]
    return {line.split()[1] for line in table if line.split()[2].endswith(":1F40")}  # port 8000


def test_client_and_upstream_connections_are_kept_alive(nginx_variants: list[Nginx]) -> None:
    """nginx before RESOLVES_UPSTREAM opens a connection to the service for each request."""
    for nginx in nginx_variants:
        before = connections_to_service(nginx)
        with nginx.connect() as connection:
            for _ in range(30):
                assert connection.request("GET", "/api/demo").status == 200
        reuses = version_of(nginx.image) >= RESOLVES_UPSTREAM
        assert len(connections_to_service(nginx) - before) in ((0, 1) if reuses else (30,))


def test_disconnected_client_is_logged_with_499(nginx: Nginx, stack: Stack) -> None:
    sent = new_id("gone")
    connection = nginx.connect()
    connection.send(get("/probe/slow?seconds=20", request_id=sent))
    stack.wait_for_lines(sent, 1, "api")
    connection.abort()
    assert nginx.lines_of(sent)[0]["status"] == 499


def kill_workers(stack: Stack) -> None:
    """Kill the workers; the master replaces them."""
    stack.exec("api", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")


def count_hanging(stack: Stack) -> Counter[str]:
    """Return how often the endpoint /probe/hang was called, by request ID."""
    return Counter(line["request_id"] for line in stack.lines("api") if line.get("message") == "hangs")


def test_request_of_killed_worker_is_retried_only_if_idempotent(nginx_variants: list[Nginx], stack: Stack) -> None:
    with ExitStack() as connections:
        sent = [(nginx, connections.enter_context(nginx.connect()), new_id("hang"), *outcome)
                for nginx in nginx_variants for outcome in (("POST", 502, 1), ("GET", 200, 2))]  # fmt: skip
        for _, connection, request_id, method, _, _ in sent:
            connection.send(build_request(method, "/probe/hang", request_id=request_id))
        wait_for(lambda: {one[2] for one in sent} <= count_hanging(stack).keys(), "start of all requests")
        kill_workers(stack)
        for nginx, connection, request_id, _, status, times in sent:
            response = connection.read_response()
            assert (response.status, response.header()) == (status, request_id)
            assert nginx.lines_of(request_id)[0]["status"] == status
            wait_for(lambda: count_hanging(stack)[request_id] == times, f"{times} calls with {request_id}")  # noqa: B023


def test_request_that_kills_its_worker_is_retried_only_once(nginx: Nginx, stack: Stack) -> None:
    sent = new_id("killer")
    assert check_error_response(nginx.send(get("/probe/die", request_id=sent)), 502) == sent
    wait_for(lambda: nginx.send(get("/readyz")).status == 200, "new workers")
    nginx.send(get("/api/demo", request_id=(after := new_id("after"))))
    stack.wait_for_lines(after, 2, "api")
    assert len([line for line in stack.lines_of(sent, "api") if line.get("message") == "dies"]) == 2


def test_headers_of_the_service_are_not_overwritten(nginx: Nginx) -> None:
    response = nginx.send(get("/probe/headers"))
    assert (response.status, response.body) == (503, b"as it was sent")
    assert len(response.header("X-Long")) == 12000
    names = ("X-Frame-Options", "Referrer-Policy", "Retry-After", "X-Content-Type-Options")
    assert [response.header(name) for name in names] == ["SAMEORIGIN", "origin", "7", "nosniff"]


def test_error_responses_have_cors_headers_for_allowed_origins(nginx_alone: Nginx) -> None:
    origin = "https://app.example.org"
    page = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\nOrigin: %b\r\n\r\n"
    response, other = nginx_alone.send(page % origin.encode()), nginx_alone.send(page % b"https://evil.example")
    check_error_response(response, 413)
    assert response.header("Access-Control-Allow-Origin") == origin
    assert response.header("Access-Control-Expose-Headers") == "X-Request-ID"
    assert (response.header("Access-Control-Allow-Credentials"), response.header("Vary")) == ("true", "Origin")
    assert other.header_values("Access-Control-Allow-Origin") == []


def test_unavailable_service_is_502_immediately_if_wait_for_service_is_off(nginx_alone: Nginx) -> None:
    began = time.monotonic()
    check_error_response(nginx_alone.send(get("/api/demo")), 502)
    assert time.monotonic() - began < scaled(3)


WAITING = (("GET", "/api/no%2fthing//x?a=%41", b"", 404), ("POST", "/probe/upload", b"x" * 300_000, 200))


@contextmanager
def stopped_service(stack: Stack) -> Iterator[None]:
    must(stack.compose("stop", "--timeout", "5", "api"))
    try:
        yield
    finally:
        must(stack.compose("start", "api"))


def send_and_disconnect(nginx: Nginx) -> str:
    """Send a request, disconnect while it waits, and return its ID."""
    with nginx.connect() as connection:
        connection.send(get("/api/demo", request_id=(request_id := new_id("gone"))))
        check_error_response(nginx.send(get("/readyz")), 502)
    assert nginx.lines_of(request_id)[0]["status"] == 499
    return request_id


def test_requests_wait_while_the_service_restarts(nginx_variants: list[Nginx], stack: Stack) -> None:
    """They reach it unchanged, except those of clients that have disconnected; health checks do not wait."""
    with ExitStack() as connections:
        sent = [
            (nginx, connections.enter_context(nginx.connect()), new_id(), *case)
            for nginx in nginx_variants
            for case in WAITING
        ]
        with stopped_service(stack):
            for _, connection, request_id, method, target, body, _ in sent:
                connection.send(build_request(method, target, body=body, request_id=request_id))
            disconnected = [send_and_disconnect(nginx) for nginx in nginx_variants]
        for nginx, connection, request_id, _, target, body, status in sent:
            response = connection.read_response()
            assert (response.status, response.header()) == (status, request_id)
            assert status != 200 or response.json()["result"] == len(body)
            assert nginx.lines_of(request_id)[0]["status"] == status
            assert stack.wait_for_lines(request_id, 1, "api")[-1]["path"] == target.partition("?")[0]
    assert not set(disconnected) & {line.get("request_id") for line in stack.lines("api")}
