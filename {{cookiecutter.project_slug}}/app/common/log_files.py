"""Files that lines go to: safe for several processes, safe for a full disk, rotated from outside.

Rotation by the process itself is offered for a single process only. With several, each renames the file under the
others: the timed rotation of four processes loses three lines of four.
"""

import errno
import fcntl
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


class LogFileHandler(_ResilientMixin, WatchedFileHandler):
    """Appends to a file, and to the new one as soon as the old one was renamed (logrotate needs no signal)."""

    def __init__(self, filename: str | Path) -> None:
        Path(filename).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(filename, encoding="utf-8", errors="backslashreplace")

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


def _claim(filename: str) -> IO[str]:
    """Lock the file for this process; raise RuntimeError if another one rotates it already."""
    Path(filename).parent.mkdir(parents=True, exist_ok=True)
    lock = Path(f"{filename}.lock").open("w", encoding="utf-8")  # noqa: SIM115 - held as long as the handler lives
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RuntimeError(
            f"{filename} is written by another process, and a file that several processes rotate loses most of its "
            "lines: run a single process, or set LOG_ROTATION=off and rotate from outside (logrotate)."
        ) from None
    return lock


class TimedLogFileHandler(_ResilientMixin, TimedRotatingFileHandler):
    """Begins a new file at midnight and keeps ten; for a single process, refused with a sentence to a second one."""

    def __init__(self, filename: str, when: str = "midnight", backupCount: int = 10) -> None:  # noqa: N803
        self._lock_file = _claim(filename)
        super().__init__(filename, when=when, backupCount=backupCount, encoding="utf-8", errors="backslashreplace")

    def close(self) -> None:
        """Close the file and let another process have it."""
        super().close()
        self._lock_file.close()


class SizedLogFileHandler(_ResilientMixin, RotatingFileHandler):
    """Begins a new file at 200 MiB and keeps one; for a single process, refused with a sentence to a second one."""

    def __init__(self, filename: str, maxBytes: int = 209_715_200, backupCount: int = 1) -> None:  # noqa: N803
        self._lock_file = _claim(filename)
        super().__init__(
            filename, maxBytes=maxBytes, backupCount=backupCount, encoding="utf-8", errors="backslashreplace"
        )

    def close(self) -> None:
        """Close the file and let another process have it."""
        super().close()
        self._lock_file.close()


FILE_HANDLERS: dict[str, Callable[[str], logging.FileHandler]] = {
    "off": LogFileHandler,
    "time": TimedLogFileHandler,
    "size": SizedLogFileHandler,
}
"""The handler for each value of `LOG_ROTATION`."""
