"""HTTP/1.1 protocol with limits, deadlines and a lingering close, which uvicorn's own protocol does not have.

Subclasses uvicorn's `HttpToolsProtocol` and uses its `RequestResponseCycle`. Neither is a documented API: the version
pin in pyproject.toml and the live tests guard against changes. Only the protocol can give an ID and an access log line
to requests that never reach the application.
"""

import asyncio
from typing import Final, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.common.context.request_record import SCOPE_KEY
from app.common.http.refusals import BODY_FAULT_KEY, REFUSAL_KEY, Refusal
from app.common.server.head_checks import RefusedError, check_head, refusal_in, target_of
from app.common.server.lingering import LINGER, LingeringTransport
from app.common.server.timeouts import TimeoutProtocol

MAX_UNREAD: Final = 1024 * 1024
"""Bytes of a body that are still read, and dropped, after its response has been sent."""


class RequestHttpProtocol(TimeoutProtocol):
    """One connection. An invalid request becomes a `Refusal`, to which the middleware of the application responds."""

    refusal: Refusal | None = None
    head_size = 0
    raw_head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; during shutdown it serves one request and closes."""
        super().connection_made(transport)
        if getattr(self.server_state, "draining", False):
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse received data; after a refusal, data is read and dropped, so that the client receives the response."""
        if self.refusal is not None:
            return
        self._unset_keepalive_if_required()
        message = self.messages
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._upgrade()
            return
        except httptools.HttpParserError as error:
            self.refuse(refusal_in(error))
            return
        if self.in_head and message == self.messages:
            # The parser calls back for complete header lines only; this limits a line that never ends.
            self.raw_head_size += len(data)
            if self.raw_head_size > self.settings.limit_request_line + self.settings.limit_request_head:
                self.refuse(Refusal(431, "The request head is too large."))
                return
        self.update_timer()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self.in_head, self.head_size, self.raw_head_size = True, 0, 0
        self.messages += 1

    def on_url(self, url: bytes) -> None:
        """Receive the request target, or a part of it."""
        super().on_url(url)
        if len(self.url) > self.settings.limit_request_line:
            raise RefusedError(Refusal(414, f"The target is longer than {self.settings.limit_request_line} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Receive a header line; drop trailers, which follow a chunked body (RFC 9110, 6.5.1)."""
        self.head_size += len(name) + len(value) + 4
        if self.head_size > self.settings.limit_request_head:
            raise RefusedError(Refusal(431, f"The headers are larger than {self.settings.limit_request_head} bytes."))
        if not self.in_head:
            return
        # As in the base class, without another call for each header line.
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > self.settings.limit_request_fields:
            raise RefusedError(Refusal(431, f"The request has more than {self.settings.limit_request_fields} headers."))

    def on_headers_complete(self) -> None:
        """Call the application, unless the head is invalid or `LIMIT_CONCURRENCY` is reached."""
        upgrade = self.parser.should_upgrade() and self._should_upgrade()
        version, method = self.parser.get_http_version(), self.parser.get_method()
        refusal = check_head(version, method, self.headers, upgrade=upgrade)
        if upgrade and self.cycle is not None and not self.cycle.response_complete:
            refusal = Refusal(400, "A WebSocket handshake must wait for earlier responses.")
        if refusal is None and 0 < self.settings.limit_concurrency <= len(self.tasks):
            refusal = Refusal(503, "The server is busy; retry the request later.")
        if refusal is not None:
            raise RefusedError(refusal)
        super().on_headers_complete()
        self.in_head, self.in_body, self.head_size = False, not upgrade, 0
        if self.in_body and (self.expect_100_continue or getattr(self.server_state, "draining", False)):
            # A client that expects "100 Continue" may or may not send its body after an early response: close then.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self.received += len(body)
        super().on_body(body)
        unread = self.in_body and self.cycle.response_complete and self.received > MAX_UNREAD
        if unread and self.refusal is None:
            self.refusal = Refusal(413, "")  # the response has been sent; the rest is dropped
            LingeringTransport(self.transport, self.loop).close()

    def on_message_complete(self) -> None:
        """Complete a request."""
        self.in_body = False
        super().on_message_complete()

    # Refusals

    def refuse(self, refusal: Refusal) -> None:
        """Respond with the refusal, after the responses to earlier requests, and close the connection."""
        self.refusal = refusal
        self.cancel_read_timer()
        if self.in_body:
            self._refuse_body(refusal)
            return
        if not self.in_head:
            self.on_message_begin()
        self._complete_scope(refusal)
        cycle = RequestResponseCycle(
            scope=self.scope,
            transport=LingeringTransport(self.transport, self.loop),  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))

    def _complete_scope(self, refusal: Refusal) -> None:
        path, query = target_of(self.url)
        method = self.parser.get_method().decode("ascii") if self.url else "-"
        scope = cast("Scope", self.scope)
        scope[REFUSAL_KEY] = refusal
        scope["method"] = method
        scope["path"], scope["raw_path"] = path.decode("latin-1"), path
        scope["query_string"] = query

    def _refuse_body(self, refusal: Refusal) -> None:
        # If the application is running already, `Exchange.receive` raises the refusal as it reads the body.
        if self.cycle.response_complete:
            self.transport.close()
            return
        self.cycle.keep_alive = False
        if self.cycle.response_started:
            return
        scope = cast("Scope", self.cycle.scope)
        scope[BODY_FAULT_KEY if SCOPE_KEY in scope else REFUSAL_KEY] = refusal
        self.cycle.message_event.set()

    # Upgrades and shutdown

    def _upgrade(self) -> None:
        self.in_body = False
        self.cancel_read_timer()
        if self._should_upgrade():
            self.handle_websocket_upgrade()
        elif self.cycle is not None:
            # The offered protocol is not supported: respond with plain HTTP, and drop what follows the request.
            self.refusal = Refusal(400, "")
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close after the current response; an idle connection waits `LINGER` seconds for a request in transit."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if self.in_head or self.in_body:
            self.loop.call_later(LINGER, self._close_if_idle)
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
