"""Timeouts: slow and silent clients are disconnected; a slow application or a large body is not a timeout."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.client import Connection, build_request, new_id
from tests.support.faults import HANDSHAKE, check_refusal, open_files, send_slowly, serve
from tests.support.speed import scaled
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

pytestmark = pytest.mark.full

SETTINGS = {"HEAD_TIMEOUT": "1", "BODY_TIMEOUT": "1", "WRITE_TIMEOUT": "1", "KEEPALIVE": "2"}
START = b"GET /api/demo HTTP/1.1\r\nHost: testserver\r\n"
SLOW_READER = "/faults/lazy?seconds=1.6"


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with short timeouts; at the end, check that all lines are valid and nothing has failed."""
    with serve(project, tmp_path_factory.mktemp("deadlines"), settings=SETTINGS) as service:
        yield service
        assert not [line for line in service.access() if line.status == 500]
        assert "Traceback" not in service.app_text()


def check_closed(connection: Connection, began: float, seconds: float) -> None:
    """Check that the server closes the connection after `seconds`, and sends nothing before."""
    assert connection.read_to_end() == b""
    assert seconds - 0.2 < time.monotonic() - began < scaled(seconds + 1.5)


def check_timeout(target: Service, connection: Connection, began: float, request_id: str | None = None) -> None:
    """Check that the request is refused with 408 after a second, and the connection closed."""
    check_refusal(target, connection.read_response(), 408, request_id)
    assert 0.8 < time.monotonic() - began < scaled(2.5)
    assert connection.read_to_end() == b""


def test_slow_head_is_refused(target: Service) -> None:
    """With 408; on a kept-alive connection, the timeout starts with the first byte of the head."""
    with contextlib.ExitStack() as stack:
        used = stack.enter_context(target.connect())
        assert used.request("GET", "/api/demo").status == 200
        time.sleep(0.5)  # idle time, which must not count
        began = time.monotonic()
        new = stack.enter_context(target.connect())
        for connection in (used, new):
            connection.send(START)
        send_slowly(new, b"X-Drip: 1\r\n")
        for connection in (used, new):
            check_timeout(target, connection, began)


def test_silent_connections_are_closed(target: Service) -> None:
    """After HEAD_TIMEOUT without any request, and without an access log line; after KEEPALIVE between requests."""
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
        send_slowly(dripping, b"x")
        for connection, request_id in zip((stopping, dripping), ids, strict=True):
            check_timeout(target, connection, began, request_id)


def test_large_body_at_a_moderate_rate_is_read(target: Service) -> None:
    """An upload may take longer than BODY_TIMEOUT while data arrives at the minimum rate."""
    size, pieces = 300_000, 20
    with target.connect() as connection:
        connection.send(build_request("POST", "/probe/echo", [("Content-Length", str(size))]))
        for _ in range(pieces):
            time.sleep(0.1)  # longer than BODY_TIMEOUT in total
            connection.send(b"x" * (size // pieces))
        assert connection.read_response().json()["result"] == size


def test_slow_application_is_not_a_timeout(target: Service) -> None:
    """The application may read a small or large body late, or send 100 Continue late; the client is not to blame."""
    sizes = (10, 1_500_000)
    headers = [("Content-Length", "5"), ("Expect", "100-continue")]
    with contextlib.ExitStack() as stack:
        *sending, waiting = [stack.enter_context(target.connect()) for _ in (*sizes, 5)]
        waiting.send(build_request("POST", SLOW_READER, headers))
        for connection, size in zip(sending, sizes, strict=True):
            connection.send(build_request("POST", SLOW_READER, body=b"x" * size))
        assert waiting.socket.recv(100).startswith(b"HTTP/1.1 100 ")
        waiting.send(b"hello")
        responses = [connection.read_response() for connection in (*sending, waiting)]
    assert [(response.status, response.json().get("result")) for response in responses] == [
        (200, size) for size in (*sizes, 5)
    ]


def test_half_open_connections_do_not_block_other_requests(target: Service) -> None:
    before = open_files(target.workers())
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(target.connect()) for _ in range(200)]
        for connection in slow:
            connection.send(START)
        for _ in range(30):
            began = time.monotonic()
            assert target.request("GET", "/api/demo").status == 200
            assert time.monotonic() - began < scaled(1)
        assert {connection.read_response().status for connection in slow} == {408}
        assert {connection.read_to_end() for connection in slow} == {b""}
    wait_for(lambda: open_files(target.workers()) <= before + 2, "the end of 200 connections")


def test_no_file_descriptor_is_leaked(target: Service) -> None:
    assert target.request("GET", "/api/demo").status == 200
    before = open_files(target.workers())
    for number in range(60):
        with target.connect() as connection:
            request = build_request("GET", "/probe/wait?seconds=0.3", request_id=new_id("aborted"))
            connection.send((request, request[:20], b"GARBAGE\r\n\r\n", START * 50)[number % 4])
            if number % 3:
                connection.abort()
    wait_for(lambda: open_files(target.workers()) <= before + 2, "the end of 60 connections")


def test_rest_of_an_upload_after_an_early_response_is_not_read(target: Service) -> None:
    """The server reads little of the body, and the client still receives the response."""
    request_id, sent, piece = new_id("upload"), 0, b"x" * 65536
    with target.connect() as connection:
        headers = [("Content-Length", "10000000000")]
        connection.send(build_request("POST", "/api/demo", headers, request_id=request_id, close=False))
        check_refusal(target, connection.read_response(), 413, request_id)
        end = time.monotonic() + scaled(10)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                sent += connection.socket.send(piece)
        assert time.monotonic() < end, f"{sent} bytes were accepted"


def test_client_that_does_not_read_is_disconnected(target: Service) -> None:
    """The request of a client that does not read the response is logged after WRITE_TIMEOUT."""
    request_id = new_id("stalled")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", target.port))
        client.sendall(build_request("GET", "/faults/large", request_id=request_id))
        started = time.monotonic()
        line = target.access_line(request_id, timeout=30)
        assert time.monotonic() - started > 0.5
    assert (line.status, "client_disconnect" in line.flags) == (200, True)


def test_websocket_handshake_after_an_unfinished_request_is_refused(target: Service) -> None:
    """The response to the earlier request is still sent."""
    first, second = new_id("first"), new_id("second")
    data = build_request("GET", "/probe/wait?seconds=0.3", request_id=first, close=False)
    data += build_request("GET", "/probe/ws/echo", HANDSHAKE, request_id=second, close=False)
    with target.connect() as connection:
        connection.send(data)
        response = connection.read_response()
        assert (response.status, response.header()) == (200, first)
        check_refusal(target, connection.read_response(), 400, second)
        assert connection.read_to_end() == b""
