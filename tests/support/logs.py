"""What a running service wrote, and waiting for it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.support.lines import AccessLine, AppLine, parse_access, parse_app
from tests.support.waiting import wait_for


class Logs:
    """The logs of one service: its standard output and error, or the files in its log folder."""

    def __init__(self, work: Path, log_path: Path | None = None) -> None:
        self.work = work
        self.log_path = log_path
        self._single: set[str] = set()

    def settle(self) -> None:
        """Wait until everything that is about to be written is written; here, nothing is."""

    @property
    def stdout(self) -> Path:
        """Where the server's standard output goes."""
        return self.work / "access.txt"

    @property
    def stderr(self) -> Path:
        """Where the server's standard error goes."""
        return self.work / "error.txt"

    def access_text(self) -> str:
        """Return the access log as it is."""
        return (self.log_path / "access.log" if self.log_path else self.stdout).read_text("utf-8", "replace")

    def app_text(self) -> str:
        """Return every other log as it is."""
        paths = [self.stderr]
        if self.log_path:
            paths += sorted(path for path in self.log_path.glob("*.log") if path.name != "access.log")
        return "".join(path.read_text("utf-8", "replace") for path in paths)

    def output(self) -> str:
        """Return everything that was written anywhere, access lines included."""
        files = sorted(self.log_path.glob("*.log")) if self.log_path and self.log_path.is_dir() else []
        return "".join(path.read_text("utf-8", "replace") for path in (self.stdout, self.stderr, *files))

    def access(self) -> list[AccessLine]:
        """Read the whole access log strictly: one line that is no access line is an error."""
        return [parse_access(line) for line in self.access_text().split("\n") if line]

    def access_lines(self, request_id: str, count: int = 1, timeout: float = 5.0) -> list[AccessLine]:
        """Return the access lines of an ID: at least `count`, and what was about to follow."""
        wait_for(
            lambda: len(self.access_records(request_id)) >= count,
            f"{count} access line(s) of {request_id}",
            seconds=timeout,
        )
        self.settle()
        return self.access_records(request_id)

    def access_line(self, request_id: str, timeout: float = 5.0) -> AccessLine:
        """Return the one access line of an ID; AssertionError when there are more, or none in time.

        `check_single` finds a second one that comes later.
        """
        lines = self.access_lines(request_id, 1, timeout)
        assert len(lines) == 1, lines
        self._single.add(request_id)
        return lines[0]

    def check_single(self) -> None:
        """Check that each ID that `access_line` was asked for still has no second line."""
        counted = Counter(line.request_id for line in self._parsed() if line.request_id in self._single)
        assert not [request_id for request_id, count in counted.items() if count > 1], "two access lines of one ID"

    def _parsed(self) -> Iterator[AccessLine]:
        """Read the access lines of a log that may hold others too, or have been moved away."""
        with suppress(FileNotFoundError):
            for line in self.access_text().split("\n"):
                with suppress(ValueError):
                    yield parse_access(line)

    def app_lines(self, request_id: str, count: int = 1, timeout: float = 5.0) -> list[AppLine]:
        """Return the application's records of an ID: at least `count`, and what was about to follow."""
        wait_for(
            lambda: len(self.app_records(request_id)) >= count,
            f"{count} log record(s) of {request_id}",
            seconds=timeout,
        )
        self.settle()
        return self.app_records(request_id)

    def access_records(self, request_id: str) -> list[AccessLine]:
        """Return the access lines of an ID as they are by now."""
        lines = (line for line in self.access_text().split("\n")[:-1] if request_id in line)
        return [line for line in map(parse_access, lines) if line.request_id == request_id]

    def app_records(self, request_id: str) -> list[AppLine]:
        """Return the application's records of an ID as they are by now."""
        return [record for record in parse_app(self.app_text())[0] if record.request_id == request_id]
