"""Worker processes beside the service, and the trail of one request through all of them."""

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
    """A command of the project's environment that stays; a context manager that leaves no process behind.

    `ready`: a text of its log that says that it works.
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
        """Start it, or start it again; its lines go on in the same files."""
        known = self.output().count(self.ready) if self.stderr.exists() else 0
        self.launch()
        if wait and self.ready:
            try:
                wait_for(lambda: self._is_ready(known), f"readiness of {self.work.name}")
            except BaseException as error:
                self.kill()
                error.add_note(self.output()[-4000:])
                raise

    def _is_ready(self, known: int) -> bool:
        assert self.process.poll() is None, f"exit code {self.process.returncode}"
        return self.output().count(self.ready) > known


def trail(places: Iterable[Logs], request_id: str) -> list[AppLine]:
    """Return the application's lines of an ID from all processes, in the order of their time stamps."""
    return sorted((line for place in places for line in place.app_records(request_id)), key=lambda line: line.timestamp)


def wait_for_trail(
    places: Sequence[Logs], request_id: str, count: int, containing: str = "", timeout: float = 20.0
) -> list[AppLine]:
    """Return the lines of an ID whose message contains a text: at least `count`, and whatever comes shortly after."""

    def found() -> list[AppLine]:
        return [line for line in trail(places, request_id) if containing in line.message]

    try:
        wait_for(lambda: len(found()) >= count, f"{count} line(s) of {request_id} with {containing!r}", seconds=timeout)
    except AssertionError as error:
        error.add_note("\n".join(f"{place.work.name}: {place.output()[-3000:]}" for place in places))
        raise
    for place in places:
        place.settle()
    return found()


def show(places: Mapping[str, Logs], request_id: str) -> None:
    """Print every line of an ID, of all processes in order; pytest shows it with `-s` or `-rP`."""
    lines = [
        (name, line) for name, place in places.items() for line in place.output().split("\n") if request_id in line
    ]
    for name, line in sorted(lines, key=lambda pair: pair[1].lstrip("[")):
        sys.stdout.write(f"{name:>10}  {line}\n")
