"""What several test modules share: the lines a service wrote, and a client."""

import re
import time
from pathlib import Path

from starlette.testclient import TestClient
from starlette.types import ASGIApp

HEADER = "X-Request-ID"
ID = "5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a"
ADDED = re.compile(r" \w+_id=[0-9a-f]{16,32}(?= |$)")
"""What integrations may add to each line (`log_fields`): IDs of their own, which no test of the core knows."""
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Logs:
    """The files in the folder LOG_PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, name: str) -> list[str]:
        """Return the lines as a program sees them that ends a line wherever Unicode allows it."""
        path = self.folder / name
        return [ADDED.sub("", line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def wait(self, name: str, text: str, count: int = 1) -> list[str]:
        """Return the lines with this text as soon as there are `count`, or after half a minute those there are.

        A server writes the line when the client may have read the answer already.
        """
        deadline = time.monotonic() + 30
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
