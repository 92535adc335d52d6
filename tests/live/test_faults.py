"""Signals and worker restarts: no accepted request fails, each has its access log line, and the exit is clean."""

from __future__ import annotations

import time
from signal import SIGHUP, SIGINT, SIGTTIN, SIGTTOU
from typing import TYPE_CHECKING

import pytest

from tests.support.client import build_request, new_id
from tests.support.faults import (
    HANDSHAKE,
    check_access_lines,
    is_alive,
    serve,
    wait_for_new_workers,
    wait_for_workers,
    wait_until_serving,
)
from tests.support.load import Load
from tests.support.speed import scaled
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.service import Service

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def shared(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with two workers; each test must leave it with two."""
    with serve(project, tmp_path_factory.mktemp("faults"), TIMEOUT="6", GRACEFUL_TIMEOUT="4") as service:
        yield service
        assert service.stop() == 0
        assert "Traceback" not in service.app_text()


def test_sigterm_completes_requests_in_flight(project: Path, tmp_path: Path) -> None:
    """Idle connections and WebSockets do not delay the exit."""
    ids = [new_id("running") for _ in range(10)]
    socket_id, idle_id = new_id("socket"), new_id("idle")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="15") as service:
        idle, websocket = service.connect(), service.connect()
        assert idle.request("GET", "/probe/async", request_id=idle_id).status == 200
        websocket.send(build_request("GET", "/probe/ws/echo", HANDSHAKE, request_id=socket_id, close=False))
        assert websocket.read_response().status == 101
        running = [service.connect() for _ in ids]
        for connection, request_id in zip(running, ids, strict=True):
            connection.send(
                build_request("GET", "/probe/wait?seconds=2&log_start=true", request_id=request_id, close=False)
            )
        wait_for(lambda: service.app_text().count(" waiting") == len(ids), "ten requests in flight")
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < scaled(8)
        responses = [connection.read_response() for connection in running]
        assert [(response.status, response.header()) for response in responses] == [(200, one) for one in ids]
        assert idle.read_to_end() == b""
        for connection in (idle, websocket, *running):
            connection.close()
        check_access_lines([service.stdout], [*ids, socket_id, idle_id])
        text = service.app_text()
        assert text.index("Handling signal: term") < text.index(" waited"), "the response was sent before the signal"
        assert "Traceback" not in text


def test_reload_loses_no_request(shared: Service) -> None:
    """SIGHUP twice under load with keep-alive connections: no request fails, and all workers are replaced."""
    with Load(shared.port) as load:
        for _ in range(2):
            old = wait_for_workers(shared, 2)
            shared.signal(SIGHUP)
            wait_for_new_workers(shared, old, 2)
            load.wait_for_requests(50)
    assert load.failed == []
    assert load.dropped == 0, "a connection was closed without Connection: close in the last response"
    check_access_lines([shared.stdout], load.answered)


def test_workers_can_be_added_and_removed(shared: Service) -> None:
    with Load(shared.port) as load:
        for number, count in ((SIGTTIN, 3), (SIGTTOU, 2), (SIGTTOU, 1), (SIGTTIN, 2)):
            shared.signal(number)
            wait_for_workers(shared, count)
            load.wait_for_requests(50)
    assert load.failed == []
    check_access_lines([shared.stdout], load.answered)


def test_sigint_cancels_requests_in_flight(project: Path, tmp_path: Path) -> None:
    """They get a 503 immediately and an access log line, and the exit code is 0."""
    request_id = new_id("cancelled")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="20") as service, service.connect() as connection:
        wait_until_serving(service, service.workers())
        connection.send(build_request("GET", "/probe/wait?seconds=60&log_start=true", request_id=request_id))
        service.app_lines(request_id)
        began = time.monotonic()
        assert service.stop(SIGINT) == 0
        assert time.monotonic() - began < scaled(5)
        response = connection.read_response()
        assert (response.status, response.header(), response.json()["request_id"]) == (503, request_id, request_id)
        line = service.access_line(request_id)
        assert (line.status, line.flags) == (503, ("CancelledError",))
        assert service.app_text().count("Application shutdown complete.") == 2


def test_workers_exit_when_the_master_is_killed(project: Path, tmp_path: Path) -> None:
    with serve(project, tmp_path) as service:
        workers = service.workers()
        service.process.kill()
        service.process.wait(30)
        wait_for(lambda: not any(is_alive(pid) for pid in workers), "the exit of the orphaned workers")
        with pytest.raises(ConnectionRefusedError):
            service.connect()


def test_max_requests_replaces_workers_without_loss(project: Path, tmp_path: Path) -> None:
    """Under load, no request fails."""
    with serve(project, tmp_path, MAX_REQUESTS="60") as service:
        first = service.workers()
        with Load(service.port) as load:
            second = wait_for_new_workers(service, first, 2)
            wait_for_new_workers(service, (*first, *second), 2)
            load.wait_for_requests(50)
        assert load.failed == []
        check_access_lines([service.stdout], load.answered)


def test_worker_with_a_blocked_event_loop_is_replaced(shared: Service) -> None:
    old = wait_for_workers(shared, 2)
    with shared.connect() as connection:
        connection.send(build_request("GET", "/faults/block?seconds=300", request_id=new_id("blocked")))
        victim = wait_for(lambda: set(old) - set(shared.workers()), "the exit of the blocked worker")
        assert len(victim) == 1
        wait_for_new_workers(shared, victim, 2)
        assert connection.read_to_end() == b""
    assert "in read_block" in shared.app_text()
    assert "WORKER TIMEOUT" in shared.app_text()
    assert shared.request("GET", "/api/demo").status == 200
