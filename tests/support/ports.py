"""Free TCP ports for servers that are told where to listen."""

import os
import socket
from itertools import count

FIRST, WIDTH, SHARES = 10_000, 4_000, 5
"""Below the ports that Linux gives to outgoing connections (32768 and above), so that no client takes one meanwhile.

Each process of pytest-xdist has a share of its own, so that no two choose the same port.
"""
_share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
_numbers = count(os.getpid() * 97)


def free_port() -> int:
    """Return a port of the loopback address that no process uses; no port comes twice from one process."""
    while True:
        port = FIRST + _share * WIDTH + next(_numbers) % WIDTH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
