"""Text and JSON formatters; they escape control characters, so that logged values cannot forge a log line."""

import logging
import re
import time
from typing import Any, Final

from pydantic_core import to_json, to_jsonable_python

from app.common.constants import LOG_FORMAT, NO_REQUEST_ID, REQUEST_ID_LOG_FORMAT
from app.common.redaction import redact
from app.common.request_id import current_request_id, stamp

# C0, DEL, C1, line and paragraph separators, bidirectional controls, byte order mark, lone surrogates: a terminal, a
# log shipper or str.splitlines() could take them for a command or a line break (CWE-117, CWE-150, CVE-2021-42574).
_HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_CONTROLS = bytes(range(32)) + b"\x7f"
_OPTIONS: Final[dict[str, Any]] = {"inf_nan_mode": "null", "serialize_unknown": True, "bytes_mode": "utf8"}
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

STANDARD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id"}
# Not for output: uvicorn's coloured message, the mark of `OwnFileMark`, the IDs as text, the result of `log_filters`.
INTERNAL_ATTRIBUTES: Final = frozenset({"color_message", "has_own_file", "ids_suffix", "passes_filters"})
_NO_EXTRA: Final = STANDARD_ATTRIBUTES | INTERNAL_ATTRIBUTES
_OWN_KEYS: Final = frozenset({"timestamp", "level", "logger", "request_id", "current_id", "parent_id", "file"})
_NO_TASK: Final = {"current_id": NO_REQUEST_ID, "parent_id": NO_REQUEST_ID, "ids_suffix": ""}


def _escape_character(match: re.Match[str]) -> str:
    return _SHORT_ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"


def escape(text: str) -> str:
    r"""Return the text on one line, with control characters escaped as `\\u0000` (a newline as `\n`)."""
    # isprintable() takes three times as long.
    is_plain = text.isascii() and len(text.encode().translate(None, _CONTROLS)) == len(text)
    return text if is_plain or text.isprintable() else _HOSTILE.sub(_escape_character, text)


def dump_json(content: dict[str, Any]) -> str:
    """Return one line of JSON (RFC 8259), hostile characters escaped; a value of another type becomes its `str`."""
    try:
        text = _to_json(content)
    except ValueError:  # bytes that are not UTF-8, or lone surrogates
        text = _to_json({_to_unicode(key): _to_unicode_if_needed(value) for key, value in content.items()})
    return text if text.isascii() and "\x7f" not in text else escape(text)  # JSON itself escapes the C0 controls


def jsonable(value: object) -> Any:  # noqa: ANN401 - of JSON
    """Return the value as dicts, lists, strings and numbers, as `dump_json` would write it."""
    try:
        return to_jsonable_python(value, **_OPTIONS)
    except ValueError:
        return _to_unicode(value)


def _to_json(value: object) -> str:
    return to_json(value, **_OPTIONS).decode()


def _to_unicode_if_needed(value: object) -> object:
    try:
        _to_json(value)
    except ValueError:
        return _to_unicode(value)
    return value


def _to_unicode(value: object) -> str:
    try:
        return str(value).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return f"<{type(value).__name__}>"


class Clock:
    """Formats Unix times with milliseconds and the local zone; all but the milliseconds are cached per second."""

    def __init__(self, pattern: str, separator: str) -> None:
        self._pattern = pattern
        self._separator = separator
        self._cached = (-1, "", "")

    def format(self, seconds: float) -> str:
        """Return e.g. `2026-10-01 16:58:27,183+0000`."""
        second = int(seconds)
        cached_second, text, zone = self._cached
        if second != cached_second:
            local = time.localtime(second)
            text, zone = time.strftime(self._pattern, local), time.strftime("%z", local)
            self._cached = (second, text, zone)
        return f"{text}{self._separator}{int((seconds - second) * 1000):03d}{zone}"


text_clock: Final = Clock("%Y-%m-%d %H:%M:%S", ",")
iso_clock: Final = Clock("%Y-%m-%dT%H:%M:%S", ".")


class TextFormatter(logging.Formatter):
    """Formats a record as one line; a traceback follows, indented, so that none of its lines looks like a record."""

    def __init__(self, fmt: str = REQUEST_ID_LOG_FORMAT, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt, defaults=_NO_TASK)
        self._has_custom_format = fmt not in (LOG_FORMAT, REQUEST_ID_LOG_FORMAT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the record's time with its zone, or in the format `datefmt`."""
        return super().formatTime(record, datefmt) if datefmt else text_clock.format(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the indented lines of the traceback, if any."""
        stamp(record)
        # Redact the message alone: in the whole line, a client could choose an ID that masks what follows it.
        record.message = redact(record.getMessage())
        record.asctime = self.formatTime(record, self.datefmt)
        line = escape(self.formatMessage(record))  # the whole line: a format may include values of `extra`
        if self._has_custom_format:
            line = redact(line)
        details = traceback_of(record)
        return line if details is None else f"{line}\n{indent(details)}"


def traceback_of(record: logging.LogRecord) -> str | None:
    """Return the record's traceback and stack as redacted text, without local variables; None if it has neither."""
    parts = []
    if record.exc_info:
        parts.append(logging.Formatter().formatException(record.exc_info))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return redact("\n".join(parts)) or None


def indent(text: str) -> str:
    """Escape each line and indent it by four spaces."""
    return "\n".join(f"    {escape(line)}" for line in text.split("\n"))


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object that includes the values of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line; a key of `extra` never replaces a standard one."""
        stamp(record)
        content: dict[str, Any] = {
            "timestamp": iso_clock.format(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            "request_id": getattr(record, "request_id", None) or current_request_id(),
            "pid": record.process,
            "file": record.filename,
            "line": record.lineno,
        }
        if (details := traceback_of(record)) is not None:
            content["exception"] = details
        for key, value in vars(record).items():
            if key not in _NO_EXTRA and key not in content:
                content[key] = value if key in _OWN_KEYS else redact.value(jsonable(value), key)
        return dump_json(content)
