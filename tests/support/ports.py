"""Free TCP ports for servers under test."""

import os
import socket
from itertools import count

FIRST, WIDTH, SHARES = 10_000, 4_000, 5
"""The range is below the ephemeral ports of Linux (32768 and above), so that no outgoing connection takes one.

Each process of pytest-xdist uses a part of its own, so that no two choose the same port.
"""
_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
_numbers = count(os.getpid() * 97)


def free_port() -> int:
    """Return a free port of the loopback address, a different one in each call."""
    while True:
        port = FIRST + _share * WIDTH + next(_numbers) % WIDTH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
