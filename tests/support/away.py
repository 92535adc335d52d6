"""Servers that do not answer, for what must not wait for them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.ports import free_port


@contextmanager
def hangs() -> Iterator[int]:
    """Give the port of a server that takes connections, and answers none."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def is_not_there() -> Iterator[int]:
    """Give a port where nobody listens."""
    yield free_port()
