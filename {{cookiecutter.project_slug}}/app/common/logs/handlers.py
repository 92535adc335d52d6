"""Log handlers that are safe with several processes and on a full disk; logrotate or a similar tool rotates the files.

The rotating handlers are for a single process, and gun.py rejects them with more: each process would rename the file
that the others write to. Timed rotation with four processes loses three of four lines.
"""

import errno
import logging
import os
import sys
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler, TimedRotatingFileHandler, WatchedFileHandler
from pathlib import Path
from typing import IO, Any

_REPORT_INTERVAL = 60.0
"""Seconds between two reports of write errors by the same handler."""


class _ResilientMixin(logging.Handler):
    """Reports write errors on standard error and does not raise: a full disk loses log lines, not requests."""

    _reported_at = -_REPORT_INTERVAL

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Report an OSError at most once a minute; print any other error as `logging` does."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if time.monotonic() - self._reported_at < _REPORT_INTERVAL:
            return
        self._reported_at = time.monotonic()
        target = getattr(self, "baseFilename", "the log")
        try:
            sys.stderr.write(f"Log lines are being lost: {target} cannot be written ({error}).\n")
            sys.stderr.flush()
        except OSError:
            pass  # standard error may be on the same full disk


class _FileMixin(_ResilientMixin, logging.FileHandler):
    """Creates the folder of its file, and writes UTF-8; characters that it cannot encode are escaped."""

    def __init__(self, filename: str | Path, **options: Any) -> None:  # noqa: ANN401 - of `logging`
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", **options)


class LogFileHandler(_FileMixin, WatchedFileHandler):
    """Appends to a file, and reopens it when it has been renamed, so logrotate need not send a signal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write each line with one system call, so that lines of several processes do not interleave.

        This bypasses the stream's buffer, which would keep a line that a full disk rejected, and write its rest later.
        """
        try:
            self.write_line(self.format(record))
        except Exception:
            self.handleError(record)

    def write_line(self, line: str) -> None:
        """Write a line; raise OSError on failure."""
        self.reopenIfNeeded()
        if self.stream is None:
            self.stream = self._open()
        _append(self.stream.fileno(), f"{line}{self.terminator}".encode("utf-8", "backslashreplace"))


def _append(descriptor: int, line: bytes) -> None:
    """Append the line; if the disk is full, remove the part that was written, so that no partial line remains."""
    written = os.write(descriptor, line)
    if written == len(line):
        return
    size = os.fstat(descriptor).st_size
    if size == os.lseek(descriptor, 0, os.SEEK_CUR):  # no other process has appended since then
        os.ftruncate(descriptor, size - written)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class LogStreamHandler(_ResilientMixin, logging.StreamHandler[Any]):
    """Writes to a stream, by default to standard error."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        super().__init__(stream)

    def write_line(self, line: str) -> None:
        """Write a line; raise OSError on failure."""
        self.stream.write(f"{line}{self.terminator}")
        self.flush()


class TimedLogFileHandler(_FileMixin, TimedRotatingFileHandler):
    """Rotates the file at midnight and keeps ten old files; for a single process."""

    def __init__(self, filename: str, when: str = "midnight", backupCount: int = 10) -> None:  # noqa: N803
        super().__init__(filename, when=when, backupCount=backupCount)


class SizedLogFileHandler(_FileMixin, RotatingFileHandler):
    """Rotates the file at 200 MiB and keeps one old file; for a single process."""

    def __init__(self, filename: str, maxBytes: int = 209_715_200, backupCount: int = 1) -> None:  # noqa: N803
        super().__init__(filename, maxBytes=maxBytes, backupCount=backupCount)


FILE_HANDLERS: dict[str, Callable[[str], logging.FileHandler]] = {
    "off": LogFileHandler,
    "time": TimedLogFileHandler,
    "size": SizedLogFileHandler,
}
"""The handler class for each value of `LOG_ROTATION`."""
