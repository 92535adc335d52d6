"""The fields of the access log line; values that the client sent are escaped here."""

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final
from urllib.parse import unquote_plus

from starlette.types import Scope

from app.common.constants import MAX_LOGGED_TARGET, MAX_LOGGED_USER_AGENT
from app.common.context.request_record import RequestRecord
from app.common.logs.formatters import escape, iso_clock, text_clock
from app.common.request_id import logged_length

# Anchored at the start of a parameter: a match that may start anywhere takes quadratic time if there is no "=".
_PARAMETER = re.compile(r"(?<![^&;])([^&;=]+)=[^&;]*")
_MAX_CACHED_NAME = 256
_UNSAFE = re.compile(r'[^\x21-\x7e]|["\\]')


class AccessLogPolicy:
    """Decides what the access log omits: excluded paths, and the values of query parameters with a masked name."""

    def __init__(self) -> None:
        self.excluded: frozenset[str] = frozenset()
        self.masked: tuple[str, ...] = ()

    def configure(self, excluded: tuple[str, ...], masked: tuple[str, ...]) -> None:
        """Set the excluded paths, and the words that mask every parameter whose name contains one (ignoring case)."""
        self.excluded = frozenset(excluded)
        self.masked = tuple(word.lower() for word in masked)
        is_masked.cache_clear()

    def excludes(self, scope: Scope) -> bool:
        """Return whether the path is excluded; `root_path`, the prefix of the service, is not part of the comparison.

        Some servers and mounts include `root_path` in `path`, others do not (ASGI 3.0, "HTTP connection scope").
        """
        path: str = scope.get("path", "")
        if path in self.excluded:
            return True
        root: str = scope.get("app_root_path", scope.get("root_path", ""))  # a mount appends its path to root_path
        return bool(root) and path.removeprefix(root) in self.excluded


policy: Final = AccessLogPolicy()


@lru_cache(maxsize=1024)
def is_masked(name: str) -> bool:
    """Return whether the value of this query parameter is masked; the name is decoded first (`p%61ssword`)."""
    decoded = unquote_plus(name).lower()
    return any(word in decoded for word in policy.masked)


def percent_encode(raw: bytes) -> str:
    """Percent-encode all but printable ASCII, and also quotes and backslashes (RFC 3986, 2.1); truncate long input."""
    text = raw[:MAX_LOGGED_TARGET].decode("latin-1")
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text) if _UNSAFE.search(text) else text


def path_of(record: RequestRecord) -> str:
    """Return the raw path, percent-encoded; the decoded path if the server does not provide `raw_path`."""
    scope = record.scope
    return percent_encode(scope.get("raw_path") or scope.get("path", "").encode("utf-8", "replace"))


def query_of(record: RequestRecord) -> str:
    """Return the raw query string, percent-encoded, with `***` for the value of each masked parameter."""
    raw = record.scope.get("query_string")
    return _PARAMETER.sub(_mask_value, percent_encode(raw)) if raw else ""


def _mask_value(match: re.Match[str]) -> str:
    name = match[1]
    return f"{name}=***" if (is_masked if len(name) < _MAX_CACHED_NAME else is_masked.__wrapped__)(name) else match[0]


MAX_ADDRESS: Final = 64
"""Maximum characters of an address; the longest IPv6 address with a zone and a port is shorter."""


def parse_address(text: str) -> str | None:
    """Return the canonical IP address of `1.2.3.4`, `1.2.3.4:80`, `::1` or `[::1]:80`; None if it is invalid."""
    text = text.strip()
    if len(text) > MAX_ADDRESS or "%" in text:
        return None
    if text.startswith("["):
        text, closing, _ = text[1:].partition("]")
        if not closing:
            return None
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(to_ip_address(text))
    except ValueError:
        return None


def to_ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address; the IPv4-mapped `::ffff:1.2.3.4` of a dual-stack socket becomes IPv4 (RFC 4291, 2.5.5.2)."""
    address = ipaddress.ip_address(text)
    return (address.version == 6 and address.ipv4_mapped) or address  # noqa: PLR2004


@lru_cache(maxsize=1024)
def _display_address(host: str) -> str:
    address = parse_address(host)
    if address is None:
        return "-"
    return f"[{address}]" if ":" in address else address


def client_of(record: RequestRecord) -> str:
    """Return `address:port`; without a port if the address comes from `X-Forwarded-For`, `-` without a valid one."""
    client = record.scope.get("client")
    if not client:
        return "-"
    host = _display_address(str(client[0])[:64])
    return f"{host}:{client[1]}" if client[1] and host != "-" else host


def user_agent_of(record: RequestRecord) -> str:
    """Return the `User-Agent` header, truncated to `MAX_LOGGED_USER_AGENT` bytes; not escaped."""
    for name, value in record.scope["headers"]:
        if name == b"user-agent":
            return str(value[:MAX_LOGGED_USER_AGENT], "latin-1")
    return ""


def method_of(record: RequestRecord) -> str:
    """Return the method; a WebSocket handshake is a GET (RFC 6455, 4.1)."""
    return str(record.scope.get("method", "GET"))


def request_line_of(record: RequestRecord) -> str:
    """Return the request line, e.g. `GET /api/demo?page=2 HTTP/1.1`, percent-encoded and masked."""
    scope = record.scope
    target = f"{path_of(record)}?{query_of(record)}" if scope.get("query_string") else path_of(record)
    return f"{scope.get('method', 'GET')} {target} HTTP/{scope.get('http_version', '1.1')}"


FIELDS: Final[dict[str, Callable[[RequestRecord], Any]]] = {
    "asctime": lambda record: text_clock.format(record.ended_at),
    "timestamp": lambda record: iso_clock.format(record.ended_at),
    "request_id": lambda record: record.request_id[: logged_length[0]],
    "method": method_of,
    "path": path_of,
    "query": query_of,
    "http_version": lambda record: record.scope.get("http_version", "1.1"),
    "status": attrgetter("status"),
    "status_code": attrgetter("status"),
    "duration": lambda record: f"{record.duration:.3f}",
    "request_time": lambda record: f"{record.duration:.3f}",
    "ttfb": lambda record: "-" if record.ttfb is None else f"{record.ttfb:.3f}",
    "bytes": attrgetter("bytes_sent"),
    "client": client_of,
    "client_addr": client_of,
    "user_agent": lambda record: escape(user_agent_of(record)).replace('"', '\\"'),
    "flags": lambda record: ",".join(record.flags) or "-",
    "flags_suffix": lambda record: " " + ",".join(record.flags) if record.flags else "",
    "request_line": request_line_of,
}
"""The fields that an access log format may contain; times are in seconds."""


def as_dict(record: RequestRecord) -> dict[str, object]:
    """Return the fields of the JSON access log line, in output order."""
    scope, ttfb = record.scope, record.ttfb
    return {
        "timestamp": iso_clock.format(record.ended_at),
        "request_id": record.request_id[: logged_length[0]],
        "method": scope.get("method", "GET"),
        "path": path_of(record),
        "query": query_of(record),
        "http_version": scope.get("http_version", "1.1"),
        "status": record.status,
        "duration": int(record.duration * 1e6 + 0.5) / 1e6,  # like round(), in a quarter of the time
        "ttfb": None if ttfb is None else int(ttfb * 1e6 + 0.5) / 1e6,
        "bytes": record.bytes_sent,
        "client": client_of(record),
        "user_agent": user_agent_of(record),
        "flags": record.flags,
    }
