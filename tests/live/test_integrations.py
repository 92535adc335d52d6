"""Integrations under gunicorn: they start, get ready, fail and stop, and the service says so and goes on, or ends."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, Signals

import pytest

from tests.support.client import new_id
from tests.support.faults import new_workers
from tests.support.load import Load
from tests.support.service import Service
from tests.support.waiting import wait_for

HERE = Path(__file__).parent
NOT_READY = "broker: The broker at broker:5672 does not answer."


@pytest.fixture(scope="module")
def integrated(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service, in the environment that it has, and give it two integrations."""
    copy = tmp_path_factory.mktemp("integrated") / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    (copy / ".venv").symlink_to(project / ".venv")
    for name, files in {"broker": {"__init__": "broker"}, "marks": {"server": "hooks"}}.items():
        folder = copy / "app" / "integrations" / name
        folder.mkdir()
        (folder / "__init__.py").write_text("def install(app, settings): pass\n")
        for file, probe in files.items():
            shutil.copy(HERE / f"{probe}_probe.py", folder / f"{file}.py")
    return copy


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """Make the folder that stands for the broker; it answers."""
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "up").touch()
    return folder


def serve(project: Path, broker: Path, workers: int = 2, *, wait: bool = True, **env: str) -> Service:
    """Return the service itself; not started yet."""
    env = {"BROKER_FOLDER": str(broker), **env}
    return Service(project, broker.parent, app="app.main:app", env=env, workers=workers, wait=wait)


def without_marks(integrated: Path, broker: Path) -> Path:
    """Return a copy of the service that has the broker only."""
    shutil.copytree(integrated, project := broker.parent / "project", symlinks=True)
    shutil.rmtree(project / "app" / "integrations" / "marks")
    return project


def marks(broker: Path, name: str) -> set[int]:
    """Return the processes that have left a mark of this name."""
    return {int(path.suffix[1:]) for path in broker.glob(f"{name}.*")}


def failure(service: Service) -> int:
    """Wait until the start has failed, and return the exit code; no worker was started twice."""
    code = service.process.wait(20)
    assert service.app_text().count("Booting worker") <= 2, "a storm of restarts"
    return code


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_ready_and_not_ready(integrated: Path, broker: Path, log_format: str) -> None:
    """/readyz follows the broker, with the ID in each place, while all other requests are served as ever."""
    with serve(integrated, broker, LOG_FORMAT=log_format) as service, Load(service.port) as load:

        def ask(status: int, cause: str) -> None:
            request_id = new_id("ready")
            began = time.monotonic()
            answer = service.request("GET", "/readyz", request_id=request_id)
            assert time.monotonic() - began < 2
            body = answer.json()
            assert (answer.status, answer.one(), body["request_id"]) == (status, request_id, request_id)
            assert (body["cause"], body["result"]) == (cause, None if cause else "ready")
            told = [record.message for record in service.app_lines(request_id, 2 if cause else 1)]
            assert told[0] == "asking the broker"
            assert told[1:][-1:] == ([f"Not ready: {cause}"] if cause else [])
            if cause:
                assert service.access_line(request_id).status == status
            else:
                assert service.access_records(request_id) == []

        ask(200, "")
        (broker / "up").unlink()
        for _ in range(4):  # both workers
            ask(503, NOT_READY)
        (broker / "up").touch()
        (broker / "hangs").touch()
        ask(503, "broker: It did not answer within 0.9 seconds.")
        (broker / "hangs").unlink()
        (broker / "crashes").touch()
        ask(503, "broker: Its check failed; the log says how.")
        (broker / "crashes").unlink()
        ask(200, "")
        assert service.request("GET", "/livez").status == 200
        load.more(50)
        assert load.failed == []


def test_start_and_stop(integrated: Path, broker: Path) -> None:
    """Each worker says which are on, connects and disconnects; every hook ran in its process; the exit is clean."""
    with serve(integrated, broker, BROKER_SIZE="7") as service:
        workers = set(wait_for(lambda: service.workers() if len(service.workers()) == 2 else [], "TODO-WHAT"))
        wait_for(lambda: marks(broker, "connected") == workers, "two workers that are connected")
        request_id = new_id("broker")
        assert service.request("GET", "/broker", request_id=request_id).json()["result"] == 7
        assert [record.message for record in service.app_lines(request_id)] == ["asked for the size"]
        assert service.stop() == 0
        assert service.app_text().count("Integrations: broker, marks.") == 2
    master = {service.process.pid}
    assert {name: marks(broker, name) for name in ("on_starting", "when_ready", "on_exit")} == {
        "on_starting": master,
        "when_ready": master,
        "on_exit": master,
    }
    for name in ("disconnected", "post_fork", "worker_exit", "child_exit"):
        assert marks(broker, name) == workers, name
    assert not (broker / "master_knows_too_much").exists()


def test_broken_hook(integrated: Path, broker: Path) -> None:
    """A child_exit that fails is told for each worker that ends, and neither a new one nor a reload is in danger."""
    with serve(integrated, broker) as service:
        with Load(service.port, clients=2) as load:
            victim = service.workers()[0]
            os.kill(victim, SIGKILL)
            new_workers(service, [victim], 2)
            wait_for(lambda: "The integration marks failed in child_exit" in service.app_text(), "TODO-WHAT")
            load.more(50)
            old = service.workers()
            service.signal(SIGHUP)
            new_workers(service, old, 2)
            load.more(50)
        assert len(load.failed) <= 2, load.failed
        assert service.stop() == 0
        text = service.app_text()
    assert text.count("The integration marks failed in child_exit") == text.count("    TypeError: child_exit is broken")
    assert text.count("The integration marks failed in child_exit") == len(marks(broker, "child_exit")) == 5
    assert "Unhandled exception in main loop" not in text


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_lifespan(integrated: Path, broker: Path, workers: int) -> None:
    """A broker that refuses ends the start: each worker says why, once and readable, and the master ends."""
    (broker / "refuses").touch()
    with serve(integrated, broker, workers, wait=False) as service:
        # With two that fail at the same moment, gunicorn's halt is itself halted: 1 and a traceback of its own.
        assert failure(service) in ({3} if workers == 1 else {1, 3})
        text = service.app_text()
    told = text.count("The integration broker did not start")
    assert 1 <= told <= workers
    assert text.count("    ConnectionError: nobody answers at broker:5672") == told
    assert text.count("nobody answers") == 2 * told, "the line of the source, and the error; no repetition"
    assert "Reason: Worker failed to boot." in text or workers == 2


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("LACK=1", "The integration broker does not start. It needs package_that_nobody_has, which is not installed"),
        ("BROKER_SIZE=0", "The environment variable BROKER_SIZE is '0': Input should be greater than or equal to 1"),
        ("BROKER_PORTS=1,2", "The environment variable BROKER_PORTS is not written in JSON, such as [1, 2]. BROKER_"),
    ],
)
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_refused_start(integrated: Path, broker: Path, server: str, variable: str, told: str) -> None:
    """What an integration lacks is told in one sentence, without a traceback, and the server ends."""
    project = without_marks(integrated, broker)
    env = {"BROKER_FOLDER": str(broker), **dict([variable.split("=")])}
    work = broker.parent
    with Service(project, work, server=server, app="app.main:app", env=env, workers=1, wait=False) as service:
        assert failure(service) == 3
        assert service.app_text().count(told) == 1
        assert "Traceback" not in service.output()


def test_needs_nothing_to_start(integrated: Path, broker: Path) -> None:
    """What an integration cannot run without is told by /readyz, and the service starts."""
    with serve(without_marks(integrated, broker), broker, 1, BROKER_FOLDER="") as service:
        answer = service.request("GET", "/readyz")
        assert (answer.status, answer.json()["cause"]) == (503, "broker: BROKER_FOLDER is not set.")
        assert service.stop() == 0


def test_wrap(integrated: Path, broker: Path) -> None:
    """What is around the application sees what no route has answered, and what was refused at the door."""
    preflight = [("Origin", "https://example.org"), ("Access-Control-Request-Method", "GET")]
    with serve(integrated, broker, 1, CORS_ORIGINS="https://example.org", MAX_BODY_BYTES="10") as service:
        before = service.request("GET", "/answers").json()["result"]
        for status, method, path, headers, body in (
            (404, "GET", "/nowhere", [], b""),
            (200, "OPTIONS", "/broker", preflight, b""),
            (413, "POST", "/broker", [], b"x" * 11),
            (414, "PUT", "/" + "x" * 9000, [], b""),
        ):
            assert service.request(method, path, headers=headers, body=body).status == status
        after = service.request("GET", "/answers").json()["result"]
    assert {"GET 404": 1, "OPTIONS 200": 1, "POST 413": 1, "PUT 414": 1}.items() <= after.items(), (before, after)


def test_ends_before_its_time(integrated: Path, broker: Path) -> None:
    """A background task that fails is told once a worker; /readyz says so, and all else goes on to a clean end."""
    with serve(integrated, broker) as service, Load(service.port) as load:
        wait_for(lambda: len(marks(broker, "connected")) == 2, "two workers that are connected")
        (broker / "breaks").touch()
        told = "The integration broker has ended before its time"
        wait_for(lambda: service.app_text().count(told) == 2, "a line of each worker")
        for _ in range(4):
            answer = service.request("GET", "/readyz")
            assert (answer.status, answer.json()["cause"]) == (503, "broker: It has ended; the log says why.")
        load.more(50)
        assert load.failed == []
        assert service.stop() == 0
        text = service.app_text()
    assert (text.count(told), text.count("ConnectionError: broker:5672 is gone")) == (2, 2)
    assert "did not stop" not in text


def test_hanging_stop(integrated: Path, broker: Path) -> None:
    """A lifespan that does not come to its end is cut off, named, and the exit is clean."""
    (broker / "hangs_on").touch()
    with serve(integrated, broker, 1, GRACEFUL_TIMEOUT="6") as service:
        wait_for(lambda: marks(broker, "connected"), "a worker that is connected")
        began = time.monotonic()
        assert service.stop() == 0
        assert 2 < time.monotonic() - began < 5
        assert service.app_text().count("The integration broker did not stop within 3 seconds, and is cut off") == 1
    assert marks(broker, "worker_exit")


@pytest.mark.parametrize("second", [SIGTERM, SIGHUP])
def test_told_to_end_while_it_starts(integrated: Path, broker: Path, second: Signals) -> None:
    """A worker that is stopped in the midst of `install` says nothing and ends nothing but itself."""
    with serve(without_marks(integrated, broker), broker, 1) as service:
        (broker / "slow").touch()
        service.signal(SIGHUP)
        wait_for(lambda: marks(broker, "installing"), "a worker that starts")
        if second == SIGHUP:
            service.signal(SIGHUP)
            wait_for(lambda: len(marks(broker, "connected")) >= 2, "a worker that has started")
            assert service.request("GET", "/livez").status == 200
        assert service.stop() == 0
        assert "does not start" not in service.app_text()


def test_failing_preparation(integrated: Path, broker: Path) -> None:
    """An on_starting that fails ends the start before anything listens."""
    with serve(integrated, broker, wait=False, FAIL_ON_STARTING="1") as service:
        assert failure(service) == 3
        text = service.app_text()
    assert text.count("The integration marks failed in on_starting") == 1
    assert "    OSError: no room for marks" in text
    assert "Listening" not in text


def test_unknown_hook(integrated: Path, broker: Path) -> None:
    """A function in server.py that gunicorn would never call ends the start with a sentence."""
    shutil.copytree(integrated, project := broker.parent / "project", symlinks=True)
    hooks = project / "app" / "integrations" / "marks" / "server.py"
    hooks.write_text("def on_start(server):\n    pass\n")
    with serve(project, broker, wait=False) as service:
        assert failure(service) == 1
        text = service.app_text()
    assert text.startswith("app/integrations/marks/server.py has a function on_start, and gunicorn would never call it")
    assert text.count("\n") == 1


def test_removed(integrated: Path, broker: Path) -> None:
    """Without the folders the service is as it was."""
    shutil.copytree(integrated, project := broker.parent / "project", symlinks=True)
    for name in ("broker", "marks"):
        shutil.rmtree(project / "app" / "integrations" / name)
    with serve(project, broker, 1) as service:
        assert service.request("GET", "/readyz").json()["result"] == "ready"
        assert service.request("GET", "/broker").status == 404
        assert service.app_text().count("Integrations: none.") == 1
        assert service.stop() == 0
    assert {path.name for path in broker.iterdir()} == {"up"}
