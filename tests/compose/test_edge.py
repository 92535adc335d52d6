"""Every answer that nginx gives by itself: the service's envelope, the ID, one line."""

import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.live.smuggling_cases import ONE_MESSAGE, Smuggled
from tests.support.baking import must
from tests.support.client import Answer, Connection, build_request, new_id
from tests.support.stack import Stack, docker
from tests.support.waiting import wait_for

from .edge import FOLLOWS_NAMES, PRIVATE, Edge, check_own_answer, version_of

ID = b"X-Request-ID: %b\r\n"
HOST = b"Host: a\r\n"
CLOSE = b"Connection: close\r\n"

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
    "length and coding": (
        b"POST /a HTTP/1.1\r\n%bHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        400,
        "POST /a - 1.1",
    ),
    "bad chunk": (
        b"POST /a HTTP/1.1\r\n%bHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "POST /a - 1.1",
    ),
    "TRACE": (b"TRACE /a HTTP/1.1\r\n%bHost: a\r\n\r\n", 405, "TRACE /a - 1.1"),
    "unknown method": (b"M-BREW /a HTTP/1.1\r\n%bHost: a\r\n\r\n", 405, "M-BREW /a - 1.1"),
    "length too large": (b"POST /a HTTP/1.1\r\n%bHost: a\r\nContent-Length: 16777217\r\n\r\n", 413, "POST /a - 1.1"),
    "large and patient": (
        b"POST /a HTTP/1.1\r\n%bHost: a\r\nExpect: 100-continue\r\nContent-Length: 16777217\r\n\r\n",
        413,
        "POST /a - 1.1",
    ),
    "chunk too large": (
        b"POST /a HTTP/1.1\r\n%bHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000001\r\nx",
        413,
        "POST /a - 1.1",
    ),
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n%b\r\n", 414, f"GET /{'a' * 1999} - -"),
    "long header": (b"GET /a HTTP/1.1\r\n%bHost: a\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431, "GET /a - 1.1"),
    "many headers": (b"GET /a HTTP/1.1\r\n%bHost: a\r\n" + b"A: b\r\n" * 9000 + b"\r\n", 431, "GET /a - 1.1"),
    "unknown coding": (b"POST /a HTTP/1.1\r\n%bHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "POST /a - 1.1"),
    "version": (b"GET /a HTTP/3.0\r\n" + HOST + b"%b\r\n", 505, "GET /a - 3.0"),
    "internal path": (b"GET /__envelope HTTP/1.1\r\n%bHost: a\r\n\r\n", 404, "GET /__envelope - 1.1"),
    "nobody there": (b"GET /livez?a=b HTTP/1.1\r\n%bHost: a\r\n\r\n", 502, "GET /livez a=b 1.1"),
}
UNREAD = {"no request line", "noise", "TLS", "lower case", "above the root", "bad escape", "password in the target",
          "long target", "version"}  # fmt: skip
"""What is wrong stands before the ID."""


@pytest.mark.parametrize("head", [False, True], ids=["", "HEAD"])
def test_own_answers(lonely: Edge, *, head: bool) -> None:
    """Each comes with the envelope, the ID that came in or a new one, security headers, and has one line."""
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


def test_allowed_methods_are_told(lonely: Edge) -> None:
    """Whoever answers 405 says what is allowed."""
    answer = lonely.ask(b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.one("Allow").startswith("GET, HEAD, POST")


def test_http_0_9(lonely: Edge) -> None:
    """An answer without headers has no ID outside of its body; it is a refusal."""
    with lonely.connect() as connection:
        connection.send(b"GET /a\r\n")
        assert b'"code":400' in connection.rest()


def test_slow_clients(lonely: Edge) -> None:
    """A head or a body that does not arrive is given up after 10 s, with a line; others are served meanwhile."""
    slow = [lonely.connect() for _ in range(200)]
    heads, bodies = new_id("head"), new_id("body")
    began = time.monotonic()
    for connection in slow[2:]:
        connection.send(b"GET / HTTP/1.1\r\nHo")
    slow[0].send(b"GET / HTTP/1.1\r\n" + ID % heads.encode() + b"Ho")
    slow[1].send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n" + ID % bodies.encode() + b"\r\nab")
    check_own_answer(lonely.ask(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"), 502)
    assert time.monotonic() - began < 3
    assert {connection.rest() for connection in slow} == {b""}
    assert 9 < time.monotonic() - began < 20
    assert [line["status"] for line in lonely.lines_of(heads, bodies)] == [408, 408]
    for connection in slow:
        connection.close()


def get(target: str, *, request_id: str = "", **headers: str) -> bytes:
    """Write a GET request that closes."""
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return build_request("GET", target, pairs, request_id=request_id or None)


def test_limits(served: Stack, edge_image: str) -> None:
    """One request at a time, one second for an answer, no body, no ID taken over: 503, 504, 413."""
    variables = {"MAX_CONCURRENCY": "1", "ANSWER_TIMEOUT": "1", "MAX_BODY_BYTES": "0", "REQUEST_ID_TRUST": "never"}
    with Edge(served.project, edge_image, f"{served.name}_default", **variables) as edge, edge.connect() as first:
        sent = new_id("slow")
        # nginx counts a request until it has tidied up after it, a moment after its answer.
        time.sleep(0.3)
        first.send(get("/probe/slow?seconds=3", request_id=sent))
        time.sleep(0.3)
        ids = [check_own_answer(edge.ask(get("/api/demo")), 503)]
        ids.append(check_own_answer(first.answer(), 504))
        wait_for(lambda: edge.ask(get("/api/demo")).status == 200, "a place that is free")
        ids.append(check_own_answer(edge.ask(build_request("POST", "/probe/upload", body=b"ab")), 413))
        wait_for(lambda: edge.ask(build_request("POST", "/probe/upload")).status == 200, "an upload of nothing")
        wait_for(lambda: edge.ask(get("/api/demo")).status == 200, "a place that is free")
        lines = edge.lines_of(*ids)
        assert [(line["status"], line["upstream_status"]) for line in lines] == [
            (503, ""), (504, "504"), (413, "")]  # fmt: skip
        assert sent not in ids
        assert sent.encode() not in edge.output()
        assert len(served.lines_of(ids[1], "api")) >= 1


def test_rate(served: Stack, edge_image: str) -> None:
    """More than RATE_LIMIT a second from one address: 429; the ID has another header, and only proxies may tell it."""
    variables = {"RATE_LIMIT": "5", "REQUEST_ID_HEADER": "X-Correlation-ID", "REQUEST_ID_TRUST": "proxies"}
    with Edge(served.project, edge_image, f"{served.name}_default", **variables) as edge:
        time.sleep(1)
        sent = new_id("rate")
        answers = [edge.ask(get("/probe/echo", X_Correlation_ID=sent)) for _ in range(10)]
        refused = [answer for answer in answers if answer.status == 429]
        assert 2 <= len(refused) <= 5
        ids = [check_own_answer(answer, 429, header="X-Correlation-ID") for answer in refused]
        served_ones = [answer for answer in answers if answer.status == 200]
        for answer in served_ones:
            assert ["x-correlation-id", answer.one("X-Correlation-ID")] in answer.json()["result"]
        assert sent not in {*ids, *(answer.one("X-Correlation-ID") for answer in served_ones)}
        assert {line["status"] for line in edge.lines_of(*ids)} == {429}


def test_disk_full(served: Stack, edge_image: str) -> None:
    """A body for which there is no room: 500 with the envelope, and nobody's secret in the error log."""
    network, limit = f"{served.name}_default", 900_000
    with Edge(served.project, edge_image, network, size="2m", MAX_BODY_BYTES=str(limit)) as edge, ExitStack() as stack:
        for unfinished in [stack.enter_context(edge.connect()) for _ in range(2)]:
            unfinished.send(build_request("POST", "/probe/upload", body=b"x" * limit)[:-1])
        wait_for(lambda: docker("exec", edge.name, "df", "/tmp").stdout.split()[-2] > "85%", "bodies that arrive")
        data = build_request("POST", "/probe/upload?token=s3cret", body=b"x" * limit)
        request_id = check_own_answer(edge.ask(data), 500)
        assert edge.lines_of(request_id)[0]["query"] == "***"
        assert b"s3cret" not in edge.output() + edge.output(errors=True)
        assert edge.ask(get("/api/demo")).status == 200


def smuggle(edge: Edge, case: Smuggled) -> tuple[Smuggled, bytes]:
    """Send the bytes of a case, and give everything that comes back soon."""
    with edge.connect(timeout=0.6) as connection:
        connection.send(case.data)
        data = b""
        try:
            while part := connection.socket.recv(65536):
                data += part
        except (TimeoutError, ConnectionResetError):
            pass
        return case, data


# nginx reads these as one message and the next; it hands each on by itself, with its own length, ID and line.
LENIENT = {"chunk size b'5 5'", "bare LF in head", "chunk ended by LF", "data ended by LF", "trailer without colon",
           "trailer with LF", "trailers that play headers", "extension", "zeros before the size"}  # fmt: skip


def test_smuggling(edge: Edge, served: Stack) -> None:
    """What two readers may understand differently: the service hears of no request that nginx does not know."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda case: smuggle(edge, case), ONE_MESSAGE))
    for case, data in answers:
        count = data.count(b"HTTP/1.1 ")
        assert count == 1 or (count == 2 and case.name in LENIENT) or b'"code":400' in data, (case, data)
        assert b"HTTP/1.1 5" not in data or data[9:12] in {b"501", b"505"}, (case, data)
    last = edge.ask(get("/api/demo", request_id=new_id("after")))
    served.wait_for_lines(last.one(), 1, "api")
    known = {line["request_id"] for line in edge.lines() if line["path"] == "/hidden"}
    hidden = {line["request_id"] for line in served.lines("api") if line.get("path") == "/hidden"}
    assert len(known) <= len(LENIENT)
    assert hidden - {line["request_id"] for line in served.lines("nginx")} <= known | OTHERS_HIDDEN
    OTHERS_HIDDEN.update(known)


OTHERS_HIDDEN: set[str] = set()
"""Those of the other nginx in front of the same service."""


def test_stream_arrives_part_by_part(edge: Edge) -> None:
    """Each part of a stream comes when it is sent, and is not compressed."""
    with edge.connect() as connection:
        began = time.monotonic()
        connection.send(get("/probe/stream?seconds=0.4&parts=3", Accept_Encoding="gzip"))
        seen: list[float] = []
        while connection._fill():
            seen.append(time.monotonic() - began)
        assert b"content-encoding" not in connection._buffer.lower()
    assert len(seen) >= 3
    assert seen[0] < 0.35
    assert seen[-1] > 0.7


def test_compression(edge: Edge) -> None:
    """Text of some size is compressed, once, and says on what that depends; small answers are not."""
    large = edge.ask(get("/probe/large", Accept_Encoding="gzip"))
    assert large.one("Content-Encoding") == "gzip"
    assert large.one("Vary") == "Accept-Encoding"
    assert gzip.decompress(large.body) == b"x" * 100_000
    assert len(large.body) < 2000
    plain = edge.ask(get("/probe/large"))
    assert plain.all("Content-Encoding") == []
    assert plain.one("Vary") == "Accept-Encoding"
    assert edge.ask(get("/api/demo", Accept_Encoding="gzip")).all("Content-Encoding") == []


def test_websocket(edge: Edge) -> None:
    """A websocket works both ways, has the ID, and one line when it is over."""
    sent = new_id("socket")
    uri = f"ws://127.0.0.1:{edge.port}/probe/socket"
    with connect(uri, additional_headers={"X-Request-ID": sent}, proxy=None) as websocket:
        assert websocket.response is not None
        assert websocket.response.headers.get_all("X-Request-ID") == [sent]
        assert websocket.recv(timeout=5) == sent
        websocket.send("ä" * 100_000)
        assert websocket.recv(timeout=5) == "ä" * 100_000
    assert edge.lines_of(sent)[0]["status"] == 101


def test_bodies(edge: Edge) -> None:
    """Some megabytes arrive, with a length, in chunks, and after `100-continue`."""
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
    """Give what has arrived at the service, by name."""
    found: dict[str, list[str]] = {}
    for name, value in answer.json()["result"]:
        found.setdefault(name, []).append(value)
    return found


CLAIMS = {"X_Forwarded_For": "9.9.9.9", "X_Forwarded_Proto": "https", "X_Forwarded_Host": "evil.example",
          "X_Real_IP": "9.9.9.9", "Forwarded": "for=9.9.9.9;proto=https"}  # fmt: skip


def test_claims_of_a_client(edge: Edge) -> None:
    """What a client says of itself does not reach the service; its Host does, with the port."""
    answer = edge.ask(get("/probe/echo", Host="a.example:81", **CLAIMS))
    found = echoed(answer)
    assert "9.9.9.9" not in repr(found)
    assert "evil" not in repr(found)
    assert found["host"] == found["x-forwarded-host"] == ["a.example:81"]
    assert found["x-forwarded-for"] == found["x-real-ip"] == found[":client"]
    assert found["x-forwarded-proto"] == found[":scheme"] == ["http"]
    assert answer.all("Strict-Transport-Security") == []


def test_claims_of_a_proxy(served: Stack, edge_image: str) -> None:
    """What a proxy in TRUSTED_PROXIES says counts, its ID included; the text line has no port that nobody knows."""
    variables = {"TRUSTED_PROXIES": PRIVATE, "REQUEST_ID_TRUST": "proxies", "LOG_FORMAT": "text"}
    with Edge(served.project, edge_image, f"{served.name}_default", **variables) as edge:
        sent = new_id("proxied")
        answer = edge.ask(get("/probe/echo", request_id=sent, **(CLAIMS | {"X_Forwarded_For": "7.7.7.7, 9.9.9.9"})))
        found = echoed(answer)
        assert found["x-forwarded-for"] == found["x-real-ip"] == found[":client"] == ["9.9.9.9"]
        assert (found[":scheme"], found["x-forwarded-host"], answer.one()) == (["https"], ["evil.example"], sent)
        assert answer.one("Strict-Transport-Security") == "max-age=31536000"
        edge.ask(get("/probe/echo", X_Forwarded_For="2001:db8::1"))
        last = 's [2001:db8::1] - "GET /probe/echo HTTP/1.1" '
        wait_for(lambda: last in edge.output().decode(), "line of the second request")
        text = edge.output().decode()
        assert f"] {sent} 200 " in text
        assert 's 9.9.9.9 - "GET /probe/echo HTTP/1.1" ' in text


def test_other_forms(edge: Edge) -> None:
    """HTTP/1.0 without a Host, and a target with a host, which wins."""
    old = edge.ask(b"GET /probe/echo HTTP/1.0\r\n\r\n")
    assert echoed(old)["host"] == ["localhost"]
    found = echoed(edge.ask(get("http://b.example/probe/echo", Host="b.example")))
    assert found["host"] == ["b.example"]


def test_hop_by_hop(edge: Edge) -> None:
    """What is meant for the next hop ends here; nobody gets a switch to HTTP/2 through."""
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


def test_connections_to_the_service(edge: Edge, edge_image: str) -> None:
    """The client's connection is kept; that to the service too, where nginx can."""
    before = opened(edge)
    with edge.connect() as connection:
        for _ in range(30):
            assert connection.request("GET", "/api/demo").status == 200
    follows = version_of(edge_image) >= FOLLOWS_NAMES
    assert len(opened(edge) - before) in ((0, 1) if follows else (30,))


def test_client_gone(edge: Edge) -> None:
    """A client that leaves before its answer has a line that says so."""
    sent = new_id("gone")
    connection = edge.connect()
    connection.send(get("/probe/slow?seconds=2", request_id=sent))
    time.sleep(0.3)
    connection.abort()
    assert edge.lines_of(sent)[0]["status"] == 499


def kill_workers(served: Stack) -> None:
    """Kill those that serve, not the master, which replaces them."""
    script = "import os,glob\nfor p in glob.glob('/proc/[0-9]*/stat'):\n f=open(p).read().rsplit(')',1)[1].split()\n"
    served.exec("api", "python", "-c", script + " if f[1]=='1' and p!='/proc/1/stat': os.kill(int(p.split('/')[2]),9)")


def begins(served: Stack, request_id: str) -> int:
    """Tell how often the endpoint has begun to serve a request."""
    return sum(line.get("message") == "slow begins" for line in served.lines_of(request_id, "api"))


def test_worker_killed(edge: Edge, served: Stack) -> None:
    """A POST that has begun is not sent twice: 502 at once; a GET is, and succeeds."""
    ids = {method: new_id(method.lower()) for method in ("POST", "GET")}
    connections: dict[str, Connection] = {method: edge.connect() for method in ids}
    for method, connection in connections.items():
        connection.send(build_request(method, "/probe/slow?seconds=1.5", request_id=ids[method]))
    wait_for(lambda: all(begins(served, one) == 1 for one in ids.values()), "begin of both")
    kill_workers(served)
    killed = time.monotonic()
    assert check_own_answer(connections["POST"].answer(), 502) == ids["POST"]
    assert time.monotonic() - killed < 1.5
    answer = connections["GET"].answer()
    assert (answer.status, answer.one()) == (200, ids["GET"])
    assert [line["status"] for line in edge.lines_of(*ids.values())] == [502, 200]
    assert (begins(served, ids["POST"]), begins(served, ids["GET"])) == (1, 2)
    for connection in connections.values():
        connection.close()


def test_request_that_kills(edge: Edge, served: Stack) -> None:
    """Who dies of a request is not asked again and again: it is sent twice at most, and then it is 502."""
    sent = new_id("killer")
    began = time.monotonic()
    assert check_own_answer(edge.ask(get("/probe/die", request_id=sent)), 502) == sent
    assert time.monotonic() - began < 5
    assert len([line for line in served.lines_of(sent, "api") if line.get("message") == "dies"]) == 2
    wait_for(lambda: edge.ask(get("/readyz")).status == 200, "workers in their place")


def test_headers_of_the_service(edge: Edge) -> None:
    """A long header gets through; the service's own words count, once; it cannot have nginx read something else."""
    answer = edge.ask(get("/probe/headers?size=12000"))
    assert (answer.status, answer.body) == (503, b"as it was sent")
    assert len(answer.one("X-Long")) == 12000
    told = [
        answer.one(name) for name in ("X-Frame-Options", "Referrer-Policy", "Retry-After", "X-Content-Type-Options")
    ]
    assert told == ["SAMEORIGIN", "origin", "7", "nosniff"]


def test_browsers_may_read_errors(composed: Path, edge_image: str) -> None:
    """An error of nginx itself can be read by pages of the origins that may read the service's answers."""
    origin, page = (
        "https://app.example.org",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\nOrigin: %b\r\n\r\n",
    )
    with Edge(composed, edge_image, None, CORS_ORIGINS=f"https://b.example, {origin}") as edge:
        answer, stranger = edge.ask(page % origin.encode()), edge.ask(page % b"https://evil.example")
    check_own_answer(answer, 413)
    assert answer.one("Access-Control-Allow-Origin") == origin
    assert answer.one("Access-Control-Expose-Headers") == "X-Request-ID"
    assert (answer.one("Access-Control-Allow-Credentials"), answer.one("Vary")) == ("true", "Origin")
    assert stranger.all("Access-Control-Allow-Origin") == []


def test_nobody_waits_where_that_is_wanted(composed: Path, edge_image: str) -> None:
    """Without waiting, a service that is not there is 502 at once."""
    with Edge(composed, edge_image, None, WAIT_FOR_SERVICE="false") as edge:
        began = time.monotonic()
        check_own_answer(edge.ask(get("/api/demo")), 502)
        assert time.monotonic() - began < 3


def test_waiting_for_the_service(edge: Edge, served: Stack) -> None:
    """Requests wait while nobody serves, and arrive as they were sent; who asks for the state does not wait."""
    served.compose("stop", "--timeout", "5", "api")
    get_id, post_id, gone_id = new_id("get"), new_id("post"), new_id("gone")
    with edge.connect() as first, edge.connect() as second:
        first.send(build_request("GET", "/api/no%2fthing//x?a=%41", request_id=get_id))
        second.send(build_request("POST", "/probe/upload", body=b"x" * 300_000, request_id=post_id))
        third = edge.connect()
        third.send(build_request("GET", "/api/demo", request_id=gone_id))
        check_own_answer(edge.ask(get("/readyz")), 502)
        third.abort()
        assert edge.lines_of(gone_id)[0]["status"] == 499
        served.compose("start", "api")
        answers = [first.answer(), second.answer()]
    assert [(answer.status, answer.one()) for answer in answers] == [(404, get_id), (200, post_id)]
    assert answers[1].json()["result"] == 300_000
    assert [line["status"] for line in edge.lines_of(get_id, post_id)] == [404, 200]
    assert served.wait_for_lines(get_id, 1, "api")[-1]["path"] == "/api/no%2fthing//x"
    assert len(served.lines_of(gone_id, "api")) == 0
