"""Filters that drop log records which would repeat what another line already reports."""

import logging

from app.common.context.request_record import current_record
from app.common.exceptions import AlreadyLoggedError

_REPETITIONS = (
    *('%s - "WebSocket %s" [accepted]', '%s - "WebSocket %s" 403', '%s - "WebSocket %s" %d'),
    *("connection open", "connection closed", "connection rejected (%d %s)"),
)
"""Messages of uvicorn and websockets that the access log line repeats, with secrets masked."""

_INCOMPLETE_HANDSHAKE = "ASGI callable returned without completing handshake."
"""uvicorn also logs this if the application has refused the WebSocket with an HTTP response."""

_ALREADY_LOGGED = f"\n{AlreadyLoggedError.__module__}.{AlreadyLoggedError.__name__}: "
"""Part of the formatted traceback of a lifespan that failed with this exception."""

_SERVERS = frozenset({"uvicorn", "gunicorn", "hypercorn", "_granian"})

_TRACEBACK = "\nTraceback (most recent call last):"
"""Granian logs tracebacks as part of the message."""


class RepetitionFilter(logging.Filter):
    """Drops log records of the server that repeat one of our own lines; those have the ID and mask secrets.

    These are, above all, tracebacks of errors already logged, or left out because the client has disconnected.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a record that repeats another line."""
        if record.name.partition(".")[0] not in _SERVERS:
            return True
        if record.levelno >= logging.ERROR and _is_already_logged(record):
            return False
        request = current_record.get()
        if record.msg == _INCOMPLETE_HANDSHAKE:
            return request is None or not request.status
        if request is not None and request.failed and _repeats_error(record, request.error_id):
            return False
        return record.msg not in _REPETITIONS


def _repeats_error(record: logging.LogRecord, error_id: int) -> bool:
    return id(record.exc_info[1]) == error_id if record.exc_info else _TRACEBACK in str(record.msg)


def _is_already_logged(record: logging.LogRecord) -> bool:
    """Return whether the record reports an `AlreadyLoggedError`: as exception, in the message or in its arguments."""
    if record.exc_info and isinstance(record.exc_info[1], AlreadyLoggedError):
        return True
    return any(_ALREADY_LOGGED in str(part) for part in (record.msg, *(record.args or ())))


class OwnFileFilter(logging.Filter):
    """Keeps out of `error.log` the records that a `RequestLogHandler` writes to its own file."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for a record that `OwnFileMark` has marked."""
        return not getattr(record, "has_own_file", False)


class OwnFileMark(logging.Filter):
    """Marks the records that a handler writes to its own file."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark the record for `OwnFileFilter` and return True."""
        record.has_own_file = True
        return True
