"""Read and write timeouts, so that a slow or silent client cannot hold a connection forever."""

import asyncio
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.common.http.refusals import Refusal
from app.settings import get_settings

BYTES_PER_SECOND: Final = 500
"""Minimum rate of a body: its timeout grows by a second per 500 bytes received, as in Apache's mod_reqtimeout."""


class TimeoutProtocol(HttpToolsProtocol):
    """Timeouts of one connection: from its start to the end of the first head, then for each head and each body.

    The subclass sets `in_head` and `in_body`, counts `messages` and the `received` bytes of a body, and calls
    `update_timer` when these have changed.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.settings = get_settings()
        self.in_head = self.in_body = False
        self.messages = self.received = 0
        self._timed_part: tuple[bool, int] | None = None
        self._timed_since = 0.0
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def refuse(self, refusal: Refusal) -> None:
        """Respond with the refusal and close the connection."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request head."""
        super().connection_made(transport)
        self._timed_part = (True, 1)
        self._start_read_timer(self.settings.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers, which would keep the connection in memory."""
        self.cancel_read_timer()
        self._cancel_write_timer()
        super().connection_lost(exc)

    def cancel_read_timer(self) -> None:
        """Cancel the timeout of the current head or body."""
        self._timed_part = None
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def update_timer(self) -> None:
        """Restart the timer when another head or body begins; keep it for the same one; cancel it between requests."""
        part = (self.in_head, self.messages) if self.in_head or self.in_body else None
        if part == self._timed_part:
            return
        self.cancel_read_timer()
        if part is not None:
            self._timed_part = part
            self._timed_since, self.received = self.loop.time(), 0
            self._start_read_timer(self.settings.head_timeout if self.in_head else self.settings.body_timeout)

    def pause_writing(self) -> None:
        """Abort the connection unless the send buffer drains within `WRITE_TIMEOUT` seconds."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.settings.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the write timeout: the send buffer has drained."""
        self._cancel_write_timer()
        super().resume_writing()

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _start_read_timer(self, seconds: float) -> None:
        self._read_timer = self.loop.call_later(seconds, self._on_read_timeout)

    def _on_read_timeout(self) -> None:
        self._read_timer = None
        if self.flow.read_paused:
            self._start_read_timer(1.0)  # the application is slow, not the client
        elif self.in_body:
            self._on_body_timeout()
        elif self.in_head:
            self.refuse(Refusal(408, "The request head did not arrive in time."))
        else:
            self.transport.close()

    def _on_body_timeout(self) -> None:
        allowed = self.settings.body_timeout
        if self.cycle.waiting_for_100_continue:
            self._timed_since = self.loop.time()  # the client waits for "100 Continue"
        elif not self.cycle.response_complete:
            allowed += self.received / BYTES_PER_SECOND
        left = self._timed_since + allowed - self.loop.time()
        if left > 0:
            self._start_read_timer(left)
        else:
            self.refuse(Refusal(408, "The request body did not arrive in time."))
