"""The last word: one line for each request, written when its response is over."""

import logging
import re
from collections.abc import Mapping

from app.common.constants import ACCESS_LOG_FORMAT, ACCESS_LOGGER
from app.common.context.observers import current_fields, fields_suffix, log_fields
from app.common.context.request_record import RequestRecord
from app.common.logs.access_fields import FIELDS, as_dict, policy, request_line_of
from app.common.logs.formatters import dump_json, escape, iso_clock
from app.common.logs.handlers import LogFileHandler, LogStreamHandler
from app.common.request_id import logged_id

logger = logging.getLogger(ACCESS_LOGGER)

_call_handlers = logging.Logger.callHandlers  # some who want to hear of each record put their own in its place

_NAME = re.compile(r"%\((\w+)\)s")


class RequestAccessFormatter(logging.Formatter):
    """Prints an access record in the form of `fmt`, e.g. `[%(asctime)s] %(request_id)s %(status_code)s`.

    Raises ValueError for a name that is not in `FIELDS`.
    """

    def __init__(self, fmt: str = ACCESS_LOG_FORMAT) -> None:
        super().__init__("%(message)s")
        names = _NAME.findall(fmt)
        unknown = sorted(set(names) - FIELDS.keys())
        if unknown:
            raise ValueError(f"An access line has no {', '.join(unknown)}; it has {', '.join(sorted(FIELDS))}.")
        self._pattern = _NAME.sub("%s", fmt)
        if "%" in self._pattern.replace("%%", "").replace("%s", ""):
            raise ValueError(f"{fmt!r} is no format of an access line: write %(name)s, and %% for a percent sign.")
        self._fields = [FIELDS[name] for name in names]

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a record that is no access record is printed as its message."""
        request = getattr(record, "request", None)
        if not isinstance(request, RequestRecord):
            return escape(record.getMessage())
        return self.line_of(request, getattr(record, "fields", {}))

    def line_of(self, request: RequestRecord, fields: Mapping[str, object]) -> str:
        """Return the line of a request, with what integrations have to say of it."""
        line = self._pattern % tuple([field(request) for field in self._fields])
        return line + escape(fields_suffix(fields)) if fields else line


class JsonAccessFormatter(logging.Formatter):
    """Prints an access record as one JSON object; `duration` and `ttfb` in seconds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; a record that is no access record has only its message."""
        request = getattr(record, "request", None)
        if not isinstance(request, RequestRecord):
            return dump_json({"timestamp": iso_clock.format(record.created), "message": record.getMessage()})
        return self.line_of(request, getattr(record, "fields", {}))

    def line_of(self, request: RequestRecord, fields: Mapping[str, object]) -> str:
        """Return the object of a request; what integrations have to say of it replaces none of our keys."""
        content = as_dict(request)
        if fields:
            content |= {f"{key}_" if key in content else key: value for key, value in fields.items()}
        return dump_json(content)


def write_access_line(request: RequestRecord) -> None:
    """Give the request's record to the access logger's handlers; excluded paths are written only when they fail."""
    if request.status < 400 and policy.excludes(request.scope):  # noqa: PLR2004
        return
    if not logger.isEnabledFor(logging.INFO):
        return
    handlers = logger.handlers
    others = len(handlers) != 1 or logger.filters or logger.propagate
    if others or logging.Logger.callHandlers is not _call_handlers or not _written(handlers[0], request):
        logger.handle(AccessRecord(request))


def _written(handler: logging.Handler, request: RequestRecord) -> bool:
    """Write the line as `logging` would, without a record, if nobody but our own handler and formatter would see one.

    It takes two thirds of the time; a test holds both ways equal.
    """
    formatter = handler.formatter
    if type(handler) is not LogFileHandler and type(handler) is not LogStreamHandler:
        return False
    if type(formatter) is not RequestAccessFormatter and type(formatter) is not JsonAccessFormatter:
        return False
    if handler.filters or handler.level > logging.INFO:
        return False
    handler.acquire()
    try:
        handler.write_line(formatter.line_of(request, current_fields() if log_fields else {}))
    except Exception:
        handler.handleError(AccessRecord(request))
    finally:
        handler.release()
    return True


class AccessRecord(logging.LogRecord):
    """The record of a request for any handler: our formatters read `request`, others print its line and status."""

    def __init__(self, request: RequestRecord) -> None:
        message = f"{request_line_of(request)} {request.status}"
        super().__init__(logger.name, logging.INFO, __file__, 0, "%s", (message,), None)
        self.request = request
        self.request_id = logged_id(request.request_id)
        if log_fields:
            self.fields = current_fields()
