"""Lingering close: closing a socket with unread data resets it, and the client may lose the response."""

import asyncio
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Final

LINGER: Final = 1.0
"""Seconds for which a closing connection still reads: the rest of a refused request, or a request in transit."""


class LingeringTransport:
    """A transport whose `close` shuts down the write side first, and closes the socket later (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        """Send buffered data and EOF; close the socket after `LINGER` seconds, or when the client closes."""
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._loop.call_later(LINGER, self._transport.close)


def stop_listening(servers: Iterable[asyncio.Server]) -> list[socket.socket]:
    """Close the servers; return the connections of their backlogs, which only the kernel has accepted so far.

    They would be reset when the last listening process exits, and a proxy may have sent requests on them already.
    """
    listeners: list[socket.socket] = []
    for server in servers:
        listeners += [socket.socket(fileno=os.dup(listener.fileno())) for listener in server.sockets]
        server.close()
    connections: list[socket.socket] = []
    for listener in listeners:
        with listener:
            connections += _accept_all(listener)
    return connections


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    listener.setblocking(False)
    while True:
        try:
            yield listener.accept()[0]
        except ConnectionAbortedError:  # the client has left; more connections may be waiting
            continue
        except OSError:  # the backlog is empty (EAGAIN), or no more files can be opened (EMFILE)
            return
