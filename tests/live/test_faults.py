"""What an operator does to the running service: no accepted request fails, each has its line, and the exit is clean."""

from __future__ import annotations

import time
from signal import SIGHUP, SIGINT, SIGTTIN, SIGTTOU
from typing import TYPE_CHECKING

import pytest

from tests.support.client import build_request, new_id
from tests.support.faults import HANDSHAKE, check_lines, is_alive, new_workers, serve, wait_count, wait_serving
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
    """Run the service with two workers; each test leaves as many."""
    with serve(project, tmp_path_factory.mktemp("faults"), TIMEOUT="6", GRACEFUL_TIMEOUT="4") as service:
        yield service
        assert service.stop() == 0
        assert "Traceback" not in service.app_text()


def test_term_answers_requests_in_flight(project: Path, tmp_path: Path) -> None:
    """SIGTERM: idle connections and websockets do not delay the exit."""
    ids = [new_id("running") for _ in range(10)]
    socket_id, idle_id = new_id("socket"), new_id("idle")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="15") as service:
        idle, talking = service.connect(), service.connect()
        assert idle.request("GET", "/probe/async", request_id=idle_id).status == 200
        talking.send(build_request("GET", "/probe/ws/echo", HANDSHAKE, request_id=socket_id, close=False))
        assert talking.answer().status == 101
        running = [service.connect() for _ in ids]
        for connection, request_id in zip(running, ids, strict=True):
            connection.send(build_request("GET", "/probe/wait?seconds=2&tell=true", request_id=request_id, close=False))
        wait_for(lambda: service.app_text().count(" waiting") == len(ids), "ten requests in flight")
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < scaled(8)
        answers = [connection.answer() for connection in running]
        assert [(answer.status, answer.one()) for answer in answers] == [(200, one) for one in ids]
        assert idle.rest() == b""
        for connection in (idle, talking, *running):
            connection.close()
        check_lines([service.stdout], [*ids, socket_id, idle_id])
        text = service.app_text()
        assert text.index("Handling signal: term") < text.index(" waited"), "answered before the signal"
        assert "Traceback" not in text


def test_reload_loses_nothing(shared: Service) -> None:
    """SIGHUP twice under load with kept connections: no request fails, and all workers are new each time."""
    with Load(shared.port) as load:
        for _ in range(2):
            old = wait_count(shared, 2)
            shared.signal(SIGHUP)
            new_workers(shared, old, 2)
            load.more(50)
    assert load.failed == []
    assert load.dropped == 0, "a connection in use was closed, and not after a response that says so"
    check_lines([shared.stdout], load.answered)


def test_workers_can_be_added_and_removed(shared: Service) -> None:
    with Load(shared.port) as load:
        for number, count in ((SIGTTIN, 3), (SIGTTOU, 2), (SIGTTOU, 1), (SIGTTIN, 2)):
            shared.signal(number)
            wait_count(shared, count)
            load.more(50)
    assert load.failed == []
    check_lines([shared.stdout], load.answered)


def test_interrupt_cancels_requests_in_flight(project: Path, tmp_path: Path) -> None:
    """SIGINT: what runs is answered with 503 at once, and has its line; the exit is in order."""
    request_id = new_id("cancelled")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="20") as service, service.connect() as connection:
        wait_serving(service, service.workers())
        connection.send(build_request("GET", "/probe/wait?seconds=60&tell=true", request_id=request_id))
        service.app_lines(request_id)
        began = time.monotonic()
        assert service.stop(SIGINT) == 0
        assert time.monotonic() - began < scaled(5)
        answer = connection.answer()
        assert (answer.status, answer.one(), answer.json()["request_id"]) == (503, request_id, request_id)
        line = service.access_line(request_id)
        assert (line.status, line.flags) == (503, ("CancelledError",))
        assert service.app_text().count("Application shutdown complete.") == 2


def test_workers_leave_when_the_master_is_killed(project: Path, tmp_path: Path) -> None:
    with serve(project, tmp_path) as service:
        workers = service.workers()
        service.process.kill()
        service.process.wait(30)
        wait_for(lambda: not any(is_alive(pid) for pid in workers), "the orphans' end")
        with pytest.raises(ConnectionRefusedError):
            service.connect()


def test_workers_are_recycled_without_loss(project: Path, tmp_path: Path) -> None:
    """MAX_REQUESTS under load: workers are replaced, and no request fails."""
    with serve(project, tmp_path, MAX_REQUESTS="60") as service:
        first = service.workers()
        with Load(service.port) as load:
            second = new_workers(service, first, 2)
            new_workers(service, (*first, *second), 2)
            load.more(50)
        assert load.failed == []
        check_lines([service.stdout], load.answered)


def test_worker_with_a_blocked_loop_is_replaced(shared: Service) -> None:
    old = wait_count(shared, 2)
    with shared.connect() as connection:
        connection.send(build_request("GET", "/faults/block?seconds=300", request_id=new_id("blocked")))
        victim = wait_for(lambda: set(old) - set(shared.workers()), "the end of the blocked worker")
        assert len(victim) == 1
        new_workers(shared, victim, 2)
        assert connection.rest() == b""
    assert "in read_block" in shared.app_text()
    assert "WORKER TIMEOUT" in shared.app_text()
    assert shared.request("GET", "/api/demo").status == 200
