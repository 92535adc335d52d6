"""Deadlines: a slow or silent client is sent away, a slow application or a large body is not; others are served."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Connection, build_request, new_id
from tests.support.faults import check_refusal, open_files, serve
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

SETTINGS = {"HEAD_TIMEOUT": "1", "BODY_TIMEOUT": "1", "KEEPALIVE": "2"}
START = b"GET /api/demo HTTP/1.1\r\nHost: testserver\r\n"


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with short deadlines; at the end every line is one, and nothing has failed."""
    with serve(project, tmp_path_factory.mktemp("deadlines"), settings=SETTINGS) as service:
        yield service
        assert not [line for line in service.access() if line.status == 500]
        assert "Traceback" not in service.app_text()


def closed_after(connection: Connection) -> float:
    """Return the seconds until the peer closes; AssertionError if it sends anything before."""
    began = time.monotonic()
    assert connection.rest() == b""
    return time.monotonic() - began


def test_slow_head(target: Service) -> None:
    """A head that drips is refused with 408 after HEAD_TIMEOUT, and the connection is closed."""
    began = time.monotonic()
    with target.connect() as connection:
        connection.send(START)
        for _ in range(8):
            time.sleep(0.1)
            connection.send(b"X-Drip: 1\r\n")
        check_refusal(target, connection.answer(), 408)
        assert 0.8 < time.monotonic() - began < 2.5
        assert connection.rest() == b""


def test_slow_second_head(target: Service) -> None:
    """The same on a kept connection: the clock begins with the head's first byte."""
    with target.connect() as connection:
        assert connection.request("GET", "/api/demo").status == 200
        time.sleep(0.5)
        began = time.monotonic()
        connection.send(START)
        check_refusal(target, connection.answer(), 408)
        assert 0.8 < time.monotonic() - began < 2.5


def test_silent_connection(target: Service) -> None:
    """A connection that says nothing is closed without a word and without a line."""
    before = len(target.access())
    with target.connect() as connection:
        assert 0.8 < closed_after(connection) < 2.5
    assert len(target.access()) == before


def test_idle_connection(target: Service) -> None:
    """A kept connection without a further request is closed after KEEPALIVE, not before."""
    with target.connect() as connection:
        assert connection.request("GET", "/api/demo").status == 200
        assert 1.8 < closed_after(connection) < 3.5


def test_slow_body(target: Service) -> None:
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
            check_refusal(target, connection.answer(), 408, request_id)
            assert 0.8 < time.monotonic() - began < 2.5
            assert connection.rest() == b""


def test_large_body_at_a_moderate_rate(target: Service) -> None:
    """An upload that takes longer than BODY_TIMEOUT is welcome as long as it moves."""
    size, pieces = 300_000, 20
    with target.connect() as connection:
        connection.send(build_request("POST", "/probe/echo", [("Content-Length", str(size))]))
        for _ in range(pieces):
            time.sleep(0.1)
            connection.send(b"x" * (size // pieces))
        assert connection.answer().json()["result"] == size


@pytest.mark.parametrize("size", [10, 1_500_000])
def test_slow_application(target: Service, size: int) -> None:
    """An application that takes its time to read the body is not the client's fault."""
    answer = target.request("POST", "/faults/lazy?seconds=1.6", body=b"x" * size)
    assert (answer.status, answer.json()["result"]) == (200, size)


def test_client_that_waits_for_100_continue(target: Service) -> None:
    """A client that waits to be asked for its body is not slow while the application does not ask."""
    with target.connect() as connection:
        headers = [("Content-Length", "5"), ("Expect", "100-continue")]
        connection.send(build_request("POST", "/faults/lazy?seconds=1.6", headers))
        assert connection.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.send(b"hello")
        answer = connection.answer()
    assert (answer.status, answer.json().get("result")) == (200, 5)


def test_half_open_connections(target: Service) -> None:
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
    wait_for(lambda: open_files(target.workers()) <= before + 2, "the end of 200 connections")


def test_no_descriptor_is_left(target: Service) -> None:
    """Whatever way a connection ends, its descriptor is closed."""
    wait_for(lambda: target.request("GET", "/api/demo").status == 200, "TODO-WHAT")
    before = open_files(target.workers())
    for number in range(60):
        with target.connect() as connection:
            request = build_request("GET", "/probe/wait?seconds=0.3", request_id=new_id("left"))
            connection.send((request, request[:20], b"GARBAGE\r\n\r\n", START * 50)[number % 4])
            if number % 3:
                connection.abort()
    wait_for(lambda: open_files(target.workers()) <= before + 2, "the end of 60 connections")
