"""What an access line may tell of a request; whatever the client sent is made safe to print here."""

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

# Tied to the start of a parameter: a search that may begin anywhere takes quadratic time where there is no "=".
_PARAMETER = re.compile(r"(?<![^&;])([^&;=]+)=[^&;]*")
_CACHED_NAME = 256
_UNSAFE = re.compile(r'[^\x21-\x7e]|["\\]')


class AccessLogPolicy:
    """What stays out of the lines: excluded paths, and the values of parameters whose name contains a masked word."""

    def __init__(self) -> None:
        self.excluded: frozenset[str] = frozenset()
        self.masked: tuple[str, ...] = ()

    def configure(self, excluded: tuple[str, ...], masked: tuple[str, ...]) -> None:
        """Take over what the settings say; names are compared without regard to case."""
        self.excluded = frozenset(excluded)
        self.masked = tuple(word.lower() for word in masked)
        is_masked.cache_clear()

    def excludes(self, scope: Scope) -> bool:
        """Tell whether the path is one that is not logged; a prefix under which the service is served is no part of it.

        Some servers and mounts put `root_path` before `path`, and some do not (ASGI 3.0, "HTTP connection scope").
        """
        path: str = scope.get("path", "")
        if path in self.excluded:
            return True
        root: str = scope.get("app_root_path", scope.get("root_path", ""))  # a mount adds its own path to the latter
        return bool(root) and path.removeprefix(root) in self.excluded


policy: Final = AccessLogPolicy()


@lru_cache(maxsize=1024)
def is_masked(name: str) -> bool:
    """Tell whether the parameter's value must not be logged; the name is compared decoded (`p%61ssword`)."""
    decoded = unquote_plus(name).lower()
    return any(word in decoded for word in policy.masked)


def percent_encoded(raw: bytes) -> str:
    """Return the bytes with all but printable ASCII, and quotes and backslashes, in `%XX` form (RFC 3986, 2.1)."""
    text = raw[:MAX_LOGGED_TARGET].decode("latin-1")
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text) if _UNSAFE.search(text) else text


def path_of(record: RequestRecord) -> str:
    """Return the path as it was sent, safe to print; where the server keeps no raw path, the decoded one."""
    scope = record.scope
    return percent_encoded(scope.get("raw_path") or scope.get("path", "").encode("utf-8", "replace"))


def query_of(record: RequestRecord) -> str:
    """Return the query as it was sent, safe to print, its secrets replaced by `***`."""
    raw = record.scope.get("query_string")
    return _PARAMETER.sub(_masked, percent_encoded(raw)) if raw else ""


def _masked(match: re.Match[str]) -> str:
    name = match[1]
    return f"{name}=***" if (is_masked if len(name) < _CACHED_NAME else is_masked.__wrapped__)(name) else match[0]


MAX_ADDRESS: Final = 64
"""Characters; the longest text form of an IPv6 address with a zone and a port is shorter."""


def parse_address(text: str) -> str | None:
    """Return the canonical IP address in `1.2.3.4`, `1.2.3.4:80`, `::1` or `[::1]:80`; None if there is none."""
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
        return str(unmapped(text))
    except ValueError:
        return None


def unmapped(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address; on a dual-stack socket an IPv4 peer appears as `::ffff:1.2.3.4` (RFC 4291, 2.5.5.2)."""
    address = ipaddress.ip_address(text)
    return (address.version == 6 and address.ipv4_mapped) or address  # noqa: PLR2004


@lru_cache(maxsize=1024)
def _address(host: str) -> str:
    address = parse_address(host)
    if address is None:
        return "-"
    return f"[{address}]" if ":" in address else address


def client_of(record: RequestRecord) -> str:
    """Return `address:port`; without the port when a proxy told the address, `-` when there is none."""
    client = record.scope.get("client")
    if not client:
        return "-"
    host = _address(str(client[0])[:64])
    return f"{host}:{client[1]}" if client[1] and host != "-" else host


def user_agent_of(record: RequestRecord) -> str:
    """Return the request's `User-Agent`, cut off where it is too long."""
    for name, value in record.scope["headers"]:
        if name == b"user-agent":
            return str(value[:MAX_LOGGED_USER_AGENT], "latin-1")
    return ""


def method_of(record: RequestRecord) -> str:
    """Return the method; a websocket's handshake is a GET (RFC 6455, 4.1)."""
    return str(record.scope.get("method", "GET"))


def request_line_of(record: RequestRecord) -> str:
    """Return e.g. `GET /api/demo HTTP/1.1`, with path and query as they were sent."""
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
"""What may stand in the format of the line; times in seconds."""


def as_dict(record: RequestRecord) -> dict[str, object]:
    """Return the fields of the JSON form, in their order."""
    scope, ttfb = record.scope, record.ttfb
    return {
        "timestamp": iso_clock.format(record.ended_at),
        "request_id": record.request_id[: logged_length[0]],
        "method": scope.get("method", "GET"),
        "path": path_of(record),
        "query": query_of(record),
        "http_version": scope.get("http_version", "1.1"),
        "status": record.status,
        "duration": int(record.duration * 1e6 + 0.5) / 1e6,  # as round() does, in a quarter of its time
        "ttfb": None if ttfb is None else int(ttfb * 1e6 + 0.5) / 1e6,
        "bytes": record.bytes_sent,
        "client": client_of(record),
        "user_agent": user_agent_of(record),
        "flags": record.flags,
    }
