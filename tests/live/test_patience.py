"""Where patience ends: with clients that do not read, or do not stop to send, and with a reload that cannot work."""

from __future__ import annotations

import contextlib
import socket
import time
from signal import SIGHUP
from typing import TYPE_CHECKING

import pytest

from tests.support.client import build_request, new_id
from tests.support.faults import check_refusal, new_workers, serve, wait_serving
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

SETTINGS = {"MAX_BODY_BYTES": "1000", "WRITE_TIMEOUT": "1"}
HANDSHAKE = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]


@pytest.fixture(scope="module")
def target(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with little patience; nothing of it ends in a traceback."""
    with serve(project, tmp_path_factory.mktemp("patience"), settings=SETTINGS) as service:
        yield service
        assert "Traceback" not in service.app_text()


def test_upload_that_nobody_reads(target: Service) -> None:
    """Behind an early answer little of a body is taken, and the answer arrives all the same."""
    request_id, sent, piece = new_id("upload"), 0, b"x" * 65536
    with target.connect() as connection:
        headers = [("Content-Length", "10000000000")]
        connection.send(build_request("POST", "/api/demo", headers, request_id=request_id, close=False))
        check_refusal(target, connection.answer(), 413, request_id)
        end = time.monotonic() + 10
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                sent += connection.socket.send(piece)
        assert time.monotonic() < end, f"{sent} bytes were taken"


def test_client_that_does_not_read(target: Service) -> None:
    """A client that takes nothing of its answer is cut off after WRITE_TIMEOUT, and has its line."""
    request_id = new_id("stalled")
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", target.port))
        deaf.sendall(build_request("GET", "/faults/large", request_id=request_id))
        deaf_since = time.monotonic()
        wait_for(lambda: target.access_lines(request_id), "the line of the client that does not read")
        assert time.monotonic() - deaf_since > 0.5
    (line,) = target.access_lines(request_id)
    assert (line.status, "client_disconnect" in line.flags) == (200, True)


def test_upgrade_behind_an_unfinished_request(target: Service) -> None:
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


def test_reload_with_a_bad_value(project: Path, tmp_path: Path) -> None:
    """A value that has become bad does not end a running service: it is told, and the settings stay, the newest."""
    environment = project / ".env"
    with serve(project, tmp_path, log_path=tmp_path / "log") as service:
        try:
            for content in ("LOG_FORMAT=json\n", "LOG_FORMAT=text\nKEEPALIVE=abc\n"):
                old = service.workers()
                environment.write_text(content, "utf-8")
                service.signal(SIGHUP)
                wait_serving(service, new_workers(service, old, 2))
        finally:
            environment.unlink()
        request_id = new_id("after")
        assert service.request("GET", "/api/demo", request_id=request_id).status == 200
        (line,) = wait_for(
            lambda: [row for row in service.access_text().splitlines() if request_id in row], "TODO-WHAT"
        )
        assert line.startswith("{")
        told = (tmp_path / "log" / "error.log").read_text("utf-8")
        assert "The settings stay as they were. The environment variable KEEPALIVE is 'abc'" in told
        assert service.stop() == 0
