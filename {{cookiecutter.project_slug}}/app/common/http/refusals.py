"""Requests that are refused before the application sees them: why, and the answer."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from app.common.errors import error_response

REFUSAL_KEY: Final = "app.refusal"
"""`RefusalMiddleware` answers a scope with a `Refusal` under this key, which gets its ID and its line as any other."""

BODY_FAULT_KEY: Final = "app.body_fault"
"""A `Refusal` under this key came up while the body was read; the reader gets it as an HTTPException."""

_MAX_DIGITS: Final = 18
"""Python refuses to read numbers of more than 4,300 digits, and no body has a length of more than 18."""


class Refusal(NamedTuple):
    """An HTTP status, a sentence for the client, and whether the connection's further bytes cannot be trusted."""

    status: int
    cause: str
    closes: bool = True


def body_too_large(max_bytes: int) -> Refusal:
    """Return the refusal of a body of more than `max_bytes`; FastAPI's own `max_body_size` answers in plain text."""
    return Refusal(413, f"The request's body is larger than {max_bytes} bytes.", closes=False)


def announces_more(headers: Iterable[tuple[bytes, bytes]], max_bytes: int) -> bool:
    """Tell whether the head announces a body of more than `max_bytes`."""
    for name, value in headers:
        if name == b"content-length":
            digits = value.lstrip(b"0") or b"0"
            if len(digits) > _MAX_DIGITS or (digits.isdigit() and int(digits) > max_bytes):
                return True
    return False


class RefusalMiddleware:
    """Answers what is refused, inside of CORS and of what integrations put around the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the envelope, or hand on."""
        await (refuse if REFUSAL_KEY in scope else self.app)(scope, receive, send)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the envelope; close a connection whose further bytes cannot be trusted (RFC 9112, 9.3)."""
    refusal: Refusal = scope[REFUSAL_KEY]
    response = error_response(refusal.status, refusal.cause)
    if refusal.closes:
        response.headers["connection"] = "close"
    if refusal.status == 426:  # noqa: PLR2004 - the client learns which version it may use (RFC 6455, 4.4)
        response.headers["upgrade"] = "websocket"
        response.headers["sec-websocket-version"] = "13"
    await response(scope, receive, send)
