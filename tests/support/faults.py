"""Helpers for tests of faults, limits and hostile input: a probe application, counting lines, waiting for workers."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path
from select import select
from typing import TYPE_CHECKING

from scripts.snapshot import ROOT
from tests.support.lines import parse_access, parse_app
from tests.support.process import environment_of
from tests.support.service import Service
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.support.client import Connection, Response

HANDSHAKE = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def serve(
    project: Path,
    work: Path,
    *,
    log_path: Path | None = None,
    workers: int = 2,
    wait: bool = True,
    settings: Mapping[str, str] | None = None,
    **env: str,
) -> Service:
    """Return the service with the faults probe; it starts when the context is entered."""
    shutil.copy(ROOT / "tests/live/faults_probe.py", project)
    env |= settings or {}
    return Service(project, work, app="faults_probe:app", env=env, workers=workers, log_path=log_path, wait=wait)


def with_integrations(project: Path, target: Path) -> Path:
    """Copy the service with its virtual environment, and add two probe integrations, whose broker is a folder."""
    shutil.copytree(project, copy := target / "project", ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    (copy / ".venv").symlink_to(project / ".venv")
    for name, file, probe in (("broker", "__init__", "broker"), ("marks", "server", "hooks")):
        folder = copy / "app" / "integrations" / name
        folder.mkdir()
        (folder / "__init__.py").write_text("def install(app, settings): pass\n")
        shutil.copy(ROOT / f"tests/live/{probe}_probe.py", folder / f"{file}.py")
    new_broker(target)
    return copy


def new_broker(folder: Path) -> Path:
    """Create the folder that simulates the broker, in the state "available"."""
    (broker := folder / "broker").mkdir()
    (broker / "up").touch()
    return broker


def marks(broker: Path, name: str) -> set[int]:
    """Return the IDs of the processes that have created a mark file with this name."""
    return {int(path.suffix[1:]) for path in broker.glob(f"{name}.*")}


def wait_for_connected_workers(service: Service, count: int) -> list[int]:
    """Wait until there are `count` workers, all connected to the broker; return their process IDs."""
    broker = Path(service.env["BROKER_FOLDER"])

    def connected_workers() -> list[int]:
        workers = service.workers()
        return workers if len(workers) == count and marks(broker, "connected").issuperset(workers) else []

    return wait_for(connected_workers, f"{count} workers that are connected")


def count_ids(paths: Iterable[Path]) -> Counter[str]:
    """Count the access log lines of each ID in several files; ValueError for any other line."""
    return Counter(
        parse_access(line).request_id
        for path in paths
        if path.exists()
        for line in path.read_text("utf-8").split("\n")
        if line
    )


def check_access_lines(paths: Iterable[Path], ids: Iterable[str], missing: int = 0) -> None:
    """Wait until all IDs, except up to `missing`, have an access log line; AssertionError if one has several."""
    files, expected = list(paths), set(ids)
    enough = len(expected) - missing
    wait_for(lambda: len(expected & count_ids(files).keys()) >= enough, f"a line for each of {enough} requests")
    counted = count_ids(files)
    repeated = {request_id: counted[request_id] for request_id in expected if counted[request_id] > 1}
    assert not repeated, repeated


def count_records(paths: Iterable[Path], ids: Iterable[str]) -> Counter[str]:
    """Count the application log lines of each ID in several files."""
    records = [record for path in paths for record in parse_app(path.read_text("utf-8"))[0]]
    expected = set(ids)
    return Counter(record.request_id for record in records if record.request_id in expected)


def check_refusal(service: Service, response: Response, status: int, request_id: str | None = None) -> None:
    """Check that the response has the status, the error envelope and an ID, and the ID exactly one access log line."""
    assert response.status == status, response
    assert request_id in (None, response.header())
    envelope = response.json()
    assert (envelope["code"], envelope["message"], envelope["request_id"]) == (status, "failed", response.header())
    assert envelope["cause"]
    assert response.header("content-type") == "application/json"
    assert service.access_line(response.header()).status == status


def send_slowly(connection: Connection, piece: bytes, interval: float = 0.1) -> None:
    """Send a piece every `interval` seconds until the service responds."""
    while not select([connection.socket], [], [], interval)[0]:
        with suppress(BrokenPipeError, ConnectionResetError):  # the service has responded and closed meanwhile
            connection.send(piece)


def open_files(pids: Iterable[int]) -> int:
    """Count the open file descriptors of the processes."""
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir())


def is_alive(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for_new_workers(service: Service, old: Iterable[int], count: int) -> list[int]:
    """Wait until `count` workers are running, none of them from `old`; return their process IDs."""
    replaced = set(old)

    def new_workers() -> list[int]:
        pids = service.workers()
        return pids if len(pids) == count and not replaced & set(pids) else []

    return wait_for(new_workers, f"{count} workers, none of {sorted(replaced)}")


def wait_for_workers(service: Service, count: int) -> list[int]:
    """Wait until `count` workers are running; return their process IDs."""
    return wait_for_new_workers(service, (), count)


def wait_until_serving(service: Service, pids: Iterable[int]) -> None:
    """Send requests on new connections until each of the workers has responded."""
    pending = set(pids)

    def all_have_responded() -> bool:
        pending.discard(int(service.request("GET", "/faults/pid").json()["result"]))
        return not pending

    wait_for(all_have_responded, f"a response of each worker, of {sorted(pending)}")


def run_python(project: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the project's environment."""
    return subprocess.run(
        ["python", "-c", code],
        cwd=project,
        env=environment_of(project) | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
