"""Read the logs of a running process, and wait for lines."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.support.lines import AccessLine, AppLine, parse_access, parse_app
from tests.support.waiting import wait_for


class Logs:
    """The logs of a process: its standard output and error, or the files in its log folder."""

    def __init__(self, work: Path, log_path: Path | None = None) -> None:
        self.work = work
        self.log_path = log_path
        self._single: set[str] = set()

    def settle(self) -> None:
        """Wait until pending lines are written. This class does not wait; subclasses override the method."""

    @property
    def stdout(self) -> Path:
        """The file with the standard output of the process."""
        return self.work / "access.txt"

    @property
    def stderr(self) -> Path:
        """The file with the standard error of the process."""
        return self.work / "error.txt"

    def access_text(self) -> str:
        """Return the text of the access log."""
        return (self.log_path / "access.log" if self.log_path else self.stdout).read_text("utf-8", "replace")

    def app_text(self) -> str:
        """Return the text of all other logs."""
        paths = [self.stderr]
        if self.log_path:
            paths += sorted(path for path in self.log_path.glob("*.log") if path.name != "access.log")
        return "".join(path.read_text("utf-8", "replace") for path in paths)

    def output(self) -> str:
        """Return everything that the process has written, including the access log."""
        files = sorted(self.log_path.glob("*.log")) if self.log_path and self.log_path.is_dir() else []
        return "".join(path.read_text("utf-8", "replace") for path in (self.stdout, self.stderr, *files))

    def access(self) -> list[AccessLine]:
        """Parse the complete access log; ValueError if a line is invalid."""
        return [parse_access(line) for line in self.access_text().split("\n") if line]

    def access_lines(self, request_id: str, count: int = 1, timeout: float = 5.0) -> list[AccessLine]:
        """Wait for `count` access log lines of an ID; return them, and any more that follow immediately."""
        wait_for(
            lambda: len(self.access_records(request_id)) >= count,
            f"{count} access log line(s) of {request_id}",
            seconds=timeout,
        )
        self.settle()
        return self.access_records(request_id)

    def access_line(self, request_id: str, timeout: float = 5.0) -> AccessLine:
        """Wait for the only access log line of an ID; AssertionError if there are several, or none in time.

        `check_single` detects a second line that is written later.
        """
        lines = self.access_lines(request_id, 1, timeout)
        assert len(lines) == 1, lines
        self._single.add(request_id)
        return lines[0]

    def check_single(self) -> None:
        """Check that no ID that was passed to `access_line` has got a second line."""
        counted = Counter(line.request_id for line in self._parsed() if line.request_id in self._single)
        assert not [request_id for request_id, count in counted.items() if count > 1], "two access log lines of one ID"

    def _parsed(self) -> Iterator[AccessLine]:
        """Parse the access log, ignoring other lines, or a file that has been moved."""
        with suppress(FileNotFoundError):
            for line in self.access_text().split("\n"):
                with suppress(ValueError):
                    yield parse_access(line)

    def app_lines(self, request_id: str, count: int = 1, timeout: float = 5.0) -> list[AppLine]:
        """Wait for `count` application log lines of an ID; return them, and any more that follow immediately."""
        wait_for(
            lambda: len(self.app_records(request_id)) >= count,
            f"{count} log record(s) of {request_id}",
            seconds=timeout,
        )
        self.settle()
        return self.app_records(request_id)

    def access_records(self, request_id: str) -> list[AccessLine]:
        """Return the access log lines of an ID that are written by now."""
        lines = (line for line in self.access_text().split("\n")[:-1] if request_id in line)
        return [line for line in map(parse_access, lines) if line.request_id == request_id]

    def app_records(self, request_id: str) -> list[AppLine]:
        """Return the application log lines of an ID that are written by now."""
        return [record for record in parse_app(self.app_text())[0] if record.request_id == request_id]
