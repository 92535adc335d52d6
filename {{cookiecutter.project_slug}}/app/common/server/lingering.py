"""A patient goodbye: a connection that is closed with unread bytes is reset, and takes the answer with it."""

import asyncio
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Final

LINGER: Final = 1.0
"""Seconds in which a connection that is about to close still takes what is on the wire: the rest of a refused request,
or a request that the client sent before it learned that the server stops."""


class LingeringTransport:
    """Says goodbye at once and closes later: closing with unread bytes would reset the connection (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self.write = transport.write
        self.is_closing = transport.is_closing

    def close(self) -> None:
        """Send what is left and the end; close after `LINGER` seconds, or when the client has closed."""
        if self._transport.is_closing() or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._loop.call_later(LINGER, self._transport.close)


def stop_listening(servers: Iterable[asyncio.Server]) -> list[socket.socket]:
    """Close the servers; return the connections that the kernel has taken for them, and nobody has accepted yet.

    They would be reset with the last process that listens, and a proxy has sent requests on them already.
    """
    listeners: list[socket.socket] = []
    for server in servers:
        listeners += [socket.socket(fileno=os.dup(own.fileno())) for own in server.sockets]
        server.close()
    waiting: list[socket.socket] = []
    for listener in listeners:
        with listener:
            waiting += _accept_all(listener)
    return waiting


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    listener.setblocking(False)
    while True:
        try:
            yield listener.accept()[0]
        except ConnectionAbortedError:  # this one has gone; others may wait behind it
            continue
        except OSError:  # nobody is left (EAGAIN), or no more files can be opened (EMFILE)
            return
