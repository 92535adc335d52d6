"""One request while it is served: what comes in, what goes out, and how it ends."""

import asyncio
from asyncio import CancelledError
from http import HTTPStatus
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send
from starlette.websockets import WebSocketDisconnect
from starlette_context.plugins import Plugin

from app.common.context.observers import request_observers
from app.common.context.request_record import RequestRecord
from app.common.errors import error_response, log_cancelled, log_unhandled, phrase_of
from app.common.http.messages import BODIES, COUNTED, NO_CLOSE_FRAME, STARTS, SWITCHING_PROTOCOLS, check, size_of
from app.common.http.refusals import BODY_FAULT_KEY, REFUSAL_KEY, Refusal, announces_more, body_too_large
from app.common.logs.access import write_access_line


class Exchange:
    """Watches what comes in and goes out, and keeps the record.

    `header_name`: lower-case name of the ID's header. `plugins`: foreign ones, which may change what goes out.
    """

    __slots__ = (
        *("_body_left", "_disconnected", "_finished", "_header", "_max_body", "_plugins"),
        *("_receive", "_send", "_send_error", "record"),
    )

    def __init__(
        self, record: RequestRecord, receive: Receive, send: Send, header_name: bytes, plugins: tuple[Plugin, ...] = ()
    ) -> None:
        self.record = record
        self._receive = receive
        self._send = send
        self._header = (header_name, record.raw_request_id)
        self._plugins = plugins
        self._max_body = self._body_left = -1
        self._disconnected: bool | None = None
        self._finished = False
        self._send_error: OSError | None = None

    def limit_body(self, max_bytes: int) -> None:
        """Refuse a body that is announced as larger, and count one that is not."""
        if announces_more(self.record.scope["headers"], max_bytes):
            self.record.scope.setdefault(REFUSAL_KEY, body_too_large(max_bytes))
        self._max_body = self._body_left = max_bytes

    async def receive(self) -> Message:
        """Hand on what the client sends; a disconnect counts while the response is not over."""
        message = await self._receive()
        kind = message["type"]
        if BODY_FAULT_KEY in self.record.scope:
            if self.record.status:
                return {"type": "http.disconnect"}  # too late for an answer: there is one on its way
            _fail(self.record.scope[BODY_FAULT_KEY])
        if self._max_body >= 0 and "body" in message:
            self._body_left -= len(message["body"])
            if self._body_left < 0:
                _fail(body_too_large(self._max_body))
        if self._disconnected is None:
            if kind == "http.disconnect":
                self._disconnected = not self.record.is_over
            elif kind == "websocket.disconnect":
                # Servers tell a broken connection by the code, and by having no reason to hand on.
                self._disconnected = message.get("code") in NO_CLOSE_FRAME and "reason" not in message
        return message

    async def send(self, message: Message) -> None:
        """Hand on what the application sends: the header is set once, the clock stops with the last byte."""
        kind = message["type"]
        ends = kind in BODIES and not message.get("more_body", False)
        for plugin in self._plugins:
            await plugin.enrich_response(message)
        if kind in STARTS:
            message = self._start(message)
        elif kind == "websocket.close" and not self.record.status and await self._deny(HTTPStatus.FORBIDDEN, message):
            return
        if self._disconnected is None and (ends or kind == "websocket.close"):
            self._disconnected = False  # we end it; some servers tell of the connection's end before `send` returns
        try:
            await self._send(message)
        except OSError as error:
            self._send_error = error  # the connection's, not the application's
            raise
        if kind in COUNTED and self.record.scope.get("method") != "HEAD":
            self.record.bytes_sent += size_of(message)
        if ends:
            self._end()

    def _start(self, message: Message) -> Message:
        # A new list: the one in the message belongs to the Response object, which may be shared between requests.
        name, record = self._header[0], self.record
        headers = [*[pair for pair in message.get("headers", ()) if pair[0].lower() != name], self._header]
        status = message.get("status", SWITCHING_PROTOCOLS)
        check(status, headers)
        record.ttfb, record.status = perf_counter() - record.started, status
        return {**message, "headers": headers}

    async def _deny(self, status: HTTPStatus, message: Message | None = None) -> bool:
        """Refuse a websocket with the envelope, where the server can; else it would answer without the ID."""
        self.record.status = status
        if "websocket.http.response" not in self.record.scope.get("extensions", {}):
            return False
        cause = (message or {}).get("reason") or phrase_of(status)
        await error_response(status, cause)(self.record.scope, self.receive, self.send)
        return True

    def _end(self) -> None:
        """Stop the clock; a 500 waits for what `close` learns of the error, everything else is written now."""
        self.record.end()
        if self.record.status != 500:  # noqa: PLR2004
            self._finish()

    async def returned(self) -> None:
        """Answer 500 for an application that returned without an answer; the server would do so without the ID."""
        if not self._client_left():
            self.record.flags.append("no_response")
            await self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, phrase_of(HTTPStatus.INTERNAL_SERVER_ERROR))

    async def cancelled(self, error: CancelledError) -> None:
        """Answer 503 if nothing has gone out, since the server would answer without the ID; the line says why."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            await self.failed(error)  # nobody has cancelled us: the application let go of a task that it cancelled
            return
        self.record.failed, self.record.error_id = True, id(error)
        self.record.flags.append("CancelledError")
        if self._finished:
            log_cancelled()
        await self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "The server is stopping; send the request again.")

    async def failed(self, error: BaseException) -> None:
        """Keep the error for the line and log its traceback, unless it only says that the client has left."""
        record = self.record
        record.failed, record.error_id = True, id(error)
        if isinstance(error, ClientDisconnect | WebSocketDisconnect) or error is self._send_error:
            return
        self._plugins = ()  # one of them may be what has failed
        record.flags.append(type(error).__name__)
        log_unhandled(error)
        await self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, phrase_of(HTTPStatus.INTERNAL_SERVER_ERROR))

    async def _answer(self, status: HTTPStatus, cause: str) -> None:
        """Answer if nothing has gone out yet."""
        if self.record.status:
            return
        if self.record.scope["type"] == "websocket":
            await self._deny(status)
            return
        response = error_response(status, cause, headers={"connection": "close"})
        await response(self.record.scope, self.receive, self.send)

    def close(self) -> None:
        """Write the line if the last byte did not: the response broke off, or there was none, or it is a websocket."""
        record = self.record
        if not record.is_over:
            record.end()
            if record.scope["type"] == "http":
                record.flags.append("incomplete")
            if not record.status:
                record.status = HTTPStatus.INTERNAL_SERVER_ERROR
        self._finish()

    def _client_left(self) -> bool:
        if self._disconnected or (self._disconnected is False and self.record.scope["type"] == "websocket"):
            return self._disconnected
        # A plain endpoint never asks for what the client sends, so only the server knows. uvicorn drops what is sent
        # to a client that left and tells nobody; its flag is read where `send` is its own. On a websocket the flag is
        # also set after an orderly close, and counts only while nobody has closed.
        return getattr(getattr(self._send, "__self__", None), "disconnected", False) is True

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        if self._client_left():
            self.record.flags.insert(0, "client_disconnect")
        for watch in request_observers.values():
            watch(self.record)
        write_access_line(self.record)


def _fail(refusal: Refusal) -> None:
    raise HTTPException(refusal.status, refusal.cause)
