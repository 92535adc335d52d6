"""The kinds of requests of the soak test; method and target up to a `~` identify a kind in the access log."""

from collections import Counter
from http import HTTPStatus
from typing import NamedTuple

HOST = "Host: localhost\r\n"
LONG = "x" * 2000
PIPELINED = 4


class Kind(NamedTuple):
    """A kind of request; `share` of every 1,000 requests are of this kind.

    `{id}` is replaced by a unique ID in each request: a cache per path, parameter, user agent or ID would grow visibly.
    """

    method: str
    target: str
    status: int
    share: int = 0
    headers: str = ""
    body: str = ""
    is_logged: bool = True

    @property
    def text(self) -> str:
        """The request as sent over the wire."""
        return f"{self.method} {self.target} HTTP/1.1\r\n{HOST}{self.headers}\r\n{self.body}"

    @property
    def key(self) -> tuple[str, str]:
        """Method and target as found in the access log."""
        return key_of(self.method, self.target)


class SentCounts(NamedTuple):
    """The numbers of requests by kind, of responses by status, and of responses without an ID."""

    kinds: Counter[str]
    statuses: Counter[int]
    without_id: int = 0


def is_demo(kind: Kind) -> bool:
    """Return whether requests of a kind reach the route that logs an application line."""
    return kind.target.partition("?")[0] == "/api/demo"


def key_of(method: str, target: str) -> tuple[str, str]:
    """Return the method, and the target without the part that differs in each request."""
    return method, target.partition("~")[0]


_CLIENT_ID = "X-Request-ID: {id}\r\nUser-Agent: {id}\r\n"
MIXED = {
    "success": Kind("GET", "/api/demo", 200, 400),
    "success, client's request ID": Kind("GET", "/api/demo?k=given", 200, 200, _CLIENT_ID),
    "success, `Connection: close`": Kind("GET", "/api/demo?k=closed", 200, 20, "Connection: close\r\n"),
    "success, long query string": Kind("GET", f"/api/demo?k={LONG}~{{id}}", 200, 10),
    "not found": Kind("GET", "/api/missing~{id}", 404, 80),
    "invalid parameter": Kind("GET", "/api/demo/wait?seconds=x~&{id}=1", 422, 60),
    "method not allowed": Kind("DELETE", "/api/demo", 405, 45),
    "method not allowed, with a body": Kind("POST", "/api/demo", 405, 30, "Content-Length: 1000\r\n", "x" * 1000),
    "streaming response": Kind("GET", "/api/demo/stream?pause=0", 200, 50),
    "rejected by the application": Kind("GET", "/api/demo/refuse", 409, 40),
    # The response has `Connection: close`; a request that is sent later on the same connection would be lost.
    "unhandled exception, with a traceback": Kind("GET", "/api/demo/fail", 500, 5),
    "health check (no access log line)": Kind("GET", "/livez", 200, 60, is_logged=False),
}
"""The kinds that wrk sends, in mixed order."""

_UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"

EDGE_CASES = {
    "pipelined": Kind("GET", "/api/demo?k=pipelined", 200),
    "new connection": Kind("GET", "/api/demo?k=new", 200, headers="Connection: close\r\n"),
    "malformed header": Kind("GET", "/malformed", 400, headers="no colon\r\n"),
    "rejected WebSocket handshake": Kind(
        "GET", "/websocket", 403, headers=_UPGRADE.format(key="dGhlIHNhbXBsZSBub25jZQ==")
    ),
    "request body too large": Kind("POST", "/api/demo?k=large", 413, headers="Content-Length: 20000000\r\n", body="x"),
    "client disconnects before the response": Kind("GET", "/api/demo/wait?seconds=0.05&k=left", 200),
    "client disconnects during the response": Kind("GET", "/api/demo/stream?pause=0.02&k=broken", 200),
    "client disconnects during the request body": Kind(
        "POST", "/api/demo?k=half", 405, headers="Content-Length: 9\r\n", body="x"
    ),
    "client disconnects during the request head (no access log line)": Kind(
        "GET", "/api/demo?k=head", 0, is_logged=False
    ),
}
"""The kinds that wrk cannot send, or that would break its run."""

KINDS = MIXED | EDGE_CASES
DEMO = [name for name, kind in KINDS.items() if kind.status == HTTPStatus.OK and is_demo(kind)]
"""The kinds that also write a line to demo.log."""
