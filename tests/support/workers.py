"""Worker processes, and the log lines of a request in several processes."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.lines import AppLine
from tests.support.logs import Logs
from tests.support.process import Process
from tests.support.waiting import wait_for


class Worker(Process):
    """A long-running command in the project's environment. The context manager kills its process group at the end.

    `ready` is a text that the command logs when it is ready.
    """

    def __init__(
        self,
        project: Path,
        work: Path,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        ready: str = "",
        name: str = "",
    ) -> None:
        program = str(project / ".venv/bin" / command[0])
        super().__init__(project, work / (name or command[0]), [program, *command[1:]], env)
        self.ready = ready

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self.stderr.exists():
            error.add_note(f"{self.work.name}:\n{self.output()[-4000:]}")
        self.kill()

    def start(self, wait: bool = True) -> None:
        """Start or restart the command; its output is appended to the same files."""
        earlier = self.output().count(self.ready) if self.stderr.exists() else 0
        self.launch()
        if wait and self.ready:
            try:
                wait_for(lambda: self._is_ready(earlier), f"readiness of {self.work.name}")
            except BaseException as error:
                self.kill()
                error.add_note(self.output()[-4000:])
                raise

    def _is_ready(self, earlier: int) -> bool:
        assert self.process.poll() is None, f"exit code {self.process.returncode}"
        return self.output().count(self.ready) > earlier


def app_lines_of(processes: Iterable[Logs], request_id: str) -> list[AppLine]:
    """Return the application log lines of an ID from all processes, in the order of their timestamps."""
    lines = (line for process in processes for line in process.app_records(request_id))
    return sorted(lines, key=lambda line: line.timestamp)


def wait_for_app_lines(
    processes: Sequence[Logs], request_id: str, count: int, containing: str = "", timeout: float = 20.0
) -> list[AppLine]:
    """Wait for `count` lines of an ID whose message contains a text; return them, and any more that follow."""

    def find_lines() -> list[AppLine]:
        return [line for line in app_lines_of(processes, request_id) if containing in line.message]

    description = f"{count} line(s) of {request_id} with {containing!r}"
    try:
        wait_for(lambda: len(find_lines()) >= count, description, seconds=timeout)
    except AssertionError as error:
        error.add_note("\n".join(f"{process.work.name}: {process.output()[-3000:]}" for process in processes))
        raise
    for process in processes:
        process.settle()
    return find_lines()


def print_lines(processes: Mapping[str, Logs], request_id: str) -> None:
    """Print all lines of an ID from all processes, ordered by time; pytest shows them with `-s` or `-rP`."""
    lines = [
        (name, line)
        for name, process in processes.items()
        for line in process.output().split("\n")
        if request_id in line
    ]
    for name, line in sorted(lines, key=lambda pair: pair[1].lstrip("[")):
        sys.stdout.write(f"{name:>10}  {line}\n")
