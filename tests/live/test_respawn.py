"""A worker that cannot be replaced: the others serve, gunicorn tries again, and all is well when the cause is gone."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from signal import SIGHUP, SIGKILL
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import marks, new_broker, new_workers, wait_connected, with_integrations
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.full

PAUSE = 2
AGAIN = f"This worker cannot start; the next try is in {PAUSE} seconds."
# What keeps a worker from its start: a file beside the project, and what is added to it.
LIFESPAN = ("broker/refuses", "")
POST_FORK = ("broker/full", "")
SETTING = ("project/.env", "BROKER_SIZE=0\n")
IMPORT = ("project/app/api/demo.py", "pass pass\n")


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """Add to a file, and undo it; the file gets another size, since stale bytecode is known by size and second."""
    before = path.read_text("utf-8") if path.exists() else None
    path.write_text((before or "") + text, "utf-8")
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_text(f"{before}\n\n# mended\n", "utf-8")


@pytest.fixture(scope="module")
def integrated(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service and add integrations."""
    return with_integrations(project, tmp_path_factory.mktemp("respawn"))


@pytest.fixture(scope="module")
def shared(integrated: Path) -> Iterator[Service]:
    """Run the service; each test leaves it whole."""
    with serve(integrated, integrated.parent, integrated.parent / "broker") as service:
        yield service
        assert service.stop() == 0


def serve(project: Path, work: Path, broker: Path, *, workers: int = 2, wait: bool = True) -> Service:
    """Return the service; not started yet."""
    env = {"BROKER_FOLDER": str(broker), "GRACEFUL_TIMEOUT": "10"}
    return Service(project, work, app="app.main:app", env=env, workers=workers, wait=wait)


class Tries:
    """Counts what workers of a service try from now on."""

    def __init__(self, service: Service) -> None:
        self.service, self.began, self.before = service, time.monotonic(), service.app_text()

    def count(self, what: str) -> int:
        """Return how often the service has logged this."""
        return self.service.app_text().count(what) - self.before.count(what)

    def wait(self, failures: int) -> None:
        """Wait until so many have failed."""
        wait_for(lambda: self.count(AGAIN) >= failures, f"{failures} workers that cannot start")

    def check(self, workers: int) -> None:
        """There is no storm of restarts: each of so many workers is tried once, and once more after each pause."""
        assert self.count("Booting worker") <= workers * (1 + (time.monotonic() - self.began) / PAUSE)


@pytest.mark.parametrize(("file", "text"), [LIFESPAN, POST_FORK], ids=["lifespan", "post_fork"])
def test_killed_worker_is_replaced_when_it_can_start(shared: Service, file: str, text: str) -> None:
    """Until then the other one serves, with no request lost but those that the killed one held."""
    with Load(shared.port) as load:
        victim, other = wait_connected(shared, 2)
        tries = Tries(shared)
        with changed(shared.project.parent / file, text):
            os.kill(victim, SIGKILL)
            tries.wait(1)
            load.more(100)
            tries.check(1)
        assert other in wait_connected(shared, 2)
        load.more(50)
    assert len(load.failed) <= load.clients, load.failed  # one request at most on each connection


@pytest.mark.parametrize(("file", "text"), [SETTING, IMPORT], ids=["setting", "import"])
def test_reload_waits_until_workers_can_start(shared: Service, file: str, text: str) -> None:
    """At SIGHUP gunicorn stops the old workers whatever becomes of the new: requests wait on the open port."""
    old = wait_connected(shared, 2)
    tries = Tries(shared)
    with Load(shared.port, clients=2, patience=120) as load:
        with changed(shared.project.parent / file, text):
            shared.signal(SIGHUP)
            tries.wait(3)
            tries.check(2)
        new_workers(shared, old, 2)
        wait_connected(shared, 2)
        load.more(50)
    assert load.failed == [], load.failed


def test_reload_with_a_broken_server_py_keeps_the_hooks(shared: Service) -> None:
    """The workers are replaced, no request is lost, and the hooks that were loaded last run in the new ones."""
    old = wait_connected(shared, 2)
    said = Tries(shared)
    broken = shared.project / "app" / "integrations" / "marks" / "server.py"
    with Load(shared.port, clients=2) as load, changed(broken, "def on_exit(server) pass\n"):
        shared.signal(SIGHUP)
        new = new_workers(shared, old, 2)
        wait_connected(shared, 2)
        load.more(50)
    assert load.failed == []
    assert said.count("The hooks of the integrations stay as they were.") == 1
    assert marks(shared.project.parent / "broker", "post_fork").issuperset(new)


def test_worker_that_waits_for_its_next_try_stops_at_once(integrated: Path, tmp_path: Path) -> None:
    """SIGTERM ends the pause, and the worker does not fail once more."""
    broker = new_broker(tmp_path)
    with serve(integrated, tmp_path, broker, workers=1) as service:
        (worker,) = wait_connected(service, 1)
        (broker / "full").touch()
        os.kill(worker, SIGKILL)
        wait_for(lambda: AGAIN in service.app_text(), "a worker that cannot start")
        assert service.stop() == 0
        assert "exited with code" not in service.app_text()


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [(*LIFESPAN, "ConnectionError: nobody answers at broker:5672"), (*IMPORT, "SyntaxError: invalid syntax")],
    ids=["lifespan", "import"],
)
def test_first_start_fails_once_for_many_workers(
    integrated: Path, tmp_path: Path, file: str, text: str, error: str
) -> None:
    """One worker says why, and gunicorn ends with 3; it would stumble over several that end at the same time."""
    broker = integrated.parent / "broker"
    with changed(integrated.parent / file, text), serve(integrated, tmp_path, broker, workers=4, wait=False) as service:
        wait_for(lambda: service.process.poll() is not None, "the end of gunicorn")
        assert service.process.returncode == 3
        output = service.output()
    assert output.count("Reason: Worker failed to boot.") == 1
    assert 1 <= output.count(f"    {error}") <= 4
    # In the source line and in the error, and no server repeats it.
    assert output.count("nobody answers") == 2 * output.count("The integration broker did not start")
