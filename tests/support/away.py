"""Servers that do not respond: one that hangs, and one that is not running."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.ports import free_port


@contextmanager
def hanging_server() -> Iterator[int]:
    """Yield the port of a server that accepts connections but never responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def unused_port() -> Iterator[int]:
    """Yield a port at which no process listens."""
    yield free_port()
