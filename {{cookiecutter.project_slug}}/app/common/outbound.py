"""HTTP clients that send the current request ID to other services.

`OutboundAsyncClient` and `OutboundClient` are httpx2's clients with three additions:

- Inside a request, calls to allowed hosts carry its ID. A header that the caller sets takes precedence.
- After a redirect to another origin (scheme, host and port), neither the ID nor a header set by the caller is sent,
  even if that host is allowed. After a redirect back to the first origin, it is sent again.
- Each HTTP exchange, including redirects and authentication steps, is logged as one record of `app.outbound`.

Defaults are httpx2's: 5 s each to connect, read, write and get a connection from the pool; redirects not followed.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2

from app.common.constants import MAX_LOGGED_TARGET, NO_REQUEST_ID, REQUEST_ID_HEADER
from app.common.context.observers import call_observers, injectors
from app.common.request_id import current_request_id

if TYPE_CHECKING:
    from app.settings import Settings

logger = logging.getLogger("app.outbound")

# httpx2 copies the extensions of a request to the next request after a redirect, automatic or manual.
_FIRST_ORIGIN = "app.first_origin"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_HOST_NAME = re.compile(r"[a-z0-9_:-][a-z0-9._:-]*")


class _Rule(NamedTuple):
    """One allowed host; a leading dot matches all subdomains, and a missing port matches every port."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> "_Rule":
        """Parse `host`, `.domain` or `*.domain`, each with an optional `:port`; raise ValueError for anything else."""
        rest = entry.removeprefix("*.") if entry.startswith("*") else entry.removeprefix(".")
        try:
            url = httpx2.URL(f"//{rest}")
        except httpx2.InvalidURL:
            url = httpx2.URL()
        host, netloc = url.raw_host.decode("ascii"), url.netloc.decode("ascii")
        if not _HOST_NAME.fullmatch(host) or str(url) != f"//{netloc}":
            raise ValueError(f"The outbound host {entry!r} is not a host, .domain or *.domain with an optional :port.")
        return cls(host if rest == entry else f".{host}", url.port)

    def matches(self, url: httpx2.URL) -> bool:
        host = url.raw_host.decode("ascii")
        named = host.endswith(self.host) if self.host.startswith(".") else host == self.host
        return named and self.port in (None, url.port or _DEFAULT_PORTS.get(url.scheme))


class _Correlation:
    """Adds the request ID and the injected headers to requests."""

    def __init__(self, header: str, allowed_hosts: Iterable[str]) -> None:
        if isinstance(allowed_hosts, str):
            raise TypeError("allowed_hosts must be a collection of hosts, not one string.")
        self._header = header
        self._rules = tuple(map(_Rule.parse, allowed_hosts))

    def stamp(self, request: httpx2.Request) -> httpx2.Request:
        """Return the request to send; the given one keeps its headers, so that it can be sent again."""
        origin = (request.url.scheme, request.url.netloc)
        headers = httpx2.Headers(request.headers)
        if request.extensions.setdefault(_FIRST_ORIGIN, origin) != origin:
            headers.pop(self._header, None)
        elif any(rule.matches(request.url) for rule in self._rules):
            if (request_id := current_request_id()) != NO_REQUEST_ID:
                headers.setdefault(self._header, request_id)
            for injector in injectors.values():
                injector(headers)
        return request if headers == request.headers else _copy(request, headers)


def _copy(given: httpx2.Request, headers: httpx2.Headers) -> httpx2.Request:
    copy = httpx2.Request(given.method, given.url, headers=headers, stream=given.stream, extensions=given.extensions)
    if isinstance(given.stream, httpx2.ByteStream):
        copy.read()  # already in memory; makes `response.request.content` readable
    return copy


class OutboundCall:
    """One outgoing request and its response, for `call_observers`; `response` is set when it arrives."""

    def __init__(self, request: httpx2.Request) -> None:
        self.request = request
        self.response: httpx2.Response | None = None


@contextmanager
def _call(correlation: _Correlation, request: httpx2.Request) -> Iterator[OutboundCall]:
    """Add the headers, enter the observers and log the exchange; its duration ends with the response's headers."""
    call = OutboundCall(request)
    with ExitStack() as stack:
        for observe in call_observers.values():
            stack.enter_context(observe(call))
        call.request = correlation.stamp(request)
        started = time.perf_counter()
        try:
            yield call
        except BaseException as error:  # also a cancellation, which nothing else logs
            _log(call.request, started, error)
            raise
        if call.response is not None:
            _log(call.request, started, call.response.status_code)


def _log(request: httpx2.Request, started: float, outcome: int | BaseException) -> None:
    duration = time.perf_counter() - started
    failed = isinstance(outcome, BaseException)
    result = type(outcome).__name__ if failed else outcome
    host = request.url.netloc.decode("ascii")
    path = request.url.raw_path.partition(b"?")[0].decode("ascii")[:MAX_LOGGED_TARGET]
    fields = {"http_method": request.method, "http_host": host, "http_path": path, "duration": round(duration, 6)}
    fields |= {"http_status": None, "http_error": result} if failed else {"http_status": result}
    level = logging.WARNING if failed else logging.INFO
    logger.log(level, "%s %s %s %s %.3fs", request.method, host, path, result, duration, extra=fields)


class _Correlated:
    def __init__(self, *, header: str = REQUEST_ID_HEADER, allowed_hosts: Iterable[str] = (), **options: Any) -> None:  # noqa: ANN401
        self._correlation = _Correlation(header, allowed_hosts)
        super().__init__(**options)


class OutboundAsyncClient(_Correlated, httpx2.AsyncClient):
    """An `httpx2.AsyncClient` that sends the request ID to allowed hosts and logs each call.

    `header`: name of the request ID header. `allowed_hosts`: `host` or `host:port`; `.domain` or `*.domain` for its
    subdomains, but not the domain itself; anything else raises ValueError. Other arguments are passed to httpx2.
    """

    # Undocumented, but the only method that every exchange passes, with any transport, proxy or mount. If httpx2
    # renames it, mypy and the tests fail.
    async def _send_single_request(self, request: httpx2.Request) -> httpx2.Response:
        with _call(self._correlation, request) as call:
            response = call.response = await super()._send_single_request(call.request)
        return response


class OutboundClient(_Correlated, httpx2.Client):
    """The synchronous variant of `OutboundAsyncClient`, for code that runs in threads."""

    def _send_single_request(self, request: httpx2.Request) -> httpx2.Response:
        with _call(self._correlation, request) as call:
            response = call.response = super()._send_single_request(call.request)
        return response


def outbound_async_client(settings: "Settings", **options: Any) -> OutboundAsyncClient:  # noqa: ANN401
    """Return an asynchronous client with REQUEST_ID_HEADER and OUTBOUND_HOSTS; the caller must close it."""
    return OutboundAsyncClient(header=settings.request_id_header, allowed_hosts=settings.outbound_hosts, **options)


def outbound_client(settings: "Settings", **options: Any) -> OutboundClient:  # noqa: ANN401
    """Return a synchronous client with REQUEST_ID_HEADER and OUTBOUND_HOSTS; the caller must close it."""
    return OutboundClient(header=settings.request_id_header, allowed_hosts=settings.outbound_hosts, **options)
