"""Strict parsers of access and application log lines, in text and JSON format."""

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.support.client import Json

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}[+-]\d{4}"
# The fields that the option `tracing` adds.
TRACE = r"(?: trace_id=(?P<trace_id>[0-9a-f]{32}) span_id=(?P<span_id>[0-9a-f]{16}))?"
TEXT_ACCESS = re.compile(
    rf"\[(?P<timestamp>{STAMP})\] (?P<request_id>[!-~]+) (?P<status>\d{{3}}) (?P<duration>\d+\.\d{{3}})s "
    r'(?P<client>[!-~]+) - "(?P<line>(?:[^"\\\x00-\x1f\x7f]|\\.)*)"'
    r"(?: (?P<flags>[A-Za-z_][\w.]*(?:,[A-Za-z_][\w.]*)*))?"
    rf"{TRACE}",
    re.ASCII,
)
TEXT_APP = re.compile(
    rf"(?P<timestamp>{STAMP}) \[pid:(?P<pid>\d+)\] (?P<file>[^\s(]+)\(line:(?P<line>\d+)\) "
    rf"(?P<level>[A-Z]+) \[(?P<request_id>[!-~]+)\](?: \[(?P<current_id>[!-~]+) (?P<parent_id>[!-~]+)\])?{TRACE} "
    r"(?P<message>.*)"
)
TARGET_KEYS = ("method", "path", "query", "http_version")
ACCESS_KEYS = frozenset(
    ("timestamp", "request_id", *TARGET_KEYS, "status", "duration", "ttfb", "bytes", "client", "user_agent", "flags")
)
APP_KEYS = frozenset(("timestamp", "level", "logger", "message", "request_id", "pid", "file", "line"))
IDS = ("current_id", "parent_id", "trace_id", "span_id")
INDENT = "    "


@dataclass(frozen=True)
class AccessLine:
    """A parsed access log line; only the JSON format has `bytes`, `ttfb` and `user_agent`."""

    raw: str
    timestamp: str
    request_id: str
    status: int
    duration: float
    client: str
    method: str
    target: str
    http_version: str
    flags: tuple[str, ...]
    ttfb: float | None = None
    bytes: int | None = None
    user_agent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


@dataclass(frozen=True)
class AppLine:
    """A parsed application log line, with its traceback in `exception`."""

    timestamp: str
    level: str
    message: str
    request_id: str
    pid: int
    file: str
    line: int
    exception: str = ""
    logger: str | None = None
    current_id: str | None = None
    parent_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


def parse_access(text: str) -> AccessLine:
    """Parse an access log line in text or JSON format; ValueError if it is invalid."""
    return _json_access(text) if text.startswith("{") else _text_access(text)


def _text_access(text: str) -> AccessLine:
    match = TEXT_ACCESS.fullmatch(text)
    if match is None:
        raise ValueError(f"not an access log line: {text!r}")
    parts = match["line"].split(" ")
    if len(parts) < 3:
        raise ValueError(f"no request line in {text!r}")
    return AccessLine(
        raw=text,
        timestamp=match["timestamp"],
        request_id=match["request_id"],
        status=int(match["status"]),
        duration=float(match["duration"]),
        client=match["client"],
        method=parts[0],
        target=" ".join(parts[1:-1]),
        http_version=parts[-1].removeprefix("HTTP/"),
        flags=tuple(match["flags"].split(",")) if match["flags"] else (),
        trace_id=match["trace_id"],
        span_id=match["span_id"],
    )


def _json_access(text: str) -> AccessLine:
    data = _json_object(text, ACCESS_KEYS)
    query = str(data["query"] or "")
    return AccessLine(
        raw=text,
        timestamp=str(data["timestamp"]),
        request_id=_typed(data, "request_id", str),
        status=_typed(data, "status", int),
        duration=float(_typed(data, "duration", (int, float))),
        client=str(data["client"]),
        method=_typed(data, "method", str),
        target=_typed(data, "path", str) + (f"?{query}" if query else ""),
        http_version=_typed(data, "http_version", str),
        flags=tuple(_typed(data, "flags", list)),
        ttfb=None if data["ttfb"] is None else float(_typed(data, "ttfb", (int, float))),
        bytes=_typed(data, "bytes", int),
        user_agent=data["user_agent"],
        trace_id=data.get("trace_id"),
        span_id=data.get("span_id"),
    )


def parse_app(text: str) -> tuple[list[AppLine], list[str]]:
    """Parse a complete application log; return its records, and the lines that are not part of a record."""
    records: list[AppLine] = []
    unmatched: list[str] = []
    inside = False
    for line in text.split("\n"):
        if line.startswith(INDENT) and inside:
            last = records[-1]
            body = f"{last.exception}\n{line[len(INDENT) :]}".lstrip("\n")
            records[-1] = AppLine(**{**last.__dict__, "exception": body})
            continue
        record = _app_record(line)
        inside = record is not None
        if record is not None:
            records.append(record)
        elif line:
            unmatched.append(line)
    return records, unmatched


def _app_record(line: str) -> AppLine | None:
    if line.startswith("{"):
        try:
            data = _json_object(line, APP_KEYS)
        except ValueError:
            return None
        names = ("timestamp", "level", "message", "request_id", "pid", "file", "line", "logger")
        values: dict[str, Any] = {name: data.get(name) for name in (*names, *IDS)}
        return AppLine(**values, exception=data.get("exception") or "")
    match = TEXT_APP.fullmatch(line)
    if match is None:
        return None
    fields: dict[str, Any] = match.groupdict()
    return AppLine(**{**fields, "pid": int(match["pid"]), "line": int(match["line"])})


def _json_object(text: str, keys: frozenset[str]) -> dict[str, Any]:
    data = json.loads(text)
    if not isinstance(data, dict) or keys - data.keys():
        raise ValueError(f"keys are missing in {text!r}")
    return data


def _typed(data: Json, key: str, kind: type | tuple[type, ...]) -> Json:
    if not isinstance(data[key], kind) or isinstance(data[key], bool):
        raise ValueError(f"{key} is {data[key]!r}")  # noqa: TRY004
    return data[key]
