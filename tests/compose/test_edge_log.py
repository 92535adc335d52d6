"""nginx's access line: that of the service in form and names, whatever bytes a client sends."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live.hostile_cases import C1, EVIL, FORGED, PATHS, SECRET, SECRETS, UNICODE, WORDS, request, tagged
from tests.support.client import build_request, new_id
from tests.support.stack import Stack
from tests.support.waiting import wait_for

from .edge import Edge

pytestmark = pytest.mark.full

SHARED = ("timestamp", "request_id", "method", "path", "query", "http_version", "status", "duration", "bytes", "client",
          "user_agent")  # fmt: skip
PIPE_BUF = 4096


def test_line_of_the_edge_agrees_with_the_access_line(edge: Edge, stack: Stack) -> None:
    sent = new_id("same")
    edge.ask(build_request("GET", "/probe/echo?a=b&c", [("User-Agent", "one/1.0 (two)")], request_id=sent))
    ours = edge.lines_of(sent)[0]
    theirs = next(line for line in stack.wait_for_lines(sent, 1, "api") if "path" in line)
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


def test_text_line_is_the_access_line_and_what_nginx_adds(proxied: Edge) -> None:
    """Masked are the configured names alone, and a health check that fails is logged."""
    sent = new_id("text")
    proxied.ask(request(b"X-Request-ID: " + sent.encode(), target=b"/api/demo?x=1&token=2"))
    made = proxied.ask(request(target=b"/livez?a.b=s3cret", host=b"b/c")).one()
    wait_for(lambda: made in proxied.output().decode(), "line of the refused request")
    lines = "\n".join(line for line in proxied.output().decode().splitlines() if sent in line or made in line)
    date, client = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\+0000\]", r"\d+\.\d+\.\d+\.\d+:\d+"
    assert re.fullmatch(
        rf'{date} {sent} 200 \d\.\d{{3}}s {client} - "GET /api/demo\?x=1&token=2 HTTP/1\.1" nginx upstream=\S+ \S+s\n'
        rf'{date} {made} 400 0\.\d{{3}}s {client} - "GET /livez\?\*\*\* HTTP/1\.1" nginx upstream=- -s', lines
    ), lines  # fmt: skip


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


def test_hostile_bytes_do_not_forge_a_line(edge: Edge) -> None:
    """Whatever bytes targets, agents and headers have, each request has one line."""
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


def test_secrets_in_queries_are_masked(edge: Edge) -> None:
    places = ((b"/api/demo?", b"a"), (b"/api/demo?", b"a/b"), (b"http://user:" + SECRET + b"@a/?", b"a"))
    sent = [request(target=start + query, host=host) for query in SECRETS for start, host in places]
    assert {line["query"] for line in edge.lines_of(*(edge.ask(data).one() for data in sent))} == {"***"}
    check_output(edge)


def test_long_lines_of_many_clients_are_whole(lonely: Edge) -> None:
    target = "/__wait/" + "p" * 5000 + "?" + "q" * 2500

    def send(request_id: str) -> str:
        assert lonely.ask(build_request("TRACE", target, request_id=request_id)).status == 405
        return request_id

    with ThreadPoolExecutor(8) as pool:
        lonely.lines_of(*pool.map(send, [new_id("whole") for _ in range(1200)]))
    check_output(lonely)
    assert FORGED not in lonely.output()
