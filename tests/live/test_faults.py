"""What an operator does to the running service: no accepted request fails, each has its line, and the exit is clean."""

from __future__ import annotations

import os
import time
from signal import SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU
from typing import TYPE_CHECKING

import pytest

from tests.support.client import build_request, new_id
from tests.support.faults import check_lines, is_alive, new_workers, serve, wait_count, wait_serving
from tests.support.load import Load
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

HANDSHAKE = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def test_term_answers_what_runs(project: Path, tmp_path: Path) -> None:
    """SIGTERM: what runs is answered and has its line; idle connections and websockets hold nobody up."""
    ids = [new_id("running") for _ in range(10)]
    socket_id, idle_id = new_id("socket"), new_id("idle")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="15") as service:
        idle, talking = service.connect(), service.connect()
        assert idle.request("GET", "/probe/async", request_id=idle_id).status == 200
        talking.send(build_request("GET", "/probe/ws/echo", HANDSHAKE, request_id=socket_id, close=False))
        assert talking.answer().status == 101
        running = [service.connect() for _ in ids]
        for connection, request_id in zip(running, ids, strict=True):
            connection.send(build_request("GET", "/probe/wait?seconds=1", request_id=request_id, close=False))
        time.sleep(0.2)  # until the requests were read: what still waits in a queue is another test's concern
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 8
        answers = [connection.answer() for connection in running]
        assert [(answer.status, answer.one()) for answer in answers] == [(200, one) for one in ids]
        assert idle.rest() == b""
        for connection in (idle, talking, *running):
            connection.close()
        check_lines([service.stdout], [*ids, socket_id, idle_id])
        assert "Traceback" not in service.app_text()


def test_reload_loses_nothing(project: Path, tmp_path: Path) -> None:
    """Three SIGHUPs under load with kept connections: no request fails, and all workers are new each time."""
    with serve(project, tmp_path) as service:
        with Load(service.port) as load:
            for _ in range(3):
                old = service.workers()
                service.signal(SIGHUP)
                new_workers(service, old, 2)
                load.more(50)
        assert load.failed == []
        check_lines([service.stdout], load.answered)
        assert "Traceback" not in service.app_text()


def test_more_and_fewer_workers(project: Path, tmp_path: Path) -> None:
    """SIGTTIN and SIGTTOU under load: no request fails."""
    with serve(project, tmp_path) as service:
        with Load(service.port) as load:
            for number, count in ((SIGTTIN, 3), (SIGTTOU, 2), (SIGTTOU, 1), (SIGTTIN, 2)):
                service.signal(number)
                wait_count(service, count)
                load.more(50)
        assert load.failed == []
        check_lines([service.stdout], load.answered)


def test_killed_worker(project: Path, tmp_path: Path) -> None:
    """SIGKILL of a worker under load: only what it held is lost, be it an answer or its line; a new one serves."""
    clients = 4
    with serve(project, tmp_path) as service:
        with Load(service.port, clients=clients) as load:
            victim = service.workers()[0]
            os.kill(victim, SIGKILL)
            new_workers(service, [victim], 2)
            load.more(100)
        assert len(load.failed) <= clients, load.failed
        check_lines([service.stdout], load.answered, missing=clients)


@pytest.mark.parametrize("number", [SIGINT, SIGQUIT])
def test_quick_stop(project: Path, tmp_path: Path, number: int) -> None:
    """SIGINT and SIGQUIT: what runs is cancelled at once, answered with 503, and has its line."""
    request_id = new_id("cancelled")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="20") as service, service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=25", request_id=request_id))
        time.sleep(0.2)
        began = time.monotonic()
        assert service.stop(number) == 0
        assert time.monotonic() - began < 5
        answer = connection.answer()
        assert (answer.status, answer.one()) == (503, request_id)
        line = service.access_line(request_id)
        assert (line.status, line.flags) == (503, ("CancelledError",))


def test_killed_master(project: Path, tmp_path: Path) -> None:
    """SIGKILL of the master: the workers notice, and leave the port within seconds."""
    with serve(project, tmp_path) as service:
        workers = service.workers()
        service.process.kill()
        service.process.wait(5)
        wait_for(lambda: not any(is_alive(pid) for pid in workers), "the orphans' end")
        with pytest.raises(ConnectionRefusedError):
            service.connect()


def test_reload_cancels_what_takes_too_long(project: Path, tmp_path: Path) -> None:
    """SIGHUP and a request beyond the grace: 503 with the ID, a flagged line, and the new workers serve meanwhile."""
    request_id = new_id("too-long")
    with serve(project, tmp_path, GRACEFUL_TIMEOUT="4") as service, service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=25", request_id=request_id))
        time.sleep(0.2)
        service.signal(SIGHUP)
        answer = connection.answer()
        assert (answer.status, answer.one()) == (503, request_id)
        assert answer.json()["request_id"] == request_id
        line = service.access_line(request_id)
        assert (line.status, line.flags) == (503, ("CancelledError",))
        assert line.duration < 6
        assert service.request("GET", "/api/demo").status == 200


def test_recycled_workers(project: Path, tmp_path: Path) -> None:
    """MAX_REQUESTS under load: workers are replaced, and no request fails."""
    with serve(project, tmp_path, MAX_REQUESTS="60") as service:
        seen = set(service.workers())
        with Load(service.port) as load:
            for _ in range(8):
                load.more(50)
                seen |= set(service.workers())
        assert load.failed == []
        assert len(seen) >= 4, seen
        check_lines([service.stdout], load.answered)


def test_blocked_loop(project: Path, tmp_path: Path) -> None:
    """A worker whose loop is blocked is killed after TIMEOUT, says where it was, and another one serves."""
    with serve(project, tmp_path, TIMEOUT="2") as service, service.connect() as connection:
        old = service.workers()
        connection.send(build_request("GET", "/faults/block", request_id=new_id("blocked")))
        victim = wait_for(lambda: set(old) - set(service.workers()), "the end of the blocked worker")
        assert len(victim) == 1
        new_workers(service, victim, 2)
        assert connection.rest() == b""
        assert "in read_block" in service.app_text()
        assert "WORKER TIMEOUT" in service.app_text()
        assert service.request("GET", "/api/demo").status == 200


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGQUIT])
def test_exits_in_order(project: Path, tmp_path: Path, number: int) -> None:
    """The lifespan's end, `atexit` and gunicorn's `worker_exit` all run, after SIGHUP as well."""
    marks = tmp_path / "marks"
    with serve(project, tmp_path, marks=marks) as service:
        wait_serving(service, service.workers())
        old = service.workers()
        service.signal(SIGHUP)
        new = new_workers(service, old, 2)
        wait_serving(service, new)
        assert service.stop(number) == 0
        expected = {f"{name}.{pid}" for name in ("lifespan", "atexit", "worker_exit") for pid in (*old, *new)}
        assert expected <= {path.name for path in marks.iterdir()}
