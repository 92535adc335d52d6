"""A worker that cannot be replaced: the others serve, gunicorn tries again, and all is well when the cause is gone."""

from __future__ import annotations

import os
import shutil
import time
from signal import SIGHUP, SIGKILL, SIGTERM
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import new_workers
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AGAIN = "This worker cannot start; the next try is in 2 seconds."
HOOKS = """
import os
from pathlib import Path

def post_fork(server, worker):
    if (Path(os.environ["BROKER_FOLDER"]) / "full").exists():
        raise OSError("no room for a worker")
"""
BROKER = """
import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

from app.settings import EnvironmentSettings
from pydantic import Field
from pydantic_settings import SettingsConfigDict

FOLDER = Path(os.environ["BROKER_FOLDER"])

class SETTINGS(EnvironmentSettings):
    model_config = SettingsConfigDict(env_prefix="BROKER_")
    size: int = Field(1, ge=1, description="connections to the broker")

def install(app, settings):
    pass

@asynccontextmanager
async def lifespan(app):
    if (FOLDER / "refuses").exists():
        raise ConnectionError("nobody answers at broker:5672")
    (FOLDER / f"connected.{os.getpid()}").touch()
    yield
"""
STUBBORN = """
import contextlib

async def ready():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
"""


@pytest.fixture
def integrated(project: Path, tmp_path: Path) -> Path:
    """Copy the service, in the environment that it has, and give it an integration with a server.py."""
    shutil.copytree(project, copy := tmp_path / "project", ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    (copy / ".venv").symlink_to(project / ".venv")
    folder = copy / "app" / "integrations" / "broker"
    folder.mkdir()
    (folder / "__init__.py").write_text(BROKER)
    (folder / "server.py").write_text(HOOKS)
    (tmp_path / "broker").mkdir()
    return copy


def serve(project: Path, *, workers: int = 2, **env: str) -> Service:
    """Return the service itself; not started yet."""
    env = {"BROKER_FOLDER": str(project.parent / "broker"), "GRACEFUL_TIMEOUT": "10", **env}
    return Service(project, project.parent, app="app.main:app", env=env, workers=workers)


def is_down(project: Path) -> Callable[[], None]:
    """Let the lifespan fail, and return what mends it."""
    (project.parent / "broker" / "refuses").touch()
    return (project.parent / "broker" / "refuses").unlink


def is_full(project: Path) -> Callable[[], None]:
    """Let post_fork fail."""
    (project.parent / "broker" / "full").touch()
    return (project.parent / "broker" / "full").unlink


def has_a_bad_setting(project: Path) -> Callable[[], None]:
    """Let the settings of the integration fail."""
    (project / ".env").write_text("BROKER_SIZE=0\n")
    return (project / ".env").unlink


def has_a_typo(project: Path) -> Callable[[], None]:
    """Let the import of the application fail."""
    return spoil(project / "app" / "api" / "demo.py", "pass pass\n")


def spoil(path: Path, text: str) -> Callable[[], None]:
    """Write nonsense at the end of a file."""
    good = path.read_text("utf-8")
    path.write_text(good + text, "utf-8")
    # Another size, and so no stale bytecode: two writes may fall into one tick of the clock.

    def mend() -> None:
        path.write_text(f"{good}\n\n# mended\n", "utf-8")

    return mend


def connected(service: Service, project: Path, count: int) -> None:
    """Wait until there are so many workers, and each of them has started."""
    folder = project.parent / "broker"

    def look() -> bool:
        workers = service.workers()
        return len(workers) == count and all((folder / f"connected.{pid}").exists() for pid in workers)

    wait_for(look, f"{count} workers that are connected")


FAULTS = pytest.mark.parametrize("breaks", [is_down, is_full, has_a_bad_setting, has_a_typo])


def tries(service: Service, count: int) -> None:
    """Wait until a worker has failed so many times."""
    wait_for(lambda: service.app_text().count(AGAIN) >= count, f"{count} tries")


@FAULTS
def test_killed_worker(integrated: Path, breaks: Callable[[Path], Callable[[], None]]) -> None:
    """The other worker serves, with no request lost but those that the killed one held, until there are two again."""
    with serve(integrated) as service, Load(service.port) as load:
        connected(service, integrated, 2)  # one that has not started yet would end gunicorn
        victim, other = service.workers()
        mend = breaks(integrated)
        os.kill(victim, SIGKILL)
        tries(service, 2)
        load.more(100)
        assert other in service.workers()
        mend()
        connected(service, integrated, 2)
        load.more(100)
        assert other in service.workers()
        assert len(load.failed) <= 4, load.failed  # one request at most on each connection
        assert service.app_text().count("Booting worker") <= 6, "a storm of restarts"
        assert service.stop() == 0


@FAULTS
def test_reload(integrated: Path, breaks: Callable[[Path], Callable[[], None]]) -> None:
    """At SIGHUP gunicorn tells the old ones to leave whatever becomes of the new: whoever comes waits, and is served.

    What the old ones held is answered; the port stays open; no restart is needed when the cause is gone.
    """
    with serve(integrated) as service:
        connected(service, integrated, 2)
        old = service.workers()
        with Load(service.port, clients=2) as load:
            mend = breaks(integrated)
            service.signal(SIGHUP)
            tries(service, 4)
            assert service.process.poll() is None
            answered = len(load.answered)
            mend()
            new_workers(service, old, 2)
            connected(service, integrated, 2)
            load.more(50)
        assert len(load.answered) > answered
        assert load.failed == [], load.failed
        assert service.app_text().count("Booting worker") <= 12, "a storm of restarts"
        assert service.stop() == 0


def test_reload_with_more_workers(integrated: Path) -> None:
    """The number of workers at the start counts, not the one that a reload brings."""
    (integrated / ".env").write_text("WORKERS=1\n")
    service = serve(integrated)
    del service.env["WORKERS"]
    with service:
        connected(service, integrated, 1)
        mend = is_down(integrated)
        (integrated / ".env").write_text("WORKERS=4\n")
        service.signal(SIGHUP)
        tries(service, 4)
        mend()
        connected(service, integrated, 4)
        assert service.stop() == 0


@pytest.mark.parametrize("breaks", [is_down, is_full])
def test_stop_while_one_waits(integrated: Path, breaks: Callable[[Path], Callable[[], None]]) -> None:
    """SIGTERM ends a worker that waits for its next try at once."""
    with serve(integrated, workers=1) as service:
        connected(service, integrated, 1)
        breaks(integrated)
        os.kill(service.workers()[0], SIGKILL)
        tries(service, 1)
        began = time.monotonic()
        assert service.stop(SIGTERM) == 0
        assert time.monotonic() - began < 1.2


@pytest.mark.parametrize("text", ["def on_exit(server) pass\n", "def on_start(server): pass\n", "on_exit = None\n"])
def test_reload_with_a_broken_server_py(integrated: Path, text: str) -> None:
    """The hooks stay as they were, and say so."""
    with serve(integrated) as service:
        connected(service, integrated, 2)
        old = service.workers()
        with Load(service.port, clients=2) as load:
            spoil(integrated / "app" / "integrations" / "broker" / "server.py", text)
            service.signal(SIGHUP)
            new_workers(service, old, 2)
            load.more(50)
        assert load.failed == []
        assert service.app_text().count("The hooks of the integrations stay as they were.") == 1
        connected(service, integrated, 2)
        is_full(integrated)
        os.kill(service.workers()[0], SIGKILL)
        wait_for(lambda: "The integration broker failed in post_fork" in service.app_text(), "TODO-WHAT")
        assert service.stop() == 0


def test_check_that_heeds_nothing(integrated: Path) -> None:
    """A readiness check that cannot be cancelled holds neither the answer nor the stop."""
    path = integrated / "app" / "integrations" / "broker" / "__init__.py"
    spoil(path, STUBBORN)
    with serve(integrated) as service:
        assert [service.request("GET", "/readyz").status for _ in range(3)] == [503] * 3
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 4
        assert "was destroyed" not in service.app_text()
        assert "SIGKILL" not in service.app_text()


@pytest.mark.parametrize("breaks", [is_down, has_a_typo])
def test_first_start_of_many(integrated: Path, breaks: Callable[[Path], Callable[[], None]]) -> None:
    """One worker says why, and gunicorn ends with 3; it would stumble over several that end at the same time."""
    breaks(integrated)
    for _ in range(3):
        service = serve(integrated, workers=4)
        service._wait = False
        with service:
            assert service.process.wait(30) == 3
            assert "HaltServer" not in service.output()
            assert service.output().count("Reason: Worker failed to boot.") == 1
