"""The last word: one line for each request, written when its response is over."""

import logging
import os
import re
import time
from functools import cache

from app.common.access_fields import FIELDS, as_dict, policy, request_line_of
from app.common.constants import ACCESS_LOG_FORMAT, ACCESS_LOGGER
from app.common.log_format import dump_json, escape, iso_clock
from app.common.request_id import logged_id
from app.common.request_record import RequestRecord, current_fields, fields_suffix, log_fields

logger = logging.getLogger(ACCESS_LOGGER)

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
        line = self._pattern % tuple([field(request) for field in self._fields])
        fields = getattr(record, "fields", None)
        return line + escape(fields_suffix(fields)) if fields else line


class JsonAccessFormatter(logging.Formatter):
    """Prints an access record as one JSON object; `duration` and `ttfb` in seconds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; a record that is no access record has only its message."""
        request = getattr(record, "request", None)
        if not isinstance(request, RequestRecord):
            return dump_json({"timestamp": iso_clock.format(record.created), "message": record.getMessage()})
        content, fields = as_dict(request), getattr(record, "fields", {})
        return dump_json(content | {f"{key}_" if key in content else key: value for key, value in fields.items()})


def write_access_line(request: RequestRecord) -> None:
    """Give the request's record to the access logger's handlers; excluded paths are written only when they fail."""
    if request.scope.get("path") in policy.excluded and request.status < 400:  # noqa: PLR2004
        return
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.handle(AccessRecord(request))


class AccessRecord(logging.LogRecord):
    """The record of a request for any handler; `request` is what our formatters read.

    It copies what is the same for every line, which saves four fifths of what LogRecord's own set-up costs.
    """

    def __init__(self, request: RequestRecord) -> None:
        self.__dict__.update(_what_all_records_share())
        self.created = time.time()
        self.msecs = self.created % 1 * 1000
        self.args = (AccessMessage(request),)
        self.request = request
        self.request_id = logged_id(request.request_id)
        if log_fields:
            self.fields = current_fields()


@cache
def _what_all_records_share() -> dict[str, object]:
    return vars(logging.LogRecord(logger.name, logging.INFO, __file__, 0, "%s", (), None))


os.register_at_fork(after_in_child=_what_all_records_share.cache_clear)  # another process, another process ID


class AccessMessage:
    """What a handler without our formatter prints: the request line and the status."""

    __slots__ = ("_request",)

    def __init__(self, request: RequestRecord) -> None:
        self._request = request

    def __str__(self) -> str:
        return f"{request_line_of(self._request)} {self._request.status}"
