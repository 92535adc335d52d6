"""Integrations under gunicorn: start, readiness, failures and shutdown, and what the service reports."""

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

NOT_READY = "broker: The broker at broker:5672 is unavailable."


@pytest.fixture(scope="module")
def integrated(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service and add two integrations."""
    return with_integrations(project, tmp_path_factory.mktemp("integrated"))


@pytest.fixture(scope="module")
def without_marks(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service and add only the integration with the broker."""
    copy = with_integrations(project, tmp_path_factory.mktemp("without_marks"))
    shutil.rmtree(copy / "app" / "integrations" / "marks")
    return copy


@pytest.fixture(scope="module")
def shared(integrated: Path) -> Iterator[Service]:
    """Run the service with two workers; each test leaves both workers running."""
    broker = integrated.parent / "broker"
    with serve(integrated, broker, LOG_FORMAT="json") as service:
        yield service
        assert service.stop() == 0
        assert "Unhandled exception in main loop" not in service.app_text()


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """Create a broker for one test."""
    return new_broker(tmp_path)


def serve(project: Path, broker: Path, workers: int = 2, *, wait: bool = True, **env: str) -> Service:
    """Return the service, which is not started yet."""
    env = {"BROKER_FOLDER": str(broker), **env}
    return Service(project, broker.parent, app="app.main:app", env=env, workers=workers, wait=wait)


def exit_code_of_failed_start(service: Service) -> int:
    """Wait for the exit of the server and return its exit code; no worker may have been restarted."""
    wait_for(lambda: service.process.poll() is not None, "exit of the server")
    assert service.app_text().count("Booting worker") <= 2, "workers were restarted repeatedly"
    return service.process.returncode


def check_ready(service: Service, cause: str) -> None:
    """Request /readyz: response and log have the cause and the ID."""
    request_id, status = new_id("ready"), 503 if cause else 200
    response = service.request("GET", "/readyz", request_id=request_id)
    body = response.json()
    assert (response.status, response.header(), body["request_id"]) == (status, request_id, request_id)
    assert (body["cause"], body["result"]) == (cause, None if cause else "ready")
    messages = [record.message for record in service.app_lines(request_id, 2 if cause else 1)]
    assert messages[0] == "asking the broker"
    assert messages[1:][-1:] == ([f"Not ready: {cause}"] if cause else [])
    if cause:
        assert service.access_line(request_id).status == status
    else:
        assert service.access_records(request_id) == []


def test_readiness_follows_the_broker(shared: Service) -> None:
    """The cause is reported; all other requests are served normally."""
    wait_for_connected_workers(shared, 2)
    broker = shared.project.parent / "broker"
    with Load(shared.port) as load:
        check_ready(shared, "")
        (broker / "up").unlink()
        for _ in range(4):  # both workers
            check_ready(shared, NOT_READY)
        (broker / "up").touch()
        (broker / "crashes").touch()
        check_ready(shared, "broker: The check failed; the log has the traceback.")
        (broker / "crashes").unlink()
        check_ready(shared, "")
        assert shared.request("GET", "/livez").status == 200
    assert load.failed == []


def test_background_task_that_fails_makes_the_service_not_ready(shared: Service) -> None:
    """Each worker logs the failure once, requests are still served, and a reload starts the task again."""
    old = wait_for_connected_workers(shared, 2)
    broker = shared.project.parent / "broker"
    with Load(shared.port) as load:
        (broker / "breaks").touch()
        message = "The integration broker ended unexpectedly"
        wait_for(lambda: shared.app_text().count(message) == 2, "a record of each worker")
        for _ in range(4):
            response = shared.request("GET", "/readyz")
            cause = "broker: Its background work ended unexpectedly: see the log and restart the service."
            assert (response.status, response.json()["cause"]) == (503, cause)
        (broker / "breaks").unlink()
        shared.signal(SIGHUP)
        wait_for_new_workers(shared, old, 2)
        wait_for_connected_workers(shared, 2)
        check_ready(shared, "")
    assert load.failed == []
    errors = [record.exception for record in shared.app_records("-") if record.message == message]
    assert ["ConnectionError: broker:5672 is gone" in text for text in errors] == [True, True]
    assert "did not stop" not in shared.app_text()


def test_failing_child_exit_hook_is_logged(shared: Service) -> None:
    """It affects neither the replacement of a killed worker nor a reload."""
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
    message = "The integration marks failed in child_exit"
    wait_for(lambda: shared.app_text().count(message) == len(marks(broker, "child_exit")), "a record of each failure")
    failures = [record.exception for record in shared.app_records("-") if record.message == message]
    assert {text.splitlines()[-1] for text in failures} == {"TypeError: child_exit is broken"}


def test_each_worker_connects_and_disconnects(integrated: Path, broker: Path) -> None:
    """Every hook runs in the right process, and the exit is clean although a readiness check hung."""
    with serve(integrated, broker, BROKER_SIZE="7", GRACEFUL_TIMEOUT="10") as service:
        workers = set(wait_for_connected_workers(service, 2))
        request_id = new_id("broker")
        assert service.request("GET", "/broker", request_id=request_id).json()["result"] == 7
        assert [record.message for record in service.app_lines(request_id)] == ["asked for the size"]
        (broker / "hangs").touch()
        check_ready(service, "broker: The check timed out after 0.9 seconds.")
        assert service.stop() == 0
        assert service.app_text().count("Integrations: broker, marks.") == 2
        assert not [trace for trace in ("was destroyed", "SIGKILL") if trace in service.app_text()]
    for name in ("on_starting", "when_ready", "on_exit"):
        assert marks(broker, name) == {service.process.pid}, name
    for name in ("post_fork", "disconnected", "atexit", "worker_exit", "child_exit"):
        assert marks(broker, name) == workers, name
    assert not (broker / "master_has_imported_app").exists()


@pytest.mark.parametrize(
    ("server", "variable", "reason"),
    [
        ("gunicorn", "LACK=1", "The module missing_package is not installed"),
        ("uvicorn", "BROKER_SIZE=0", "BROKER_SIZE is '0': Input should be greater than or equal to 1"),
    ],
)
def test_failed_start_logs_the_reason_without_a_traceback(
    without_marks: Path, broker: Path, server: str, variable: str, reason: str
) -> None:
    env = {"BROKER_FOLDER": str(broker), **dict([variable.split("=")])}
    work = broker.parent
    with Service(without_marks, work, server=server, app="app.main:app", env=env, workers=1, wait=False) as service:
        assert exit_code_of_failed_start(service) == 3
        assert service.app_text().count(reason) == 1
        assert "Traceback" not in service.output()


def test_lifespan_that_hangs_at_shutdown_is_cancelled(integrated: Path, broker: Path) -> None:
    (broker / "hangs_during_shutdown").touch()
    with serve(integrated, broker, 1, GRACEFUL_TIMEOUT="6") as service:
        wait_for_connected_workers(service, 1)
        began = time.monotonic()
        assert service.stop() == 0
        assert 2 < time.monotonic() - began < scaled(5)
        assert service.app_text().count("The integration broker did not stop within 3 seconds and was cancelled") == 1
    assert marks(broker, "worker_exit")


def test_worker_may_be_stopped_while_it_starts(without_marks: Path, broker: Path) -> None:
    """By a second SIGHUP or by SIGTERM during `install`: it logs nothing, and only this worker exits."""
    slow = broker / "slow"

    def install(count: int) -> None:
        service.signal(SIGHUP)
        wait_for(lambda: len(marks(broker, "installing")) == count, f"{count} workers in `install`")

    with serve(without_marks, broker, 1) as service:
        slow.touch()
        install(1)
        install(2)
        wait_for(lambda: len(service.workers()) == 2, "exit of the first worker")
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
