"""How long a client may take to send a request; a slow or silent one must not hold a connection for good."""

import asyncio
from typing import TYPE_CHECKING, Final

from app.common.refusal import Refusal

if TYPE_CHECKING:
    from app.common.protocol import RequestHttpProtocol

BYTES_PER_SECOND: Final = 500
"""A body gets one more second for so many bytes, as in Apache's mod_reqtimeout: large ones may take long."""


class Deadline:
    """The timer of one connection: for the first head from the connection on, then for each head and each body."""

    __slots__ = ("_begun", "_connection", "_mark", "_timer", "_writing", "messages", "received")

    def __init__(self, connection: "RequestHttpProtocol") -> None:
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None
        self._mark: tuple[bool, int] | None = None
        self._begun = 0.0
        self._writing: asyncio.TimerHandle | None = None
        self.messages = 0
        self.received = 0

    def start(self) -> None:
        """Begin to wait for the first request."""
        self._mark = (True, 1)
        self._arm(self._connection.settings.head_timeout)

    def stop(self) -> None:
        """Wait for nothing any more."""
        self._mark = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def watch(self) -> None:
        """Look where the request stands: the timer runs on for the same head or body and starts anew for another."""
        connection = self._connection
        mark = (connection.in_head, self.messages) if connection.in_head or connection.in_body else None
        if mark == self._mark:
            return
        self.stop()
        if mark is not None:
            self._mark = mark
            self._begun, self.received = connection.loop.time(), 0
            settings = connection.settings
            self._arm(settings.head_timeout if connection.in_head else settings.body_timeout)

    def start_writing(self) -> None:
        """Begin to wait until the client takes what was sent."""
        connection = self._connection
        self._writing = connection.loop.call_later(connection.settings.write_timeout, connection.transport.abort)

    def stop_writing(self) -> None:
        """Wait no more: the client has taken it, or is gone."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _arm(self, seconds: float) -> None:
        self._timer = self._connection.loop.call_later(seconds, self._passed)

    def _passed(self) -> None:
        connection = self._connection
        self._timer = None
        if connection.flow.read_paused:
            self._arm(1.0)  # the application is slow, not the client
        elif connection.in_body and connection.cycle.waiting_for_100_continue:
            self._begun = connection.loop.time()  # the client waits for the application to ask
            self._arm(connection.settings.body_timeout)
        elif connection.in_body:
            allowed = connection.settings.body_timeout
            if not connection.cycle.response_complete:
                allowed += self.received / BYTES_PER_SECOND
            left = self._begun + allowed - connection.loop.time()
            if left > 0:
                self._arm(left)
            else:
                connection.refuse(Refusal(408, "The request's body did not arrive in time."))
        elif connection.in_head:
            connection.refuse(Refusal(408, "The request's head did not arrive in time."))
        else:
            connection.transport.close()
