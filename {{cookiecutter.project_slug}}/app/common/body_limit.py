"""The largest request body that is read; a larger one ends in 413 with the envelope.

FastAPI's own `max_body_size` answers in plain text, outside of every handler.
"""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.common.errors import error_response


class BodyLimitMiddleware:
    """Refuses a request whose `Content-Length` is above `max_bytes`, and stops one that sends more in chunks."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.cause = f"The request's body is larger than {max_bytes} bytes."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request within the limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # In HTTP/1 a body without a length comes in chunks and says so; later versions say nothing.
        counts = not scope["http_version"].startswith("1")
        for name, value in scope["headers"]:
            if name == b"content-length" and self._is_above(value):
                await error_response(413, self.cause)(scope, receive, send)
                return
            counts = counts or name == b"transfer-encoding"
        if counts:
            receive = self._counted(receive)
        await self.app(scope, receive, send)

    def _is_above(self, declared: bytes) -> bool:
        # Python refuses to read numbers of more than 4,300 digits, and no body has more than 18.
        digits = declared.lstrip(b"0") or b"0"
        return len(digits) > 18 or (digits.isdigit() and int(digits) > self.max_bytes)  # noqa: PLR2004

    def _counted(self, receive: Receive) -> Receive:
        total = 0

        async def counted() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.max_bytes:
                raise HTTPException(413, self.cause)
            return message

        return counted
