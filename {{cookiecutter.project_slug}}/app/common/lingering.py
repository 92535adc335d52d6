"""A patient goodbye: a connection that is closed with unread bytes is reset, and takes the answer with it."""

import asyncio
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
