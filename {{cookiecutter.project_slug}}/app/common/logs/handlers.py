"""Files that lines go to: safe for several processes, safe for a full disk, rotated from outside.

Rotation by the process itself is for a single process only, and gun.py refuses it to several: each would rename the
file under the others, and the timed rotation of four processes loses three lines of four.
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

_SILENCE = 60.0
"""Seconds between two complaints of one handler."""


class _ResilientMixin(logging.Handler):
    """A disk that is full or gone loses lines, never a request; standard error says so once a minute."""

    _complained = -_SILENCE

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say on standard error what cannot be written where, at most once a minute; a faulty call is shown in full."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if time.monotonic() - self._complained < _SILENCE:
            return
        self._complained = time.monotonic()
        target = getattr(self, "baseFilename", "the log")
        try:
            sys.stderr.write(f"Log lines are being lost: {target} cannot be written ({error}).\n")
            sys.stderr.flush()
        except OSError:
            pass  # standard error is on the same full disk


class _FileMixin(_ResilientMixin, logging.FileHandler):
    """Makes the folder of its file, and writes any text as UTF-8."""

    def __init__(self, filename: str | Path, **options: Any) -> None:  # noqa: ANN401 - of `logging`
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", **options)


class LogFileHandler(_FileMixin, WatchedFileHandler):
    """Appends to a file, and to the new one as soon as the old one was renamed (logrotate needs no signal)."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record at once and whole, so that lines of several processes never mix.

        Past the stream's buffer, which would keep a line that a full disk refused, and write the rest of it later.
        """
        try:
            self.write_line(self.format(record))
        except Exception:
            self.handleError(record)

    def write_line(self, line: str) -> None:
        """Write a line; raise OSError where that cannot be."""
        self.reopenIfNeeded()
        if self.stream is None:
            self.stream = self._open()
        _write_whole(self.stream.fileno(), f"{line}{self.terminator}".encode("utf-8", "backslashreplace"))


def _write_whole(descriptor: int, line: bytes) -> None:
    """Append the line; one that the disk has no room for is taken back, so that the next one is not glued to it."""
    written = os.write(descriptor, line)
    if written == len(line):
        return
    size = os.fstat(descriptor).st_size
    if size == os.lseek(descriptor, 0, os.SEEK_CUR):  # no other process has appended since
        os.ftruncate(descriptor, size - written)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class LogStreamHandler(_ResilientMixin, logging.StreamHandler[Any]):
    """Writes to a stream, by default standard error."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        super().__init__(stream)

    def write_line(self, line: str) -> None:
        """Write a line; raise OSError where that cannot be."""
        self.stream.write(f"{line}{self.terminator}")
        self.flush()


class TimedLogFileHandler(_FileMixin, TimedRotatingFileHandler):
    """Begins a new file at midnight and keeps ten; for a single process."""

    def __init__(self, filename: str, when: str = "midnight", backupCount: int = 10) -> None:  # noqa: N803
        super().__init__(filename, when=when, backupCount=backupCount)


class SizedLogFileHandler(_FileMixin, RotatingFileHandler):
    """Begins a new file at 200 MiB and keeps one; for a single process."""

    def __init__(self, filename: str, maxBytes: int = 209_715_200, backupCount: int = 1) -> None:  # noqa: N803
        super().__init__(filename, maxBytes=maxBytes, backupCount=backupCount)


FILE_HANDLERS: dict[str, Callable[[str], logging.FileHandler]] = {
    "off": LogFileHandler,
    "time": TimedLogFileHandler,
    "size": SizedLogFileHandler,
}
"""The handler for each value of `LOG_ROTATION`."""
