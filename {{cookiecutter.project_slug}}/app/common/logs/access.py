"""The access log: one line per request, written when its response has ended."""

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

_call_handlers = logging.Logger.callHandlers  # tools that observe every record patch this method

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")


class RequestAccessFormatter(logging.Formatter):
    """Formats access log lines with `fmt`, e.g. `[%(asctime)s] %(request_id)s %(status_code)s`.

    Raises ValueError if `fmt` contains a name that is not in `FIELDS`.
    """

    def __init__(self, fmt: str = ACCESS_LOG_FORMAT) -> None:
        super().__init__("%(message)s")
        names = _PLACEHOLDER.findall(fmt)
        unknown = sorted(set(names) - FIELDS.keys())
        if unknown:
            raise ValueError(f"Unknown access log fields: {', '.join(unknown)}. Known: {', '.join(sorted(FIELDS))}.")
        self._pattern = _PLACEHOLDER.sub("%s", fmt)
        if "%" in self._pattern.replace("%%", "").replace("%s", ""):
            raise ValueError(f"Invalid access log format {fmt!r}: use %(name)s for a field and %% for a percent sign.")
        self._fields = [FIELDS[name] for name in names]

    def format(self, record: logging.LogRecord) -> str:
        """Return the access log line; for any other record, its message on one line."""
        request = getattr(record, "request", None)
        if not isinstance(request, RequestRecord):
            return escape(record.getMessage())
        return self.format_request(request, getattr(record, "fields", {}))

    def format_request(self, request: RequestRecord, fields: Mapping[str, object]) -> str:
        """Return the access log line of a request, followed by the `fields` that integrations add."""
        line = self._pattern % tuple([field(request) for field in self._fields])
        return line + escape(fields_suffix(fields)) if fields else line


class JsonAccessFormatter(logging.Formatter):
    """Formats access log lines as JSON, one object per line; `duration` and `ttfb` are in seconds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the access log line; for any other record, an object with its time and its message."""
        request = getattr(record, "request", None)
        if not isinstance(request, RequestRecord):
            return dump_json({"timestamp": iso_clock.format(record.created), "message": record.getMessage()})
        return self.format_request(request, getattr(record, "fields", {}))

    def format_request(self, request: RequestRecord, fields: Mapping[str, object]) -> str:
        """Return the JSON of a request; an added field whose name is one of the standard keys gets a `_` appended."""
        content = as_dict(request)
        if fields:
            content |= {f"{key}_" if key in content else key: value for key, value in fields.items()}
        return dump_json(content)


def write_access_line(request: RequestRecord) -> None:
    """Write the access log line of a request; a request to an excluded path is logged only if it failed (>= 400)."""
    if request.status < 400 and policy.excludes(request.scope):  # noqa: PLR2004
        return
    if not logger.isEnabledFor(logging.INFO):
        return
    handlers = logger.handlers
    needs_record = len(handlers) != 1 or logger.filters or logger.propagate
    if needs_record or logging.Logger.callHandlers is not _call_handlers or not _write_directly(handlers[0], request):
        logger.handle(AccessRecord(request))


def _write_directly(handler: logging.Handler, request: RequestRecord) -> bool:
    """Write the line without a log record; return False if a filter, handler or formatter of others needs a record.

    This takes two thirds of the time of `logger.handle()`; a test asserts that both write the same bytes.
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
        handler.write_line(formatter.format_request(request, current_fields() if log_fields else {}))
    except Exception:
        handler.handleError(AccessRecord(request))
    finally:
        handler.release()
    return True


class AccessRecord(logging.LogRecord):
    """The log record of a request: our formatters read `request`; others print the request line and the status."""

    def __init__(self, request: RequestRecord) -> None:
        message = f"{request_line_of(request)} {request.status}"
        super().__init__(logger.name, logging.INFO, __file__, 0, "%s", (message,), None)
        self.request = request
        self.request_id = logged_id(request.request_id)
        if log_fields:
            self.fields = current_fields()
