"""Integrations under gunicorn: they start, get ready, fail and stop, and the service says so and goes on, or ends."""

from __future__ import annotations

import os
import shutil
import time
from signal import SIGHUP, SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import pytest

from tests.support.client import new_id
from tests.support.faults import marks, new_broker, wait_for_connected_workers, wait_for_new_workers, with_integrations
from tests.support.load import Load
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

NOT_READY = "broker: The broker at broker:5672 does not answer."


@pytest.fixture(scope="module")
def integrated(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service and add two integrations."""
    return with_integrations(project, tmp_path_factory.mktemp("integrated"))


@pytest.fixture(scope="module")
def without_marks(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service and add the integration with the broker alone."""
    copy = with_integrations(project, tmp_path_factory.mktemp("without_marks"))
    shutil.rmtree(copy / "app" / "integrations" / "marks")
    return copy


@pytest.fixture(scope="module")
def shared(integrated: Path) -> Iterator[Service]:
    """Run the service with two workers; each test leaves them whole."""
    broker = integrated.parent / "broker"
    with serve(integrated, broker, LOG_FORMAT="json") as service:
        yield service
        assert service.stop() == 0
        assert "Unhandled exception in main loop" not in service.app_text()


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """Make a broker for one test."""
    return new_broker(tmp_path)


def serve(project: Path, broker: Path, workers: int = 2, *, wait: bool = True, **env: str) -> Service:
    """Return the service; not started yet."""
    env = {"BROKER_FOLDER": str(broker), **env}
    return Service(project, broker.parent, app="app.main:app", env=env, workers=workers, wait=wait)


def failure(service: Service) -> int:
    """Wait until the start has failed, and return the exit code; no worker was started twice."""
    wait_for(lambda: service.process.poll() is not None, "the end of the server")
    assert service.app_text().count("Booting worker") <= 2, "a storm of restarts"
    return service.process.returncode


def ask(service: Service, cause: str) -> None:
    """Ask whether the service is ready: the cause is in response and log, with the ID."""
    request_id, status = new_id("ready"), 503 if cause else 200
    answer = service.request("GET", "/readyz", request_id=request_id)
    body = answer.json()
    assert (answer.status, answer.header(), body["request_id"]) == (status, request_id, request_id)
    assert (body["cause"], body["result"]) == (cause, None if cause else "ready")
    told = [record.message for record in service.app_lines(request_id, 2 if cause else 1)]
    assert told[0] == "asking the broker"
    assert told[1:][-1:] == ([f"Not ready: {cause}"] if cause else [])
    if cause:
        assert service.access_line(request_id).status == status
    else:
        assert service.access_records(request_id) == []


def test_readiness_follows_the_broker(shared: Service) -> None:
    """The cause is reported, and all other requests are served as ever."""
    wait_for_connected_workers(shared, 2)
    broker = shared.project.parent / "broker"
    with Load(shared.port) as load:
        ask(shared, "")
        (broker / "up").unlink()
        for _ in range(4):  # both workers
            ask(shared, NOT_READY)
        (broker / "up").touch()
        (broker / "crashes").touch()
        ask(shared, "broker: The check failed; the log has the traceback.")
        (broker / "crashes").unlink()
        ask(shared, "")
        assert shared.request("GET", "/livez").status == 200
    assert load.failed == []


def test_background_task_that_fails_makes_the_service_not_ready(shared: Service) -> None:
    """Each worker logs it once, all else goes on, and a reload starts it again."""
    old = wait_for_connected_workers(shared, 2)
    broker = shared.project.parent / "broker"
    with Load(shared.port) as load:
        (broker / "breaks").touch()
        told = "The integration broker has ended before its time"
        wait_for(lambda: shared.app_text().count(told) == 2, "a record of each worker")
        for _ in range(4):
            answer = shared.request("GET", "/readyz")
            assert (answer.status, answer.json()["cause"]) == (503, "broker: It has ended; the log says why.")
        (broker / "breaks").unlink()
        shared.signal(SIGHUP)
        wait_for_new_workers(shared, old, 2)
        wait_for_connected_workers(shared, 2)
        ask(shared, "")
    assert load.failed == []
    gone = [record.exception for record in shared.app_records("-") if record.message == told]
    assert ["ConnectionError: broker:5672 is gone" in text for text in gone] == [True, True]
    assert "did not stop" not in shared.app_text()


def test_hook_that_fails_at_a_worker_s_end_is_logged(shared: Service) -> None:
    """A child_exit that fails harms neither the replacement of a worker nor a reload."""
    victim = wait_for_connected_workers(shared, 2)[0]
    broker = shared.project.parent / "broker"
    with Load(shared.port, clients=2) as load:
        os.kill(victim, SIGKILL)
        wait_for_new_workers(shared, [victim], 2)
        load.wait_for_requests(20)
        old = wait_for_connected_workers(shared, 2)
        shared.signal(SIGHUP)
        wait_for_new_workers(shared, old, 2)
        wait_for_connected_workers(shared, 2)
        load.wait_for_requests(20)
    assert len(load.failed) <= 2, load.failed
    for name in ("disconnected", "atexit", "worker_exit"):
        assert marks(broker, name).issuperset(old), f"{name} after SIGHUP"
    wait_for(lambda: marks(broker, "child_exit").issuperset({victim, *old}), "three failures of the hook")
    told = "The integration marks failed in child_exit"
    wait_for(lambda: shared.app_text().count(told) == len(marks(broker, "child_exit")), "a record of each failure")
    failures = [record.exception for record in shared.app_records("-") if record.message == told]
    assert {text.splitlines()[-1] for text in failures} == {"TypeError: child_exit is broken"}


def test_each_worker_connects_and_disconnects(integrated: Path, broker: Path) -> None:
    """Every hook runs in its process; the exit is clean, though a readiness check has hung."""
    with serve(integrated, broker, BROKER_SIZE="7", GRACEFUL_TIMEOUT="10") as service:
        workers = set(wait_for_connected_workers(service, 2))
        request_id = new_id("broker")
        assert service.request("GET", "/broker", request_id=request_id).json()["result"] == 7
        assert [record.message for record in service.app_lines(request_id)] == ["asked for the size"]
        (broker / "hangs").touch()
        ask(service, "broker: The check timed out after 0.9 seconds.")
        assert service.stop() == 0
        assert service.app_text().count("Integrations: broker, marks.") == 2
        assert not [trace for trace in ("was destroyed", "SIGKILL") if trace in service.app_text()]
    for name in ("on_starting", "when_ready", "on_exit"):
        assert marks(broker, name) == {service.process.pid}, name
    for name in ("post_fork", "disconnected", "atexit", "worker_exit", "child_exit"):
        assert marks(broker, name) == workers, name
    assert not (broker / "master_has_imported_app").exists()


@pytest.mark.parametrize(
    ("server", "variable", "told"),
    [
        ("gunicorn", "LACK=1", "It needs package_that_nobody_has, which is not installed"),
        ("uvicorn", "BROKER_SIZE=0", "BROKER_SIZE is '0': Input should be greater than or equal to 1"),
    ],
)
def test_start_that_cannot_work_ends_with_a_sentence(
    without_marks: Path, broker: Path, server: str, variable: str, told: str
) -> None:
    env = {"BROKER_FOLDER": str(broker), **dict([variable.split("=")])}
    work = broker.parent
    with Service(without_marks, work, server=server, app="app.main:app", env=env, workers=1, wait=False) as service:
        assert failure(service) == 3
        assert service.app_text().count(told) == 1
        assert "Traceback" not in service.output()


def test_lifespan_that_hangs_at_the_end_is_cut_off(integrated: Path, broker: Path) -> None:
    (broker / "hangs_on").touch()
    with serve(integrated, broker, 1, GRACEFUL_TIMEOUT="6") as service:
        wait_for_connected_workers(service, 1)
        began = time.monotonic()
        assert service.stop() == 0
        assert 2 < time.monotonic() - began < scaled(5)
        assert service.app_text().count("The integration broker did not stop within 3 seconds, and is cut off") == 1
    assert marks(broker, "worker_exit")


def test_worker_may_be_stopped_while_it_starts(without_marks: Path, broker: Path) -> None:
    """By a second SIGHUP or by SIGTERM, in the midst of `install`: it says nothing and ends nothing but itself."""
    slow = broker / "slow"

    def install(count: int) -> None:
        service.signal(SIGHUP)
        wait_for(lambda: len(marks(broker, "installing")) == count, f"{count} workers in `install`")

    with serve(without_marks, broker, 1) as service:
        slow.touch()
        install(1)
        install(2)
        wait_for(lambda: len(service.workers()) == 2, "the end of the first worker")
        slow.unlink()
        wait_for_connected_workers(service, 1)
        assert service.request("GET", "/livez").status == 200
        slow.touch()
        install(3)
        service.signal(SIGTERM)
        wait_for(lambda: "Handling signal: term" in service.app_text(), "SIGTERM in the master")
        slow.unlink()
        assert service.stop() == 0
        assert "does not start" not in service.app_text()
        assert "SIGKILL" not in service.app_text()
