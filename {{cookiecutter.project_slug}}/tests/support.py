"""Helpers of several test modules: the log files of the service, and a client."""

import re
import time
from pathlib import Path

from starlette.testclient import TestClient
from starlette.types import ASGIApp

HEADER = "X-Request-ID"
ID = "5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a"
ADDED = re.compile(r" \w+_id=[0-9a-f]{16,32}(?= |$)")
"""IDs that integrations add to log lines (`log_fields`); the tests of the core ignore them."""
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Logs:
    """The files in the folder LOG_PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file, split at every line break that Unicode defines, as some log readers do."""
        path = self.folder / name
        return [ADDED.sub("", line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []

    def wait(self, name: str, text: str, count: int = 1) -> list[str]:
        """Return the lines with this text as soon as there are `count`; after 30 seconds, return what there is.

        The server may write a log line after the client has read the response.
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
    """Return a client with the address `peer`; an unhandled exception becomes a 500, and is not raised in the test."""
    return TestClient(app, raise_server_exceptions=False, client=(peer, 50000))
