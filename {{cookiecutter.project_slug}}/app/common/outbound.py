"""HTTP clients whose calls carry the ID of the request they are made for.

`OutboundAsyncClient` and `OutboundClient` are httpx2's clients with three additions:

- The current request ID goes to the allowed hosts only. Outside a request none is sent. A header set by hand wins.
- After a redirect to another origin (scheme, host and port) neither the ID nor a header set by hand goes along, even if
  that host is allowed; on the way back to the first origin it is sent again.
- Every HTTP exchange (each redirect and each step of an authentication is one) writes one line to `app.outbound`.

All else is httpx2's, also its defaults: 5 s each to connect, read, write and get a connection; redirects not followed.
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

# httpx2 copies a request's extensions to the request that follows its redirect, automatic or by hand.
_FIRST_ORIGIN = "app.first_origin"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_HOST_NAME = re.compile(r"[a-z0-9_:-][a-z0-9._:-]*")


class _Rule(NamedTuple):
    """One entry of the allow-list; a host that begins with a dot stands for its subdomains, no port for every port."""

    host: str
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> "_Rule":
        """Read `host`, `.domain` or `*.domain`, each with an optional `:port`; raise ValueError for anything else."""
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
    """Decides what the request of an exchange says about the ID."""

    def __init__(self, header: str, allowed_hosts: Iterable[str]) -> None:
        if isinstance(allowed_hosts, str):
            raise TypeError("allowed_hosts must be a collection of hosts, not one string.")
        self._header = header
        self._rules = tuple(map(_Rule.parse, allowed_hosts))

    def stamp(self, request: httpx2.Request) -> httpx2.Request:
        """Return the request as it is to be sent; the given one keeps its headers, so it may be sent again."""
        origin = (request.url.scheme, request.url.netloc)
        headers = httpx2.Headers(request.headers)
        if request.extensions.setdefault(_FIRST_ORIGIN, origin) != origin:
            headers.pop(self._header, None)
        elif any(rule.matches(request.url) for rule in self._rules):
            if (request_id := current_request_id()) != NO_REQUEST_ID:
                headers.setdefault(self._header, request_id)
            for inject in injectors.values():
                inject(headers)
        return request if headers == request.headers else _copy(request, headers)


def _copy(given: httpx2.Request, headers: httpx2.Headers) -> httpx2.Request:
    copy = httpx2.Request(given.method, given.url, headers=headers, stream=given.stream, extensions=given.extensions)
    if isinstance(given.stream, httpx2.ByteStream):
        copy.read()  # in memory already: keeps `response.request.content` readable
    return copy


class OutboundCall:
    """One request as it is sent, and what became of it: for `call_observers`."""

    def __init__(self, request: httpx2.Request) -> None:
        self.request = request
        self.response: httpx2.Response | None = None


@contextmanager
def _call(correlation: _Correlation, request: httpx2.Request) -> Iterator[OutboundCall]:
    """Stamp the request and write the line of its exchange; the seconds end with the response's headers."""
    call = OutboundCall(request)
    with ExitStack() as stack:
        for watch in call_observers.values():
            stack.enter_context(watch(call))
        call.request = correlation.stamp(request)
        started = time.perf_counter()
        try:
            yield call
        except BaseException as error:  # also a cancelled call, which leaves no other trace
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

    `header`: name of the ID's header. `allowed_hosts`: `host`, `host:port`; `.domain` or `*.domain` for subdomains, but
    not the domain itself; anything else raises ValueError. All other arguments are httpx2's.
    """

    # Undocumented, but the one place that every exchange passes, whatever its transport, proxy or mount. Should httpx2
    # rename it, mypy and the tests fail.
    async def _send_single_request(self, request: httpx2.Request) -> httpx2.Response:
        with _call(self._correlation, request) as call:
            response = call.response = await super()._send_single_request(call.request)
        return response


class OutboundClient(_Correlated, httpx2.Client):
    """The same as `OutboundAsyncClient`, for code that runs in threads."""

    def _send_single_request(self, request: httpx2.Request) -> httpx2.Response:
        with _call(self._correlation, request) as call:
            response = call.response = super()._send_single_request(call.request)
        return response


def outbound_async_client(settings: "Settings", **options: Any) -> OutboundAsyncClient:  # noqa: ANN401
    """Return an asynchronous client with the header and hosts of the settings; the caller closes it."""
    return OutboundAsyncClient(header=settings.request_id_header, allowed_hosts=settings.outbound_hosts, **options)


def outbound_client(settings: "Settings", **options: Any) -> OutboundClient:  # noqa: ANN401
    """Return a synchronous client with the header and hosts of the settings; the caller closes it."""
    return OutboundClient(header=settings.request_id_header, allowed_hosts=settings.outbound_hosts, **options)
