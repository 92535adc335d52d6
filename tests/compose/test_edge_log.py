"""nginx's access line: that of the service in form and names, whatever bytes a client sends."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

from tests.live.hostile_cases import C1, EVIL, FORGED, PATHS, SECRET, SECRETS, UNICODE, WORDS, request, tagged
from tests.support.client import build_request, new_id
from tests.support.stack import Stack

from .edge import Edge

SHARED = ("timestamp", "request_id", "method", "path", "query", "http_version", "status", "duration", "bytes", "client",
          "user_agent")  # fmt: skip
PIPE_BUF = 4096


def test_same_fields_as_the_service(edge: Edge, served: Stack) -> None:
    """The two lines of a request agree, in names, types and values."""
    sent = new_id("same")
    edge.ask(build_request("GET", "/probe/echo?a=b&c", [("User-Agent", "one/1.0 (two)")], request_id=sent))
    ours = edge.lines_of(sent)[0]
    theirs = next(line for line in served.wait_for_lines(sent, 1, "api") if "path" in line)
    assert list(ours)[:2] == ["timestamp", "logger"]
    assert set(SHARED) <= ours.keys() & theirs.keys()
    for name in SHARED:
        assert type(ours[name]) is type(theirs[name]), name
        if name not in ("timestamp", "duration", "client"):
            assert ours[name] == theirs[name], name
    assert re.sub(r"\d", "0", ours["timestamp"]) == re.sub(r"\d", "0", theirs["timestamp"])
    assert ours["client"].partition(":")[0] == theirs["client"]
    assert (ours["upstream_status"], ours["upstream"][-5:]) == ("200", ":8000")
    assert 0 <= ours["upstream_time"] <= ours["duration"] + 0.002


def test_text_form(served: Stack, edge_image: str) -> None:
    """The text line is the service's, with what nginx adds behind it."""
    with Edge(served.project, edge_image, f"{served.name}_default", LOG_FORMAT="text", MASKED_QUERY="a.b") as edge:
        sent = new_id("text")
        edge.ask(request(b"X-Request-ID: " + sent.encode(), target=b"/api/demo?x=1&token=2"))
        edge.ask(request(target=b"/livez?a.b=s3cret", host=b"b/c"))
        edge.ask(request(target=b"/livez"))
        # Whoever waited for the start may have asked before the service's address was known.
        lines = [line for line in edge.output().decode().splitlines() if " 502 " not in line]
    moment = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\+0000\]"
    client = r"\d+\.\d+\.\d+\.\d+:\d+"
    first = (
        rf'{moment} {sent} 200 \d\.\d{{3}}s {client} - "GET /api/demo\?x=1&token=2 HTTP/1\.1" nginx upstream=\S+ \S+s'
    )
    second = rf'{moment} \S+ 400 0\.\d{{3}}s {client} - "GET /livez\?\*\*\* HTTP/1\.1" nginx upstream=- -s'
    assert len(lines) == 2, lines
    assert re.fullmatch(first, lines[0]), lines
    assert re.fullmatch(second, lines[1]), lines


def check_output(edge: Edge) -> None:
    """All lines are JSON, in ASCII, short enough to be written in one piece; nothing that was sent shows."""
    output = edge.output()
    assert not re.search(rb"[^\x20-\x7e\n]", output)
    for line in output.splitlines():
        assert len(line) < PIPE_BUF
        assert json.loads(line)["request_id"] != "forged-id"
    assert EVIL not in output
    assert SECRET not in output
    assert edge.output(errors=True) == b""


def test_hostile_bytes(edge: Edge) -> None:
    """Targets, agents and headers with any bytes: one line each, which no byte of theirs ends or opens."""
    ids, bad = [], (*C1, *UNICODE, *WORDS)
    for path in PATHS:
        request_id, data = tagged(path)
        answer = edge.ask(data)
        assert answer.status < 500, path
        if answer.body:
            assert answer.json()["request_id"] == answer.one(), path
        ids.append(answer.one())
        assert answer.status in {400, 414} or answer.one().encode() == request_id
    ids += [edge.ask(request(b"User-Agent: agent" + value, b"Referer: " + EVIL + value)).one() for value in bad]
    ids.append(edge.ask(request(b"User-Agent: " + b"agent/1.0" * 500 + EVIL, target=b"/" + b"a" * 6000)).one())
    lines = edge.lines_of(*ids)
    assert max(len(line["user_agent"]) for line in lines) == 256
    check_output(edge)


def test_secrets(edge: Edge) -> None:
    """Values of parameters with a telling name stay out, of refused requests too."""
    ids = []
    for query in SECRETS:
        ids.append(edge.ask(request(target=b"/api/demo?" + query)).one())
        ids.append(edge.ask(request(target=b"/api/demo?" + query, host=b"a/b")).one())
        ids.append(edge.ask(request(target=b"http://user:" + SECRET + b"@a/?" + query)).one())
    assert {line["query"] for line in edge.lines_of(*ids)} == {"***"}
    check_output(edge)


def test_health_leaves_no_line(edge: Edge) -> None:
    """Health checks that succeed are not logged; those that fail are."""
    good = [edge.ask(build_request("GET", path, request_id=new_id())).one() for path in ("/livez", "/readyz?a=b")]
    bad = edge.ask(build_request("POST", "/livez", request_id=new_id("bad"))).one()
    edge.lines_of(bad)
    assert not {line["request_id"] for line in edge.lines()} & set(good)


def test_lines_are_not_torn(lonely: Edge) -> None:
    """Many clients with long targets at a time: each line comes in one piece, and none is lost."""
    target = "/__wait/" + "p" * 5000 + "?" + "q" * 2500

    def send_many(label: str) -> list[str]:
        ids = [new_id(label) for _ in range(150)]
        with lonely.connect() as connection:
            for request_id in ids:
                connection.send(build_request("TRACE", target, request_id=request_id, close=False))
                assert connection.answer().status == 405
                connection.close()
                connection.__init__(lonely.port)  # type: ignore[misc]
        return ids

    with ThreadPoolExecutor(8) as pool:
        ids = [one for part in pool.map(send_many, [f"torn{number}" for number in range(8)]) for one in part]
    lonely.lines_of(*ids)
    check_output(lonely)
    assert FORGED not in lonely.output()
