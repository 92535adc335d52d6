"""Free TCP ports for servers that are told where to listen."""

import os
import socket
from itertools import count

FIRST, LAST = 10_000, 32_000
"""Below the ports that Linux gives to outgoing connections (32768 and above), so that no client takes one meanwhile."""

_numbers = count(os.getpid() * 97)


def free_port() -> int:
    """Return a port of the loopback address that nobody uses; no port comes twice from one process."""
    while True:
        port = FIRST + next(_numbers) % (LAST - FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
