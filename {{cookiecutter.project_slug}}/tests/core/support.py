"""Run an ASGI application without a client library."""

from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Scope


def http_scope(path: str = "/", headers: Sequence[tuple[bytes, bytes]] = (), **changes: Any) -> Scope:  # noqa: ANN401
    """Return the ASGI scope of a GET request; `changes` are added to it."""
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
    """Run one request and return the messages that the application sent; after `received`, the client disconnects."""
    queue = list(received) or [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        return queue.pop(0) if queue else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
