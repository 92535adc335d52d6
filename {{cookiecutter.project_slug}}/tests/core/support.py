"""A way to drive an application without a client library."""

from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Scope


def http_scope(path: str = "/", headers: Sequence[tuple[bytes, bytes]] = (), **changes: Any) -> Scope:  # noqa: ANN401
    """Return what a server says of a GET request."""
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "headers": list(headers),
        "client": ("192.0.2.1", 50000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


async def drive(app: ASGIApp, scope: Scope, *received: Message) -> list[Message]:
    """Run one request and return what the application sent; when `received` is used up, the client is gone."""
    waiting = list(received) or [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
