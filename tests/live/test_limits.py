"""Limits and deadlines: what is too large, too much or too slow is answered by the server, as everything else is."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from .client import Answer, Connection, build_request, new_id
from .faults_tools import open_files, serve
from .logs import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .harness import LiveService

LINE, FIELDS, HEAD, BODY = 1000, 20, 4096, 2_000_000
SETTINGS = {
    "LIMIT_REQUEST_LINE": str(LINE),
    "LIMIT_REQUEST_FIELDS": str(FIELDS),
    "LIMIT_REQUEST_HEAD": str(HEAD),
    "MAX_BODY_BYTES": str(BODY),
    "HEAD_TIMEOUT": "1",
    "BODY_TIMEOUT": "1",
    "KEEPALIVE": "2",
}
START = b"GET /api/demo HTTP/1.1\r\nHost: testserver\r\n"


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """Run the service with small limits; at the end every line is one, and nothing has failed."""
    with serve(project, tmp_path_factory.mktemp("limits"), settings=SETTINGS) as service:
        yield service
        assert not [line for line in service.access() if line.status == 500]
        assert "Traceback" not in service.app_text()


def check(service: LiveService, answer: Answer, status: int, request_id: str | None = None) -> None:
    """The answer has the status, the envelope and an ID, and that ID has exactly one line."""
    assert answer.status == status, answer
    assert request_id in (None, answer.one())
    envelope = answer.json()
    assert (envelope["code"], envelope["message"], envelope["request_id"]) == (status, "failed", answer.one())
    assert envelope["cause"]
    assert answer.one("content-type") == "application/json"
    assert service.access_line(answer.one()).status == status


def closed_after(connection: Connection) -> float:
    """Return the seconds until the peer closes; AssertionError if it sends anything before."""
    began = time.monotonic()
    assert connection.rest() == b""
    return time.monotonic() - began


def test_request_line(target: LiveService) -> None:
    """A target of the limit passes, one more byte is refused with 414."""
    path = "/" + "a" * (LINE - 1)
    assert target.request("GET", path).status == 404
    request_id = new_id("line")
    check(target, target.request("GET", path + "a", request_id=request_id), 414)
    check(target, target.raw(b"GET /" + b"a" * 1_000_000), 414)


def test_header_count(target: LiveService) -> None:
    """As many lines as the limit pass, one more is refused with 431."""
    many = [(f"X-{number}", "1") for number in range(FIELDS - 2)]
    assert target.request("GET", "/api/demo", many).status == 200
    check(target, target.request("GET", "/api/demo", [*many, ("X-One-More", "1")]), 431)


LARGE = {
    "value": b"X-Large: %b\r\n\r\n" % (b"a" * HEAD),
    "endless value": b"X-Large: " + b"a" * 1_000_000,
    "name": b"X-%b: 1\r\n\r\n" % (b"a" * HEAD),
    "endless name": b"X-" + b"a" * 1_000_000,
}


@pytest.mark.parametrize("lines", LARGE.values(), ids=LARGE)
def test_header_bytes(target: LiveService, lines: bytes) -> None:
    """One header line beyond the limit is refused with 431, be it complete or not."""
    check(target, target.raw(START + lines), 431)


def test_head_in_pieces(target: LiveService) -> None:
    """A head within the limit is welcome in whatever pieces it arrives."""
    request_id = new_id("pieces")
    lines = [(f"X-{number}", "a" * 300) for number in range(10)]
    data = build_request("GET", "/api/demo", lines, request_id=request_id)
    with target.connect() as connection:
        for start in range(0, len(data), 100):
            connection.send(data[start : start + 100])
            time.sleep(0.003)
        answer = connection.answer()
    assert (answer.status, answer.one()) == (200, request_id)


def test_many_small_headers(target: LiveService) -> None:
    """Lines that together are beyond the limit are refused with 431, the ID in front of them is kept."""
    request_id = new_id("many")
    lines = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 400) for number in range(12))
    check(target, target.raw(START + f"X-Request-ID: {request_id}\r\n".encode() + lines), 431, request_id)


def test_endless_header_dripped(target: LiveService) -> None:
    """A header line that never ends, in pieces, is refused as soon as it is beyond the limits."""
    with target.connect() as connection:
        connection.send(START + b"X-Endless: ")
        for _ in range(40):
            time.sleep(0.005)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(b"a" * 400)
        check(target, connection.answer(), 431)


def test_body_by_length(target: LiveService) -> None:
    """A length beyond the limit is refused with 413, before the body and after it."""
    request_id = new_id("length")
    head = build_request("POST", "/probe/echo", [("Content-Length", str(BODY + 1))], request_id=request_id)
    check(target, target.raw(head, "POST"), 413, request_id)
    huge = build_request("POST", "/probe/echo", [("Content-Length", "9" * 18)])
    check(target, target.raw(huge, "POST"), 413)
    assert target.request("POST", "/probe/echo", body=b"x" * BODY).json()["result"] == BODY


def test_body_in_chunks(target: LiveService) -> None:
    """Chunks that are together beyond the limit are refused with 413."""
    request_id = new_id("chunks")
    body = b"%x\r\n%b\r\n" % (BODY // 2, b"x" * (BODY // 2)) * 3
    with target.connect() as connection:
        headers = [("Transfer-Encoding", "chunked")]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(build_request("POST", "/probe/echo", headers, body, request_id=request_id))
        check(target, connection.answer("POST"), 413, request_id)


def test_slow_head(target: LiveService) -> None:
    """A head that drips is refused with 408 after HEAD_TIMEOUT, and the connection is closed."""
    began = time.monotonic()
    with target.connect() as connection:
        connection.send(START)
        for _ in range(8):
            time.sleep(0.1)
            connection.send(b"X-Drip: 1\r\n")
        check(target, connection.answer(), 408)
        assert 0.8 < time.monotonic() - began < 2.5
        assert connection.rest() == b""


def test_slow_second_head(target: LiveService) -> None:
    """The same on a kept connection: the clock begins with the head's first byte."""
    with target.connect() as connection:
        assert connection.request("GET", "/api/demo").status == 200
        time.sleep(0.5)
        began = time.monotonic()
        connection.send(START)
        check(target, connection.answer(), 408)
        assert 0.8 < time.monotonic() - began < 2.5


def test_silent_connection(target: LiveService) -> None:
    """A connection that says nothing is closed without a word and without a line."""
    before = len(target.access())
    with target.connect() as connection:
        assert 0.8 < closed_after(connection) < 2.5
    assert len(target.access()) == before


def test_idle_connection(target: LiveService) -> None:
    """A kept connection without a further request is closed after KEEPALIVE, not before."""
    with target.connect() as connection:
        assert connection.request("GET", "/api/demo").status == 200
        assert 1.8 < closed_after(connection) < 3.5


def test_slow_body(target: LiveService) -> None:
    """A body that stops, or drips, is refused with 408 by whoever reads it; the connection is closed."""
    for size in (0, 3):
        request_id = new_id("slow-body")
        began = time.monotonic()
        with target.connect() as connection:
            head = build_request(
                "POST", "/probe/echo", [("Content-Length", "1000")], request_id=request_id, close=False
            )
            connection.send(head)
            for _ in range(size):
                time.sleep(0.1)
                connection.send(b"x")
            check(target, connection.answer(), 408, request_id)
            assert 0.8 < time.monotonic() - began < 2.5
            assert connection.rest() == b""


def test_large_body_at_a_moderate_rate(target: LiveService) -> None:
    """An upload that takes longer than BODY_TIMEOUT is welcome as long as it moves."""
    size, pieces = 300_000, 20
    with target.connect() as connection:
        connection.send(build_request("POST", "/probe/echo", [("Content-Length", str(size))]))
        for _ in range(pieces):
            time.sleep(0.1)
            connection.send(b"x" * (size // pieces))
        assert connection.answer().json()["result"] == size


@pytest.mark.parametrize("size", [10, 1_500_000])
def test_slow_application(target: LiveService, size: int) -> None:
    """An application that takes its time to read the body is not the client's fault."""
    answer = target.request("POST", "/faults/lazy?seconds=1.6", body=b"x" * size)
    assert (answer.status, answer.json()["result"]) == (200, size)


def test_client_that_waits_for_100_continue(target: LiveService) -> None:
    """A client that waits to be asked for its body is not slow while the application does not ask."""
    with target.connect() as connection:
        headers = [("Content-Length", "5"), ("Expect", "100-continue")]
        connection.send(build_request("POST", "/faults/lazy?seconds=1.6", headers))
        assert connection.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.send(b"hello")
        answer = connection.answer()
    assert (answer.status, answer.json().get("result")) == (200, 5)


def test_half_open_connections(target: LiveService) -> None:
    """200 connections that never finish their head do not keep others from being served; all are closed."""
    before = open_files(target.workers())
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(target.connect()) for _ in range(200)]
        for connection in slow:
            connection.send(START)
        for _ in range(30):
            began = time.monotonic()
            assert target.request("GET", "/api/demo").status == 200
            assert time.monotonic() - began < 1
        assert {connection.answer().status for connection in slow} == {408}
        assert {connection.rest() for connection in slow} == {b""}
    wait_for(lambda: open_files(target.workers()) <= before + 2, 5, "the end of 200 connections")


def test_no_descriptor_is_left(target: LiveService) -> None:
    """Whatever way a connection ends, its descriptor is closed."""
    wait_for(lambda: target.request("GET", "/api/demo").status == 200)
    before = open_files(target.workers())
    for number in range(60):
        with target.connect() as connection:
            request = build_request("GET", "/probe/wait?seconds=0.3", request_id=new_id("left"))
            connection.send((request, request[:20], b"GARBAGE\r\n\r\n", START * 50)[number % 4])
            if number % 3:
                connection.abort()
    wait_for(lambda: open_files(target.workers()) <= before + 2, 5, "the end of 60 connections")


def test_concurrency(project: Path, tmp_path: Path) -> None:
    """Requests beyond LIMIT_CONCURRENCY are answered with 503 at once; idle connections do not count."""
    with serve(project, tmp_path, workers=1, LIMIT_CONCURRENCY="2") as service, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(service.connect()) for _ in range(5)]
        assert {connection.request("GET", "/api/demo").status for connection in idle} == {200}
        busy = [stack.enter_context(service.connect()) for _ in range(2)]
        for connection in busy:
            connection.send(build_request("GET", "/probe/wait?seconds=1"))
        time.sleep(0.2)
        request_id = new_id("busy")
        check(service, service.request("GET", "/api/demo", request_id=request_id), 503, request_id)
        assert {connection.answer().status for connection in busy} == {200}
        assert service.request("GET", "/api/demo").status == 200
