"""nginx's access log line has the format and field names of the service's, also for hostile requests."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.live.hostile_cases import C1, EVIL, FORGED, PATHS, SECRET, SECRETS, UNICODE, WORDS, request, request_with_id
from tests.support.client import build_request, new_id
from tests.support.stack import Stack
from tests.support.waiting import wait_for

from .edge import Nginx

pytestmark = pytest.mark.full

SHARED = ("timestamp", "request_id", "method", "path", "query", "http_version", "status", "duration", "bytes", "client",
          "user_agent")  # fmt: skip
PIPE_BUF = 4096


def test_access_log_lines_of_nginx_and_service_agree(nginx: Nginx, stack: Stack) -> None:
    sent = new_id("same")
    nginx.send(build_request("GET", "/probe/echo?a=b&c", [("User-Agent", "one/1.0 (two)")], request_id=sent))
    ours = nginx.lines_of(sent)[0]
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


def test_text_line_is_the_access_log_line_with_upstream_fields(proxied_nginx: Nginx) -> None:
    """Only the configured names are masked; a failed health check is logged."""
    sent = new_id("text")
    proxied_nginx.send(request(b"X-Request-ID: " + sent.encode(), target=b"/api/demo?x=1&token=2"))
    generated = proxied_nginx.send(request(target=b"/livez?a.b=s3cret", host=b"b/c")).header()
    wait_for(lambda: generated in proxied_nginx.output().decode(), "line of the rejected request")
    output = proxied_nginx.output().decode()
    lines = "\n".join(line for line in output.splitlines() if sent in line or generated in line)
    date, client = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\+0000\]", r"\d+\.\d+\.\d+\.\d+:\d+"
    assert re.fullmatch(
        rf'{date} {sent} 200 \d\.\d{{3}}s {client} - "GET /api/demo\?x=1&token=2 HTTP/1\.1" nginx upstream=\S+ \S+s\n'
        rf'{date} {generated} 400 0\.\d{{3}}s {client} - "GET /livez\?\*\*\* HTTP/1\.1" nginx upstream=- -s', lines
    ), lines  # fmt: skip


def check_output(nginx: Nginx) -> None:
    """Check that all lines are ASCII JSON, short enough for an atomic write, without injected text and secrets."""
    output = nginx.output()
    assert not re.search(rb"[^\x20-\x7e\n]", output)
    for line in output.splitlines():
        assert len(line) < PIPE_BUF
        assert json.loads(line)["request_id"] != "forged-id"
    assert EVIL not in output
    assert SECRET not in output
    assert nginx.output(errors=True) == b""


def test_hostile_bytes_do_not_forge_a_log_line(nginx: Nginx) -> None:
    """Each request has exactly one line, for any bytes in target, user agent and other headers."""
    ids, values = [], (*C1, *UNICODE, *WORDS)
    for path in PATHS:
        request_id, data = request_with_id(path)
        response = nginx.send(data)
        assert response.status < 500, path
        if response.body:
            assert response.json()["request_id"] == response.header(), path
        ids.append(response.header())
        assert response.status in {400, 414} or response.header().encode() == request_id
    ids += [nginx.send(request(b"User-Agent: agent" + value, b"Referer: " + EVIL + value)).header() for value in values]
    ids.append(nginx.send(request(b"User-Agent: " + b"agent/1.0" * 500 + EVIL, target=b"/" + b"a" * 6000)).header())
    lines = nginx.lines_of(*ids)
    assert max(len(line["user_agent"]) for line in lines) == 256
    check_output(nginx)


def test_secrets_in_queries_are_masked(nginx: Nginx) -> None:
    places = ((b"/api/demo?", b"a"), (b"/api/demo?", b"a/b"), (b"http://user:" + SECRET + b"@a/?", b"a"))
    sent = [request(target=start + query, host=host) for query in SECRETS for start, host in places]
    assert {line["query"] for line in nginx.lines_of(*(nginx.send(data).header() for data in sent))} == {"***"}
    check_output(nginx)


def test_concurrent_long_lines_are_not_interleaved(nginx_alone: Nginx) -> None:
    target = "/__wait/" + "p" * 5000 + "?" + "q" * 2500

    def send(request_id: str) -> str:
        assert nginx_alone.send(build_request("TRACE", target, request_id=request_id)).status == 405
        return request_id

    with ThreadPoolExecutor(8) as pool:
        nginx_alone.lines_of(*pool.map(send, [new_id("long") for _ in range(1200)]))
    check_output(nginx_alone)
    assert FORGED not in nginx_alone.output()
