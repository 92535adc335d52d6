"""How long a client may take to send a request; a slow or silent one must not hold a connection for good."""

import asyncio
from typing import Any, Final

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.common.http.refusals import Refusal
from app.settings import get_settings

BYTES_PER_SECOND: Final = 500
"""A body gets one more second for so many bytes, as in Apache's mod_reqtimeout: large ones may take long."""


class TimeoutProtocol(HttpToolsProtocol):
    """Times one connection: from its start to the end of the first head, then each head and each body.

    The subclass says where the request stands (`in_head`, `in_body`), counts `messages` and `received` bytes of a body,
    and calls `watch` after each of its steps.
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
        self._mark: tuple[bool, int] | None = None
        self._begun = 0.0
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal and close."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._mark = (True, 1)
        self._arm(self.settings.head_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; nothing that could still fire keeps the connection in memory."""
        self.stop_reading()
        self._stop_writing()
        super().connection_lost(exc)

    def stop_reading(self) -> None:
        """Wait for nothing any more."""
        self._mark = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def watch(self) -> None:
        """Look where the request stands: the timer runs on for the same head or body and starts again for another."""
        mark = (self.in_head, self.messages) if self.in_head or self.in_body else None
        if mark == self._mark:
            return
        self.stop_reading()
        if mark is not None:
            self._mark = mark
            self._begun, self.received = self.loop.time(), 0
            self._arm(self.settings.head_timeout if self.in_head else self.settings.body_timeout)

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent, but not for good."""
        super().pause_writing()
        self._writing = self.loop.call_later(self.settings.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on; the client has taken it."""
        self._stop_writing()
        super().resume_writing()

    def _stop_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _arm(self, seconds: float) -> None:
        self._reading = self.loop.call_later(seconds, self._passed)

    def _passed(self) -> None:
        self._reading = None
        if self.flow.read_paused:
            self._arm(1.0)  # the application is slow, not the client
        elif self.in_body:
            self._body_passed()
        elif self.in_head:
            self.refuse(Refusal(408, "The request's head did not arrive in time."))
        else:
            self.transport.close()

    def _body_passed(self) -> None:
        allowed = self.settings.body_timeout
        if self.cycle.waiting_for_100_continue:
            self._begun = self.loop.time()  # the client waits for the application to ask
        elif not self.cycle.response_complete:
            allowed += self.received / BYTES_PER_SECOND
        left = self._begun + allowed - self.loop.time()
        if left > 0:
            self._arm(left)
        else:
            self.refuse(Refusal(408, "The request's body did not arrive in time."))
