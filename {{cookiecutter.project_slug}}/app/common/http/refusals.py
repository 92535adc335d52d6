"""Refused requests: the reasons, and the middleware that responds to them before the application sees them."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from app.common.errors import error_response

REFUSAL_KEY: Final = "app.refusal"
"""Scope key of a `Refusal` that `RefusalMiddleware` sends; the request still gets an ID and an access log line."""

BODY_FAULT_KEY: Final = "app.body_fault"
"""Scope key of a `Refusal` that is found while the body is read; `Exchange.receive` raises it as HTTPException."""

_MAX_DIGITS: Final = 18
"""`int()` rejects numbers of more than 4,300 digits, and no `Content-Length` needs more than 18."""


class Refusal(NamedTuple):
    """HTTP status and cause of a refusal; `closes`: the connection is closed, as its next bytes cannot be trusted."""

    status: int
    cause: str
    closes: bool = True


def body_too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a body larger than `max_bytes`; FastAPI's own `max_body_size` responds with plain text."""
    return Refusal(413, f"The request body is larger than {max_bytes} bytes.", closes=False)


def announces_larger_body(headers: Iterable[tuple[bytes, bytes]], max_bytes: int) -> bool:
    """Return whether `Content-Length` is larger than `max_bytes`."""
    for name, value in headers:
        if name == b"content-length":
            digits = value.lstrip(b"0") or b"0"
            if len(digits) > _MAX_DIGITS or (digits.isdigit() and int(digits) > max_bytes):
                return True
    return False


class RefusalMiddleware:
    """Responds to refused requests, inside the CORS middleware and the middleware of integrations."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with the error envelope if the request is refused; otherwise call the application."""
        await (refuse if REFUSAL_KEY in scope else self.app)(scope, receive, send)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the error envelope; close the connection if its following bytes cannot be trusted (RFC 9112, 9.3)."""
    refusal: Refusal = scope[REFUSAL_KEY]
    response = error_response(refusal.status, refusal.cause)
    if refusal.closes:
        response.headers["connection"] = "close"
    if refusal.status == 426:  # noqa: PLR2004 - names the supported version (RFC 6455, 4.4)
        response.headers["upgrade"] = "websocket"
        response.headers["sec-websocket-version"] = "13"
    await response(scope, receive, send)
