"""What is kept out of the lines because another line says it already."""

import logging

from app.common.context.request_record import current_record
from app.common.exceptions import AlreadyLoggedError

_REPETITIONS = (
    *('%s - "WebSocket %s" [accepted]', '%s - "WebSocket %s" 403', '%s - "WebSocket %s" %d'),
    *("connection open", "connection closed", "connection rejected (%d %s)"),
)
"""What uvicorn and its websockets say of a websocket; the access line says it once more, without the secrets."""

_NO_HANDSHAKE = "ASGI callable returned without completing handshake."
"""uvicorn takes a websocket that was refused with an answer of its own for one that was forgotten."""

_LOGGED_BEFORE = f"\n{AlreadyLoggedError.__module__}.{AlreadyLoggedError.__name__}: "
"""Stands in the traceback, handed over as text, of a lifespan that has failed with it."""

_SERVERS = frozenset({"uvicorn", "gunicorn", "hypercorn", "_granian"})

_TRACEBACK = "\nTraceback (most recent call last):"
"""How Granian hands one over."""


class RepetitionFilter(logging.Filter):
    """Drops what a server says of a request that our own lines say already, with the ID and without secrets.

    Above all the traceback of an error that we have logged already, or left out since the client had gone.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass unless it is such a repetition."""
        if record.name.partition(".")[0] not in _SERVERS:
            return True
        if record.levelno >= logging.ERROR and _is_logged_before(record):
            return False
        request = current_record.get()
        if record.msg == _NO_HANDSHAKE:
            return request is None or not request.status
        if request is not None and request.failed and _repeats_error(record, request.error_id):
            return False
        return record.msg not in _REPETITIONS


def _repeats_error(record: logging.LogRecord, error_id: int) -> bool:
    return id(record.exc_info[1]) == error_id if record.exc_info else _TRACEBACK in str(record.msg)


def _is_logged_before(record: logging.LogRecord) -> bool:
    """Tell whether it is why the lifespan has failed: as an error, in the message, or in what that is about."""
    if record.exc_info and isinstance(record.exc_info[1], AlreadyLoggedError):
        return True
    return any(_LOGGED_BEFORE in str(part) for part in (record.msg, *(record.args or ())))


class OwnFileFilter(logging.Filter):
    """Keeps out of `error.log` what a `RequestLogHandler` has written into its own file."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass unless it has a file of its own."""
        return not getattr(record, "has_own_file", False)


class OwnFileMark(logging.Filter):
    """Marks what is written into such a file."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, marked."""
        record.has_own_file = True
        return True
