"""What several test modules share: the lines a service wrote, and a way to drive it without a client library."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Scope

HEADER = "X-Request-ID"
ID = "5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a"
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Logs:
    """The files in the folder LOG_PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, name: str) -> list[str]:
        """Return the lines as a program sees them that ends a line wherever Unicode allows it."""
        path = self.folder / name
        return path.read_text("utf-8").splitlines() if path.exists() else []

    def wait(self, name: str, text: str, count: int = 1) -> list[str]:
        """Return the lines with this text as soon as there are `count`, or after five seconds those there are.

        A server writes the line when the client may have read the answer already.
        """
        deadline = time.monotonic() + 5
        while len(found := [line for line in self.lines(name) if text in line]) < count:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return found

    @property
    def access(self) -> list[str]:
        return self.lines("access.log")

    @property
    def error(self) -> list[str]:
        return self.lines("error.log")


def connect(app: ASGIApp, peer: str = "testclient") -> TestClient:
    """Return a client whose connections come from the address `peer`; a 500 is answered, not raised."""
    return TestClient(app, raise_server_exceptions=False, client=(peer, 50000))


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
