"""The kinds of requests of the soak; each is known in the access log by its method and its target up to a `~`."""

from collections import Counter
from http import HTTPStatus
from typing import NamedTuple

HOST = "Host: localhost\r\n"
LONG = "x" * 2000
PIPELINED = 4


class Kind(NamedTuple):
    """A request; `share` of 1,000 are of this kind.

    `{id}` becomes an ID of its own, so that what is kept for each path, parameter, agent or ID would be seen to grow.
    """

    method: str
    target: str
    status: int
    share: int = 0
    headers: str = ""
    body: str = ""
    leaves_line: bool = True

    @property
    def text(self) -> str:
        """What goes over the wire."""
        return f"{self.method} {self.target} HTTP/1.1\r\n{HOST}{self.headers}\r\n{self.body}"

    @property
    def key(self) -> tuple[str, str]:
        """By what it is known."""
        return key_of(self.method, self.target)


class Sent(NamedTuple):
    """What clients have sent of each kind, the answers of each status, and those without an ID."""

    kinds: Counter[str]
    statuses: Counter[int]
    nameless: int = 0


def is_demo(kind: Kind) -> bool:
    """Tell whether a kind goes to the route that logs a line."""
    return kind.target.partition("?")[0] == "/api/demo"


def key_of(method: str, target: str) -> tuple[str, str]:
    """Give method and target without what is different each time."""
    return method, target.partition("~")[0]


_GIVEN = "X-Request-ID: {id}\r\nUser-Agent: {id}\r\n"
MIXED = {
    "answered": Kind("GET", "/api/demo", 200, 400),
    "answered, with an ID that is given": Kind("GET", "/api/demo?k=given", 200, 200, _GIVEN),
    "answered, connection closed": Kind("GET", "/api/demo?k=closed", 200, 20, "Connection: close\r\n"),
    "answered, long query": Kind("GET", f"/api/demo?k={LONG}~{{id}}", 200, 10),
    "not found": Kind("GET", "/api/missing~{id}", 404, 80),
    "not valid": Kind("GET", "/api/demo/wait?seconds=x~&{id}=1", 422, 60),
    "wrong method": Kind("DELETE", "/api/demo", 405, 45),
    "wrong method, with a body": Kind("POST", "/api/demo", 405, 30, "Content-Length: 1000\r\n", "x" * 1000),
    "streamed": Kind("GET", "/api/demo/stream?pause=0", 200, 50),
    "refused by the service": Kind("GET", "/api/demo/refuse", 409, 40),
    # The answer says that the connection ends with it; who went on sending there would lose requests.
    "failed, with a traceback": Kind("GET", "/api/demo/fail", 500, 5),
    "alive (no line)": Kind("GET", "/livez", 200, 60, leaves_line=False),
}
"""What wrk sends, in a mix."""

_UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"

ODD = {
    "pipelined": Kind("GET", "/api/demo?k=pipelined", 200),
    "new connection": Kind("GET", "/api/demo?k=new", 200, headers="Connection: close\r\n"),
    "malformed": Kind("GET", "/malformed", 400, headers="no colon\r\n"),
    "websocket refused": Kind("GET", "/websocket", 403, headers=_UPGRADE.format(key="dGhlIHNhbXBsZSBub25jZQ==")),
    "body too large": Kind("POST", "/api/demo?k=large", 413, headers="Content-Length: 20000000\r\n", body="x"),
    "client leaves before the answer": Kind("GET", "/api/demo/wait?seconds=0.05&k=left", 200),
    "client leaves within the answer": Kind("GET", "/api/demo/stream?pause=0.02&k=broken", 200),
    "client leaves within its body": Kind("POST", "/api/demo?k=half", 405, headers="Content-Length: 9\r\n", body="x"),
    "client leaves within the head (no line)": Kind("GET", "/api/demo?k=head", 0, leaves_line=False),
}
"""What wrk cannot send, or would not stop at."""

KINDS = MIXED | ODD
DEMO = [name for name, kind in KINDS.items() if kind.status == HTTPStatus.OK and is_demo(kind)]
"""Those that also leave a line in demo.log."""
