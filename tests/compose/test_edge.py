"""Every answer that nginx gives by itself: the service's envelope, the ID, one line."""

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
from tests.support.client import Answer, build_request, new_id
from tests.support.speed import scaled
from tests.support.stack import Stack, docker
from tests.support.waiting import wait_for

from .edge import FOLLOWS_NAMES, Edge, check_own_answer, version_of

pytestmark = pytest.mark.full

ID = b"X-Request-ID: %b\r\n"
HOST = b"Host: a\r\n"
POST = b"POST /a HTTP/1.1\r\n%bHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"

# What is sent, `%b` for the header line with the ID; the status; method, path, query and version in the line.
# Where the ID comes after what is wrong, or the head ends before it, nginx makes one.
OWN = {
    "no request line": (b"GET\r\n%b\r\n", 400, "GET - - -"),
    "noise": (b"\x00\x01\x02\r\n%b\r\n", 400, "- - - -"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03%b\r\n", 400, "- - - -"),
    "lower case": (b"get /a HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "- /a - 1.1"),
    "above the root": (b"GET /../x?a=b HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /../x a=b 1.1"),
    "bad escape": (b"GET /%%zz HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /%zz - 1.1"),
    "byte in the target": (b"GET /a\xe9b HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /a - 1.1"),
    "password in the target": (b"GET http://u:p@a/b?c=d HTTP/1.1\r\n" + HOST + b"%b\r\n", 400, "GET /b c=d 1.1"),
    "NUL in a header": (b"GET /a HTTP/1.1\r\n%bA: \x00\r\n\r\n", 400, "GET /a - 1.1"),
    "no host": (b"GET /a HTTP/1.1\r\n%b\r\n", 400, "GET /a - 1.1"),
    "bad host": (b"GET /a HTTP/1.1\r\n%bHost: a/b\r\n\r\n", 400, "GET /a - 1.1"),
    "two hosts": (b"GET /a HTTP/1.1\r\n%bHost: a\r\nHost: b\r\n\r\n", 400, "GET /a - 1.1"),
    "secret": (b"GET /a?x=1&p%%61ssword=s3cret HTTP/1.1\r\n%b\r\n", 400, "GET /a *** 1.1"),
    "length and coding": (CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n", 400, "POST /a - 1.1"),
    "bad chunk": (CHUNKED + b"\r\nzz\r\n", 400, "POST /a - 1.1"),
    "TRACE": (b"TRACE /a HTTP/1.1\r\n%bHost: a\r\n\r\n", 405, "TRACE /a - 1.1"),
    "unknown method": (b"M-BREW /a HTTP/1.1\r\n%bHost: a\r\n\r\n", 405, "M-BREW /a - 1.1"),
    "length too large": (POST + b"Content-Length: 16777217\r\n\r\n", 413, "POST /a - 1.1"),
    "large and patient": (POST + b"Expect: 100-continue\r\nContent-Length: 16777217\r\n\r\n", 413, "POST /a - 1.1"),
    "chunk too large": (CHUNKED + b"\r\n1000001\r\nx", 413, "POST /a - 1.1"),
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n%b\r\n", 414, f"GET /{'a' * 1999} - -"),
    "long header": (b"GET /a HTTP/1.1\r\n%bHost: a\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431, "GET /a - 1.1"),
    "many headers": (b"GET /a HTTP/1.1\r\n%bHost: a\r\n" + b"A: b\r\n" * 9000 + b"\r\n", 431, "GET /a - 1.1"),
    "unknown coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 501, "POST /a - 1.1"),
    "version": (b"GET /a HTTP/3.0\r\n" + HOST + b"%b\r\n", 505, "GET /a - 3.0"),
    "internal path": (b"GET /__envelope HTTP/1.1\r\n%bHost: a\r\n\r\n", 404, "GET /__envelope - 1.1"),
    "nobody there": (b"GET /livez?a=b HTTP/1.1\r\n%bHost: a\r\n\r\n", 502, "GET /livez a=b 1.1"),
}
# What is wrong comes before the ID.
UNREAD = {"no request line", "noise", "TLS", "lower case", "above the root", "bad escape", "password in the target",
          "long target", "version"}  # fmt: skip


@pytest.mark.parametrize("head", [False, True], ids=["", "HEAD"])
def test_own_answer_has_envelope_id_security_headers_and_one_line(lonely: Edge, *, head: bool) -> None:
    found = {}
    for name, (pattern, status, logged) in OWN.items():
        if head and not pattern.startswith(b"GET /"):
            continue
        sent, data = new_id("own"), pattern.replace(b"GET", b"HEAD") if head else pattern
        request_id = check_own_answer(lonely.ask(data % (ID % sent.encode())), status, head=head)
        assert (request_id == sent) is (name not in UNREAD), name
        found[request_id] = f"{status} {logged.replace('GET', 'HEAD') if head else logged}"
    fields = ("status", "method", "path", "query", "http_version")
    lines = {line["request_id"]: " ".join(str(line[f] or "-") for f in fields) for line in lonely.lines_of(*found)}
    assert lines == found
    assert b"s3cret" not in lonely.output()
    assert lonely.output(errors=True) == b""


def test_request_without_a_version_gets_the_envelope_without_a_head(lonely: Edge) -> None:
    with lonely.connect() as connection:
        connection.send(b"GET /a\r\n")
        assert connection.rest().startswith(b'{"code":400')


def test_slow_clients_get_no_answer_and_block_no_others(composed: Path, images: list[str], tmp_path: Path) -> None:
    """A head or a body that does not arrive is given up after 10 s, here after 2 s, with a line."""
    files = tmp_path / "deploy/nginx"
    shutil.copytree(composed / "deploy/nginx", files)
    text, count = re.subn(r"(client_(header|body)_timeout) 10s;", r"\1 2s;", (files / "nginx.conf").read_text())
    assert count == 2
    (files / "nginx.conf").write_text(text)
    heads, bodies = new_id("head"), new_id("body")
    with Edge(tmp_path, images[0]) as edge, ExitStack() as stack:
        began = time.monotonic()
        slow = [stack.enter_context(edge.connect()) for _ in range(200)]
        for connection in slow[2:]:
            connection.send(b"GET / HTTP/1.1\r\nHo")
        slow[0].send(b"GET / HTTP/1.1\r\n" + ID % heads.encode() + b"Ho")
        slow[1].send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n" + ID % bodies.encode() + b"\r\nab")
        check_own_answer(edge.ask(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"), 502)
        assert time.monotonic() - began < scaled(2)
        assert {connection.rest() for connection in slow} == {b""}
        assert 1.9 < time.monotonic() - began < scaled(8)
        assert [line["status"] for line in edge.lines_of(heads, bodies)] == [408, 408]


def get(target: str, *, request_id: str = "", **headers: str) -> bytes:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return build_request("GET", target, pairs, request_id=request_id or None)


def test_limits_of_concurrency_time_and_size(stack: Stack, images: list[str]) -> None:
    """One request at a time, one second for an answer, no body, no ID taken over: 503, 504, 413."""
    variables = {"MAX_CONCURRENCY": "1", "ANSWER_TIMEOUT": "1", "MAX_BODY_BYTES": "0", "REQUEST_ID_TRUST": "never"}
    sent = new_id("slow")

    def meet() -> list[Answer]:
        """Take the only place, and ask meanwhile, unless the place is still taken by the request before."""
        with edge.connect() as first:
            first.send(get("/probe/slow?seconds=3", request_id=sent))
            answers = [edge.ask(get("/api/demo")), first.answer()]
        return answers if [answer.status for answer in answers] == [503, 504] else []

    def wait_for_place(request: bytes) -> None:
        wait_for(lambda: edge.ask(request).status == 200, "a free place")

    with Edge(stack, images[0], **variables) as edge:
        second, first = wait_for(meet, "a request that meets another one")
        ids = [check_own_answer(second, 503), check_own_answer(first, 504)]
        wait_for_place(get("/api/demo"))
        ids.append(check_own_answer(edge.ask(build_request("POST", "/probe/upload", body=b"ab")), 413))
        wait_for_place(build_request("POST", "/probe/upload"))
        lines = edge.lines_of(*ids)
        assert [(line["status"], line["upstream_status"]) for line in lines] == [
            (503, ""), (504, "504"), (413, "")]  # fmt: skip
        assert sent.encode() not in edge.output()
        assert stack.wait_for_lines(ids[1], 1, "api")


def test_limit_of_the_rate_of_one_address(stack: Stack, images: list[str]) -> None:
    """Beyond RATE_LIMIT a second: 429. The ID has another header, and a client that claims a proxy sends none."""
    variables = {"RATE_LIMIT": "5", "REQUEST_ID_HEADER": "X-Correlation-ID", "REQUEST_ID_TRUST": "proxies",
                 "TRUSTED_PROXIES": "192.0.2.0/24"}  # fmt: skip
    with Edge(stack, images[0], **variables) as edge:
        time.sleep(1)  # in which the requests of the start no longer count
        sent = new_id("rate")
        request = get("/probe/echo", X_Correlation_ID=sent, X_Forwarded_For="192.0.2.1")
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda _: edge.ask(request), range(30)))
        refused = [answer for answer in answers if answer.status == 429]
        served = [answer for answer in answers if answer.status == 200]
        assert len(served) >= 5
        assert refused
        assert len(served) + len(refused) == len(answers)
        ids = [check_own_answer(answer, 429, header="X-Correlation-ID") for answer in refused]
        for answer in served:
            assert ["x-correlation-id", answer.one("X-Correlation-ID")] in answer.json()["result"]
        assert sent not in {*ids, *(answer.one("X-Correlation-ID") for answer in served)}
        assert {line["status"] for line in edge.lines_of(*ids)} == {429}


def test_body_without_room_on_the_disk_is_500(stack: Stack, images: list[str]) -> None:
    limit = 900_000
    with Edge(stack, images[0], size="2m", MAX_BODY_BYTES=str(limit)) as edge, ExitStack() as bodies:
        for unfinished in [bodies.enter_context(edge.connect()) for _ in range(2)]:
            unfinished.send(build_request("POST", "/probe/upload", body=b"x" * limit)[:-1])
        wait_for(lambda: docker("exec", edge.name, "df", "/tmp").stdout.split()[-2] > "85%", "bodies that arrive")
        data = build_request("POST", "/probe/upload?token=s3cret", body=b"x" * limit)
        request_id = check_own_answer(edge.ask(data), 500)
        assert edge.lines_of(request_id)[0]["query"] == "***"
        assert b"s3cret" not in edge.output() + edge.output(errors=True)
        assert edge.ask(get("/api/demo")).status == 200


def smuggle(edge: Edge, case: Smuggled) -> bytes:
    """Send the bytes of a case, and give the first part of what comes back, and all that follows soon."""
    data = b""
    with edge.connect() as connection, suppress(TimeoutError, ConnectionResetError):
        connection.send(case.data)
        while part := connection.socket.recv(65536):
            data += part
            connection.socket.settimeout(0.5)
    return data


# nginx reads these as one message and the next; it hands each on by itself, with its own length, ID and line.
LENIENT = {"chunk size b'5 5'", "bare LF in head", "chunk ended by LF", "data ended by LF", "trailer without colon",
           "trailer with LF", "trailers that play headers", "extension", "zeros before the size"}  # fmt: skip


def test_service_gets_no_request_that_nginx_does_not_know(edge: Edge, stack: Stack) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda case: smuggle(edge, case), ONE_MESSAGE))
    for case, data in zip(ONE_MESSAGE, answers, strict=True):
        count = data.count(b"HTTP/1.1 ")
        assert count == 1 or (count == 2 and case.name in LENIENT) or b'"code":400' in data, (case, data)
        assert b"HTTP/1.1 5" not in data or data[9:12] in {b"501", b"505"}, (case, data)
    last = edge.ask(get("/api/demo", request_id=new_id("after")))
    stack.wait_for_lines(last.one(), 1, "api")
    known = {line["request_id"] for line in edge.lines() if line["path"] == "/hidden"}
    hidden = {line["request_id"] for line in stack.lines("api") if line.get("path") == "/hidden"}
    assert len(known) <= len(LENIENT)
    assert hidden <= known


def test_stream_arrives_part_by_part(edge: Edge) -> None:
    """The first part is there ten minutes before the second, and is not compressed."""
    with edge.connect() as connection:
        connection.send(get("/probe/stream?seconds=600", Accept_Encoding="gzip"))
        assert b"content-encoding" not in connection._until(b"\r\n\r\n").lower()
        assert b"data: 0" in connection._until(b"\n\n")


def test_large_text_is_compressed(edge: Edge) -> None:
    """It says on what that depends; small answers are not compressed."""
    large = edge.ask(get("/probe/large", Accept_Encoding="gzip"))
    assert large.one("Content-Encoding") == "gzip"
    assert large.one("Vary") == "Accept-Encoding"
    assert gzip.decompress(large.body) == b"x" * 100_000
    assert len(large.body) < 2000
    plain = edge.ask(get("/probe/large"))
    assert plain.all("Content-Encoding") == []
    assert plain.one("Vary") == "Accept-Encoding"
    assert edge.ask(get("/api/demo", Accept_Encoding="gzip")).all("Content-Encoding") == []


def test_websocket_has_the_id_and_one_line(edge: Edge) -> None:
    sent = new_id("socket")
    uri = f"ws://127.0.0.1:{edge.port}/probe/socket"
    with connect(uri, additional_headers={"X-Request-ID": sent}, proxy=None) as websocket:
        assert websocket.response is not None
        assert websocket.response.headers.get_all("X-Request-ID") == [sent]
        assert websocket.recv(timeout=30) == sent
        websocket.send("ä" * 100_000)
        assert websocket.recv(timeout=30) == "ä" * 100_000
    assert edge.lines_of(sent)[0]["status"] == 101


def test_large_bodies_arrive(edge: Edge) -> None:
    body = b"x" * 5_000_000
    assert edge.ask(build_request("POST", "/probe/upload", body=body)).json()["result"] == len(body)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [body[:65536]] * 40) + b"0\r\n\r\n"
    data = build_request("POST", "/probe/upload", [("Transfer-Encoding", "chunked")], chunks)
    assert edge.ask(data).json()["result"] == 40 * 65536
    with edge.connect() as connection:
        connection.send(build_request("POST", "/probe/upload", [("Content-Length", "3"), ("Expect", "100-continue")]))
        assert connection._until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        connection.send(b"abc")
        assert connection.answer().json()["result"] == 3


def echoed(answer: Answer) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in answer.json()["result"]:
        found.setdefault(name, []).append(value)
    return found


CLAIMS = {"X_Forwarded_For": "9.9.9.9", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example",
          "X_Real_IP": "9.9.9.9", "Forwarded": "for=9.9.9.9;proto=https"}  # fmt: skip


def test_forwarded_headers_of_a_client_do_not_count(edge: Edge) -> None:
    answer = edge.ask(get("/probe/echo", Host="a.example:81", **CLAIMS))
    found = echoed(answer)
    assert not re.search("9\\.9\\.9\\.9|evil", repr(found))
    assert found["host"] == found["x-forwarded-host"] == ["a.example:81"]
    assert found["x-forwarded-for"] == found["x-real-ip"] == found[":client"]
    assert found["x-forwarded-proto"] == found[":scheme"] == ["http"]
    assert answer.all("Strict-Transport-Security") == []


def test_forwarded_headers_of_a_trusted_proxy_count(proxied: Edge) -> None:
    """Its ID too; a text line has no port of a client that is known from a header alone."""
    sent, later = new_id("proxied"), new_id("later")
    answer = proxied.ask(get("/probe/echo", request_id=sent, **(CLAIMS | {"X_Forwarded_For": "7.7.7.7, 9.9.9.9"})))
    found = echoed(answer)
    assert found["x-forwarded-for"] == found["x-real-ip"] == found[":client"] == ["9.9.9.9"]
    assert (found[":scheme"], found["x-forwarded-host"], answer.one()) == (["https"], ["evil.example"], sent)
    assert answer.one("Strict-Transport-Security") == "max-age=31536000"
    proxied.ask(get("/probe/echo", request_id=later, X_Forwarded_For="2001:db8::1"))
    wait_for(lambda: later in proxied.output().decode(), "line of the second request")
    text = proxied.output().decode()
    assert re.search(rf'\] {sent} 200 \S+s 9\.9\.9\.9 - "GET /probe/echo HTTP/1\.1" ', text)
    assert re.search(rf'\] {later} 200 \S+s \[2001:db8::1\] - "GET /probe/echo HTTP/1\.1" ', text)


def test_host_comes_from_the_target_or_the_default(edge: Edge) -> None:
    assert echoed(edge.ask(b"GET /probe/echo HTTP/1.0\r\n\r\n"))["host"] == ["localhost"]
    assert echoed(edge.ask(get("http://b.example/probe/echo", Host="b.example")))["host"] == ["b.example"]


def test_hop_by_hop_headers_are_removed(edge: Edge) -> None:
    headers = {"Connection": "close, Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMA", "TE": "a",
               "Keep-Alive": "5", "Proxy-Connection": "close", "Proxy": "evil",
               "Proxy-Authorization": "a", "Trailer": "X"}  # fmt: skip
    found = echoed(edge.ask(build_request("GET", "/probe/echo", headers.items())))
    assert not {name.lower() for name in headers} & (found.keys() - {"connection"})
    assert found.get("connection", ["close"]) == ["close"]


def opened(edge: Edge) -> set[str]:
    """Give nginx's ends of its connections to the service, closed ones for a minute too (TIME_WAIT)."""
    table = must(docker("exec", edge.name, "cat", "/proc/net/tcp")).stdout.splitlines()[1:]
    return {line.split()[1] for line in table if line.split()[2].endswith(":1F40")}  # port 8000


def test_client_connection_is_kept_and_that_to_the_service_where_nginx_can(edges: list[Edge]) -> None:
    for edge in edges:
        before = opened(edge)
        with edge.connect() as connection:
            for _ in range(30):
                assert connection.request("GET", "/api/demo").status == 200
        follows = version_of(edge.image) >= FOLLOWS_NAMES
        assert len(opened(edge) - before) in ((0, 1) if follows else (30,))


def test_client_that_leaves_is_logged_with_499(edge: Edge, stack: Stack) -> None:
    sent = new_id("gone")
    connection = edge.connect()
    connection.send(get("/probe/slow?seconds=20", request_id=sent))
    stack.wait_for_lines(sent, 1, "api")
    connection.abort()
    assert edge.lines_of(sent)[0]["status"] == 499


def kill_workers(stack: Stack) -> None:
    """Kill those that serve, not the master, which replaces them."""
    stack.exec("api", "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")


def hanging(stack: Stack) -> Counter[str]:
    """Count by ID how often the endpoint has begun to serve a request."""
    return Counter(line["request_id"] for line in stack.lines("api") if line.get("message") == "hangs")


def test_request_of_a_killed_worker_is_sent_again_if_that_is_safe(edges: list[Edge], stack: Stack) -> None:
    with ExitStack() as opened:
        sent = [(edge, opened.enter_context(edge.connect()), new_id("hang"), *outcome)
                for edge in edges for outcome in (("POST", 502, 1), ("GET", 200, 2))]  # fmt: skip
        for _, connection, request_id, method, _, _ in sent:
            connection.send(build_request(method, "/probe/hang", request_id=request_id))
        wait_for(lambda: {one[2] for one in sent} <= hanging(stack).keys(), "begin of all requests")
        kill_workers(stack)
        for edge, connection, request_id, _, status, times in sent:
            answer = connection.answer()
            assert (answer.status, answer.one()) == (status, request_id)
            assert edge.lines_of(request_id)[0]["status"] == status
            wait_for(lambda: hanging(stack)[request_id] == times, f"{times} begins of {request_id}")  # noqa: B023


def test_request_that_kills_its_worker_is_sent_twice_at_most(edge: Edge, stack: Stack) -> None:
    sent = new_id("killer")
    assert check_own_answer(edge.ask(get("/probe/die", request_id=sent)), 502) == sent
    wait_for(lambda: edge.ask(get("/readyz")).status == 200, "new workers")
    edge.ask(get("/api/demo", request_id=(after := new_id("after"))))
    stack.wait_for_lines(after, 2, "api")
    assert len([line for line in stack.lines_of(sent, "api") if line.get("message") == "dies"]) == 2


def test_headers_of_the_service_have_precedence(edge: Edge) -> None:
    answer = edge.ask(get("/probe/headers"))
    assert (answer.status, answer.body) == (503, b"as it was sent")
    assert len(answer.one("X-Long")) == 12000
    names = ("X-Frame-Options", "Referrer-Policy", "Retry-After", "X-Content-Type-Options")
    assert [answer.one(name) for name in names] == ["SAMEORIGIN", "origin", "7", "nosniff"]


def test_own_errors_can_be_read_by_pages_of_allowed_origins(lonely: Edge) -> None:
    origin = "https://app.example.org"
    page = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\nOrigin: %b\r\n\r\n"
    answer, stranger = lonely.ask(page % origin.encode()), lonely.ask(page % b"https://evil.example")
    check_own_answer(answer, 413)
    assert answer.one("Access-Control-Allow-Origin") == origin
    assert answer.one("Access-Control-Expose-Headers") == "X-Request-ID"
    assert (answer.one("Access-Control-Allow-Credentials"), answer.one("Vary")) == ("true", "Origin")
    assert stranger.all("Access-Control-Allow-Origin") == []


def test_service_that_is_not_there_is_502_at_once_without_waiting(lonely: Edge) -> None:
    began = time.monotonic()
    check_own_answer(lonely.ask(get("/api/demo")), 502)
    assert time.monotonic() - began < scaled(3)


WAITING = (("GET", "/api/no%2fthing//x?a=%41", b"", 404), ("POST", "/probe/upload", b"x" * 300_000, 200))


@contextmanager
def stopped(stack: Stack) -> Iterator[None]:
    must(stack.compose("stop", "--timeout", "5", "api"))
    try:
        yield
    finally:
        must(stack.compose("start", "api"))


def leave(edge: Edge) -> str:
    """Send a request, and close the connection while it waits; return its ID."""
    with edge.connect() as connection:
        connection.send(get("/api/demo", request_id=(request_id := new_id("left"))))
        check_own_answer(edge.ask(get("/readyz")), 502)
    assert edge.lines_of(request_id)[0]["status"] == 499
    return request_id


def test_requests_wait_for_a_service_that_is_started_again(edges: list[Edge], stack: Stack) -> None:
    """They arrive as they were sent, but for those of clients that have left; health checks do not wait."""
    with ExitStack() as opened:
        sent = [(edge, opened.enter_context(edge.connect()), new_id(), *case) for edge in edges for case in WAITING]
        with stopped(stack):
            for _, connection, request_id, method, target, body, _ in sent:
                connection.send(build_request(method, target, body=body, request_id=request_id))
            left = [leave(edge) for edge in edges]
        for edge, connection, request_id, _, target, body, status in sent:
            answer = connection.answer()
            assert (answer.status, answer.one()) == (status, request_id)
            assert status != 200 or answer.json()["result"] == len(body)
            assert edge.lines_of(request_id)[0]["status"] == status
            assert stack.wait_for_lines(request_id, 1, "api")[-1]["path"] == target.partition("?")[0]
    assert not set(left) & {line.get("request_id") for line in stack.lines("api")}
