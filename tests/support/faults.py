"""What the tests of faults, limits and hostile input share: probes of their own, counting, waiting for workers."""

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

    from tests.support.client import Answer, Connection

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
    """Return the service with the faults probe; not started yet."""
    shutil.copy(ROOT / "tests/live/faults_probe.py", project)
    env |= settings or {}
    return Service(project, work, app="faults_probe:app", env=env, workers=workers, log_path=log_path, wait=wait)


def with_integrations(project: Path, target: Path) -> Path:
    """Copy the service, in the environment that it has, and add two integrations; their broker is a folder beside."""
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
    """Make the folder that stands for the broker; it answers."""
    (broker := folder / "broker").mkdir()
    (broker / "up").touch()
    return broker


def marks(broker: Path, name: str) -> set[int]:
    """Return the processes that have left a mark of this name."""
    return {int(path.suffix[1:]) for path in broker.glob(f"{name}.*")}


def wait_connected(service: Service, count: int) -> list[int]:
    """Wait until there are so many workers and each has connected to the broker; return them."""
    broker = Path(service.env["BROKER_FOLDER"])

    def look() -> list[int]:
        workers = service.workers()
        return workers if len(workers) == count and marks(broker, "connected").issuperset(workers) else []

    return wait_for(look, f"{count} workers that are connected")


def count_ids(paths: Iterable[Path]) -> Counter[str]:
    """Count the access lines of each ID over several files; a line that is no access line is an error."""
    return Counter(
        parse_access(line).request_id
        for path in paths
        if path.exists()
        for line in path.read_text("utf-8").split("\n")
        if line
    )


def check_lines(paths: Iterable[Path], ids: Iterable[str], missing: int = 0) -> None:
    """Wait until each ID has its access line, up to `missing`; AssertionError if one has none, or more than one."""
    files, wanted = list(paths), set(ids)
    enough = len(wanted) - missing
    wait_for(lambda: len(wanted & count_ids(files).keys()) >= enough, f"a line for each of {enough} requests")
    counted = count_ids(files)
    doubled = {request_id: counted[request_id] for request_id in wanted if counted[request_id] > 1}
    assert not doubled, doubled


def count_records(paths: Iterable[Path], ids: Iterable[str]) -> Counter[str]:
    """Count the application's records of each of the IDs over several files."""
    records = [record for path in paths for record in parse_app(path.read_text("utf-8"))[0]]
    wanted = set(ids)
    return Counter(record.request_id for record in records if record.request_id in wanted)


def check_refusal(service: Service, answer: Answer, status: int, request_id: str | None = None) -> None:
    """The answer has the status, the envelope and an ID, and that ID has exactly one line."""
    assert answer.status == status, answer
    assert request_id in (None, answer.one())
    envelope = answer.json()
    assert (envelope["code"], envelope["message"], envelope["request_id"]) == (status, "failed", answer.one())
    assert envelope["cause"]
    assert answer.one("content-type") == "application/json"
    assert service.access_line(answer.one()).status == status


def drip(connection: Connection, piece: bytes, interval: float = 0.1) -> None:
    """Send a piece in each interval until the service answers."""
    while not select([connection.socket], [], [], interval)[0]:
        with suppress(BrokenPipeError, ConnectionResetError):  # the answer came while we sent
            connection.send(piece)


def open_files(pids: Iterable[int]) -> int:
    """Count the descriptors that the processes have open."""
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir())


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def new_workers(service: Service, old: Iterable[int], count: int) -> list[int]:
    """Wait until so many workers run and none of the old ones; return them."""
    gone = set(old)

    def look() -> list[int]:
        pids = service.workers()
        return pids if len(pids) == count and not gone & set(pids) else []

    return wait_for(look, f"{count} workers, none of {sorted(gone)}")


def wait_count(service: Service, count: int) -> list[int]:
    """Wait until so many workers run; return them."""
    return new_workers(service, (), count)


def wait_serving(service: Service, pids: Iterable[int]) -> None:
    """Ask on new connections until each of the workers has answered."""
    silent = set(pids)

    def look() -> bool:
        silent.discard(int(service.request("GET", "/faults/pid").json()["result"]))
        return not silent

    wait_for(look, f"an answer of each worker, of {sorted(silent)}")


def run_python(project: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines of Python in the project."""
    return subprocess.run(
        ["python", "-c", code],
        cwd=project,
        env=environment_of(project) | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
