"""Workers that cannot start: the others serve, gunicorn retries, and the service recovers when the cause is fixed."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from signal import SIGHUP, SIGKILL
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import marks, new_broker, wait_for_connected_workers, wait_for_new_workers, with_integrations
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

PAUSE = 2
RETRY_MESSAGE = f"This worker cannot start; gunicorn retries in {PAUSE} seconds."
# What prevents the start of a worker: a file, and the text that is appended to it.
LIFESPAN = ("broker/refuses", "")
POST_FORK = ("broker/full", "")
SETTING = ("project/.env", "BROKER_SIZE=0\n")
IMPORT = ("project/app/api/demo.py", "pass pass\n")


@contextmanager
def appended(path: Path, text: str) -> Iterator[None]:
    """Append to a file and undo it; its size must change, as Python detects stale bytecode by size and mtime."""
    before = path.read_text("utf-8") if path.exists() else None
    path.write_text((before or "") + text, "utf-8")
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_text(f"{before}\n\n# fixed\n", "utf-8")


@pytest.fixture(scope="module")
def integrated(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service and add integrations."""
    return with_integrations(project, tmp_path_factory.mktemp("respawn"))


@pytest.fixture(scope="module")
def shared(integrated: Path) -> Iterator[Service]:
    """Run the service; each test must leave it running with two workers."""
    with serve(integrated, integrated.parent, integrated.parent / "broker") as service:
        yield service
        assert service.stop() == 0


def serve(project: Path, work: Path, broker: Path, *, workers: int = 2, wait: bool = True) -> Service:
    """Return the service; not started yet."""
    env = {"BROKER_FOLDER": str(broker), "GRACEFUL_TIMEOUT": "10"}
    return Service(project, work, app="app.main:app", env=env, workers=workers, wait=wait)


class StartAttempts:
    """Counts messages about starts of workers that the service logs from now on."""

    def __init__(self, service: Service) -> None:
        self.service, self.began, self.before = service, time.monotonic(), service.app_text()

    def count(self, message: str) -> int:
        """Return how often the service has logged this since the start."""
        return self.service.app_text().count(message) - self.before.count(message)

    def wait(self, failures: int) -> None:
        """Wait until this many starts have failed."""
        wait_for(lambda: self.count(RETRY_MESSAGE) >= failures, f"{failures} workers that cannot start")

    def check(self, workers: int) -> None:
        """Check that each of the workers is started once, and once more after each pause."""
        assert self.count("Booting worker") <= workers * (1 + (time.monotonic() - self.began) / PAUSE)


@pytest.mark.parametrize(("file", "text"), [LIFESPAN, POST_FORK], ids=["lifespan", "post_fork"])
def test_killed_worker_is_replaced_when_workers_can_start_again(shared: Service, file: str, text: str) -> None:
    """Until then the other one serves; only requests of the killed worker are lost."""
    with Load(shared.port) as load:
        victim, other = wait_for_connected_workers(shared, 2)
        tries = StartAttempts(shared)
        with appended(shared.project.parent / file, text):
            os.kill(victim, SIGKILL)
            tries.wait(1)
            load.wait_for_requests(100)
            tries.check(1)
        assert other in wait_for_connected_workers(shared, 2)
        load.wait_for_requests(50)
    assert len(load.failed) <= load.clients, load.failed  # at most one request per connection


@pytest.mark.parametrize(("file", "text"), [SETTING, IMPORT], ids=["setting", "import"])
def test_reload_waits_until_workers_can_start(shared: Service, file: str, text: str) -> None:
    """At SIGHUP, gunicorn stops the old workers even if new ones cannot start: requests wait in the backlog."""
    old = wait_for_connected_workers(shared, 2)
    tries = StartAttempts(shared)
    with Load(shared.port, clients=2, timeout=120) as load:
        with appended(shared.project.parent / file, text):
            shared.signal(SIGHUP)
            tries.wait(3)
            tries.check(2)
        wait_for_new_workers(shared, old, 2)
        wait_for_connected_workers(shared, 2)
        load.wait_for_requests(50)
    assert load.failed == [], load.failed


def test_reload_with_an_invalid_server_py_keeps_the_hooks(shared: Service) -> None:
    """The workers are replaced without loss, and they run the hooks that were loaded before."""
    old = wait_for_connected_workers(shared, 2)
    log = StartAttempts(shared)
    server_py = shared.project / "app" / "integrations" / "marks" / "server.py"
    with Load(shared.port, clients=2) as load, appended(server_py, "def on_exit(server) pass\n"):
        shared.signal(SIGHUP)
        new = wait_for_new_workers(shared, old, 2)
        wait_for_connected_workers(shared, 2)
        load.wait_for_requests(50)
    assert load.failed == []
    assert log.count("The previous hooks of the integrations stay in effect.") == 1
    assert marks(shared.project.parent / "broker", "post_fork").issuperset(new)


def test_worker_that_waits_for_a_retry_stops_immediately(integrated: Path, tmp_path: Path) -> None:
    """SIGTERM ends the pause, and the worker does not fail again."""
    broker = new_broker(tmp_path)
    with serve(integrated, tmp_path, broker, workers=1) as service:
        (worker,) = wait_for_connected_workers(service, 1)
        (broker / "full").touch()
        os.kill(worker, SIGKILL)
        wait_for(lambda: RETRY_MESSAGE in service.app_text(), "a worker that cannot start")
        assert service.stop() == 0
        assert "exited with code" not in service.app_text()


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [(*LIFESPAN, "ConnectionError: connection to broker:5672 refused"), (*IMPORT, "SyntaxError: invalid syntax")],
    ids=["lifespan", "import"],
)
def test_first_start_fails_once_with_several_workers(
    integrated: Path, tmp_path: Path, file: str, text: str, error: str
) -> None:
    """One worker logs the reason, and gunicorn exits with 3; several exits at the same time would make it fail."""
    broker = integrated.parent / "broker"
    with (
        appended(integrated.parent / file, text),
        serve(integrated, tmp_path, broker, workers=4, wait=False) as service,
    ):
        wait_for(lambda: service.process.poll() is not None, "the exit of gunicorn")
        assert service.process.returncode == 3
        output = service.output()
    assert output.count("Reason: Worker failed to boot.") == 1
    assert 1 <= output.count(f"    {error}") <= 4
    # Once in the source line and once in the error; no server repeats it.
    assert output.count("connection to broker:5672 refused") == 2 * output.count("The integration broker did not start")
