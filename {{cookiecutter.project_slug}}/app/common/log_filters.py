"""What is kept out of the lines because another line says it already."""

import logging

from app.common.constants import ERROR_LOGGER
from app.common.exceptions import AlreadyLoggedError
from app.common.request_record import current_record

_REPETITIONS = frozenset(
    {
        '%s - "WebSocket %s" [accepted]',
        '%s - "WebSocket %s" 403',
        '%s - "WebSocket %s" %d',
        "connection open",
        "connection closed",
        "connection rejected (%d %s)",
    }
)
"""What uvicorn and its websockets say of a websocket; the access line says it once more, without the secrets."""

_NO_HANDSHAKE = "ASGI callable returned without completing handshake."
"""uvicorn takes a websocket that was refused with an answer of its own for one that was forgotten."""

_LOGGED_BEFORE = f"\n{AlreadyLoggedError.__module__}.{AlreadyLoggedError.__name__}: "
"""Stands in the traceback, handed over as text, of a lifespan that has failed with it."""

_SERVERS = frozenset({"uvicorn", "gunicorn", "_granian"})
"""Whose loggers may tell that; Hypercorn lets the process end with it."""

_MARK = "app_has_dealt_with_it"


def mark(error: BaseException) -> None:
    """Remember on the error itself that no server need log it; a reference to it would keep its frames alive."""
    setattr(error, _MARK, True)


class RepetitionFilter(logging.Filter):
    """Drops what a server says of a request that our own lines say already, with the ID and without secrets.

    Above all the traceback of an error that `log_unhandled` has logged, or left out since the client had gone.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass unless it is such a repetition."""
        if _ends_with_what_is_logged(record):
            return False
        request = current_record.get()
        if record.name.startswith("uvicorn") and isinstance(record.msg, str):
            if record.msg in _REPETITIONS:
                return False
            if record.msg == _NO_HANDSHAKE:
                return request is None or not request.status
        if request is None or not request.failed or record.name == ERROR_LOGGER:
            return True
        return not _repeats_a_traceback(record)


def _ends_with_what_is_logged(record: logging.LogRecord) -> bool:
    """Tell whether a server says why its lifespan has failed: in its words, in what they are about, or as an error."""
    if record.levelno < logging.ERROR or record.name.partition(".")[0] not in _SERVERS:
        return False
    if record.exc_info and isinstance(record.exc_info[1], AlreadyLoggedError):
        return True
    return any(_LOGGED_BEFORE in str(part) for part in (record.msg, *(record.args or ())))


def _repeats_a_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info:
        return hasattr(record.exc_info[1], _MARK)
    return "\nTraceback (most recent call last):" in str(record.msg)  # Granian's way


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


def log_unhandled(error: BaseException) -> None:
    """Log the traceback of an error that no handler caught; here, since not every server does it with the ID."""
    logging.getLogger(ERROR_LOGGER).error("Unhandled %s", type(error).__name__, exc_info=error)


def log_cancelled() -> None:
    """Say of what went on after the response that the server has stopped it."""
    logging.getLogger(ERROR_LOGGER).warning("Cancelled after the response, since the server stops")
