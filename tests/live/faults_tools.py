"""What the tests of faults, limits and hostile input share: a probe of their own, load in the background, counting."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .client import new_id
from .harness import LiveService
from .lines import parse_access
from .logs import wait_for
from .servers import gunicorn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from .client import Answer, Connection

APP = "faults_probe:app"


def serve(
    project: Path,
    work: Path,
    *,
    log_path: Path | None = None,
    workers: int = 2,
    marks: Path | None = None,
    wait: bool = True,
    settings: Mapping[str, str] | None = None,
    **env: str,
) -> LiveService:
    """Return the service with the probe of this package; not started yet. `marks`: a folder for marks of exits."""
    env |= settings or {}
    for name in ("faults_probe.py", "faults_gun.py"):
        shutil.copy(Path(__file__).with_name(name), project / name)
    if marks is not None:
        marks.mkdir(parents=True, exist_ok=True)
        env["MARKS"] = str(marks)
    command = gunicorn("-c", "faults_gun.py") if marks is not None else None
    return LiveService(project, work, app=APP, env=env, workers=workers, log_path=log_path, command=command, wait=wait)


class Load:
    """Clients that keep their connections and ask one request after the other, until the end of a `with`."""

    def __init__(
        self, service: LiveService, *, clients: int = 4, target: str = "/api/demo", pause: float = 0.004
    ) -> None:
        self.service, self.target, self.pause = service, target, pause
        self.answered: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.more(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def more(self, count: int, timeout: float = 20.0) -> None:
        """Wait until so many further requests were answered."""
        goal = len(self.answered) + count
        wait_for(lambda: len(self.answered) >= goal, timeout, f"{count} more answers")

    def _run(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            connection = self._ask(connection)
            time.sleep(self.pause)
        if connection is not None:
            connection.close()

    def _ask(self, connection: Connection | None) -> Connection | None:
        request_id = new_id("load")
        began = time.monotonic()
        try:
            connection = connection or self.service.connect()
            answer = connection.request("GET", self.target, request_id=request_id)
            assert (answer.status, answer.one(), answer.complete) == (200, request_id, True), answer
        except (OSError, EOFError, AssertionError) as error:
            self.failures.append(f"{request_id} after {time.monotonic() - began:.3f} s: {error!r:.300}")
            if connection is not None:
                connection.close()
            return None
        self.answered.append(request_id)
        if "close" in answer.all("connection"):
            connection.close()
            return None
        return connection


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
    wait_for(lambda: len(wanted & count_ids(files).keys()) >= enough, 5, f"a line for each of {enough} requests")
    counted = count_ids(files)
    doubled = {request_id: counted[request_id] for request_id in wanted if counted[request_id] > 1}
    assert not doubled, doubled


def check_refusal(service: LiveService, answer: Answer, status: int, request_id: str | None = None) -> None:
    """The answer has the status, the envelope and an ID, and that ID has exactly one line."""
    assert answer.status == status, answer
    assert request_id in (None, answer.one())
    envelope = answer.json()
    assert (envelope["code"], envelope["message"], envelope["request_id"]) == (status, "failed", answer.one())
    assert envelope["cause"]
    assert answer.one("content-type") == "application/json"
    assert service.access_line(answer.one()).status == status


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


def new_workers(service: LiveService, old: Iterable[int], count: int, timeout: float = 15.0) -> list[int]:
    """Wait until so many workers run and none of the old ones; return them."""
    gone = set(old)

    def look() -> list[int]:
        pids = service.workers()
        return pids if len(pids) == count and not gone & set(pids) else []

    return wait_for(look, timeout, f"{count} new workers instead of {sorted(gone)}")


def wait_count(service: LiveService, count: int) -> None:
    """Wait until so many workers run."""
    wait_for(lambda: len(service.workers()) == count, 15, f"{count} workers")


def wait_serving(service: LiveService, pids: Iterable[int]) -> None:
    """Ask on new connections until each of the workers has answered."""
    silent = set(pids)

    def look() -> bool:
        silent.discard(int(service.request("GET", "/faults/pid").json()["result"]))
        return not silent

    wait_for(look, 15, f"an answer of each worker, of {sorted(silent)}")


def tools(project: Path) -> dict[str, str]:
    """Return an environment in which the project's own commands are found, and nothing else is set."""
    return {"PATH": f"{project / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def run_python(project: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines of Python in the project."""
    return subprocess.run(
        ["python", "-c", code], cwd=project, env=tools(project) | env, capture_output=True, text=True, check=False,
        timeout=30,
    )  # fmt: skip
