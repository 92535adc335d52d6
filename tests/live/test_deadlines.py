"""Deadlines: a slow or silent client is sent away, a slow application or a large body is not; others are served."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Connection, build_request, new_id
from tests.support.faults import HANDSHAKE, check_refusal, drip, open_files, serve
from tests.support.speed import scaled
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

pytestmark = pytest.mark.full

SETTINGS = {"HEAD_TIMEOUT": "1", "BODY_TIMEOUT": "1", "WRITE_TIMEOUT": "1", "KEEPALIVE": "2"}
START = b"GET /api/demo HTTP/1.1\r\nHost: testserver\r\n"
LAZY = "/faults/lazy?seconds=1.6"


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with short deadlines; at the end every line is one, and nothing has failed."""
    with serve(project, tmp_path_factory.mktemp("deadlines"), settings=SETTINGS) as service:
        yield service
        assert not [line for line in service.access() if line.status == 500]
        assert "Traceback" not in service.app_text()


def check_closed(connection: Connection, began: float, seconds: float) -> None:
    """The peer closes after so many seconds, and sends nothing before."""
    assert connection.rest() == b""
    assert seconds - 0.2 < time.monotonic() - began < scaled(seconds + 1.5)


def check_late(target: Service, connection: Connection, began: float, request_id: str | None = None) -> None:
    """The request is refused with 408 after a second, and the connection is closed."""
    check_refusal(target, connection.answer(), 408, request_id)
    assert 0.8 < time.monotonic() - began < scaled(2.5)
    assert connection.rest() == b""


def test_slow_head_is_refused(target: Service) -> None:
    """A head that drips is 408; the clock begins with its first byte, also on a kept connection."""
    with contextlib.ExitStack() as stack:
        kept = stack.enter_context(target.connect())
        assert kept.request("GET", "/api/demo").status == 200
        time.sleep(0.5)  # which must not count
        began = time.monotonic()
        new = stack.enter_context(target.connect())
        for connection in (kept, new):
            connection.send(START)
        drip(new, b"X-Drip: 1\r\n")
        for connection in (kept, new):
            check_late(target, connection, began)


def test_silent_connections_are_closed(target: Service) -> None:
    """One that says nothing after HEAD_TIMEOUT, without a line; one between requests after KEEPALIVE, not before."""
    request_id = new_id("idle")
    with target.connect() as silent, target.connect() as idle:
        client = "{}:{}".format(*silent.socket.getsockname())
        assert idle.request("GET", "/api/demo", request_id=request_id).status == 200
        began = time.monotonic()
        check_closed(silent, began, 1)
        check_closed(idle, began, 2)
    assert target.access_line(request_id).client != client
    assert client not in {line.client for line in target.access()}


def test_slow_body_is_refused(target: Service) -> None:
    ids = [new_id("stops"), new_id("drips")]
    with target.connect() as stopping, target.connect() as dripping:
        began = time.monotonic()
        for connection, request_id in zip((stopping, dripping), ids, strict=True):
            length = [("Content-Length", "1000")]
            connection.send(build_request("POST", "/probe/echo", length, request_id=request_id, close=False))
        drip(dripping, b"x")
        for connection, request_id in zip((stopping, dripping), ids, strict=True):
            check_late(target, connection, began, request_id)


def test_large_body_at_a_moderate_rate_is_read(target: Service) -> None:
    """An upload that takes longer than BODY_TIMEOUT is welcome as long as it moves."""
    size, pieces = 300_000, 20
    with target.connect() as connection:
        connection.send(build_request("POST", "/probe/echo", [("Content-Length", str(size))]))
        for _ in range(pieces):
            time.sleep(0.1)  # longer than BODY_TIMEOUT all in all
            connection.send(b"x" * (size // pieces))
        assert connection.answer().json()["result"] == size


def test_slow_application_is_waited_for(target: Service) -> None:
    """It may take its time to read a body, small or large, or to ask for it; that is not the client's fault."""
    sizes = (10, 1_500_000)
    asked = [("Content-Length", "5"), ("Expect", "100-continue")]
    with contextlib.ExitStack() as stack:
        *sending, waiting = [stack.enter_context(target.connect()) for _ in (*sizes, 5)]
        waiting.send(build_request("POST", LAZY, asked))
        for connection, size in zip(sending, sizes, strict=True):
            connection.send(build_request("POST", LAZY, body=b"x" * size))
        assert waiting.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        waiting.send(b"hello")
        answers = [connection.answer() for connection in (*sending, waiting)]
    assert [(answer.status, answer.json().get("result")) for answer in answers] == [(200, size) for size in (*sizes, 5)]


def test_half_open_connections_do_not_keep_others_from_being_served(target: Service) -> None:
    before = open_files(target.workers())
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(target.connect()) for _ in range(200)]
        for connection in slow:
            connection.send(START)
        for _ in range(30):
            began = time.monotonic()
            assert target.request("GET", "/api/demo").status == 200
            assert time.monotonic() - began < scaled(1)
        assert {connection.answer().status for connection in slow} == {408}
        assert {connection.rest() for connection in slow} == {b""}
    wait_for(lambda: open_files(target.workers()) <= before + 2, "the end of 200 connections")


def test_no_descriptor_is_left(target: Service) -> None:
    assert target.request("GET", "/api/demo").status == 200
    before = open_files(target.workers())
    for number in range(60):
        with target.connect() as connection:
            request = build_request("GET", "/probe/wait?seconds=0.3", request_id=new_id("left"))
            connection.send((request, request[:20], b"GARBAGE\r\n\r\n", START * 50)[number % 4])
            if number % 3:
                connection.abort()
    wait_for(lambda: open_files(target.workers()) <= before + 2, "the end of 60 connections")


def test_upload_behind_an_early_answer_is_not_read(target: Service) -> None:
    """Little of the body is taken, and the answer arrives all the same."""
    request_id, sent, piece = new_id("upload"), 0, b"x" * 65536
    with target.connect() as connection:
        headers = [("Content-Length", "10000000000")]
        connection.send(build_request("POST", "/api/demo", headers, request_id=request_id, close=False))
        check_refusal(target, connection.answer(), 413, request_id)
        end = time.monotonic() + scaled(10)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                sent += connection.socket.send(piece)
        assert time.monotonic() < end, f"{sent} bytes were taken"


def test_client_that_does_not_read_is_cut_off(target: Service) -> None:
    """A client that takes nothing of its answer has its line after WRITE_TIMEOUT."""
    request_id = new_id("stalled")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", target.port))
        deaf.sendall(build_request("GET", "/faults/large", request_id=request_id))
        deaf_since = time.monotonic()
        line = target.access_line(request_id, timeout=30)
        assert time.monotonic() - deaf_since > 0.5
    assert (line.status, "client_disconnect" in line.flags) == (200, True)


def test_upgrade_behind_an_unfinished_request_is_refused(target: Service) -> None:
    """A websocket does not take the connection away from the answer that is still to come."""
    first, second = new_id("first"), new_id("second")
    data = build_request("GET", "/probe/wait?seconds=0.3", request_id=first, close=False)
    data += build_request("GET", "/probe/ws/echo", HANDSHAKE, request_id=second, close=False)
    with target.connect() as connection:
        connection.send(data)
        answer = connection.answer()
        assert (answer.status, answer.one()) == (200, first)
        check_refusal(target, connection.answer(), 400, second)
        assert connection.rest() == b""
