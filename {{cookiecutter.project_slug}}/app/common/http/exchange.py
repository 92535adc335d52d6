"""Handle the ASGI messages of one request or WebSocket: ID header, body limit, timing, error responses, access log."""

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
from app.common.http.messages import BODIES, COUNTED, NO_CLOSE_FRAME, STARTS, SWITCHING_PROTOCOLS, check_start, size_of
from app.common.http.refusals import BODY_FAULT_KEY, REFUSAL_KEY, Refusal, announces_larger_body, body_too_large
from app.common.logs.access import write_access_line


class Exchange:
    """Wraps `receive` and `send` of one request and updates its record.

    `header_name`: lower-case name of the request ID header. `plugins` of starlette-context may change the response.
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
        """Refuse with 413 a body whose `Content-Length` is larger; count the bytes of any other body."""
        if announces_larger_body(self.record.scope["headers"], max_bytes):
            self.record.scope.setdefault(REFUSAL_KEY, body_too_large(max_bytes))
        self._max_body = self._body_left = max_bytes

    async def receive(self) -> Message:
        """Receive a message; note an early disconnect; raise HTTPException if the body is too large or invalid."""
        message = await self._receive()
        kind = message["type"]
        if BODY_FAULT_KEY in self.record.scope:
            if self.record.status:
                return {"type": "http.disconnect"}  # the response has started: too late for another
            _raise(self.record.scope[BODY_FAULT_KEY])
        if self._max_body >= 0 and "body" in message:
            self._body_left -= len(message["body"])
            if self._body_left < 0:
                _raise(body_too_large(self._max_body))
        if self._disconnected is None:
            if kind == "http.disconnect":
                self._disconnected = not self.record.is_over
            elif kind == "websocket.disconnect":
                # Servers report a broken connection with one of these codes and without a reason.
                self._disconnected = message.get("code") in NO_CLOSE_FRAME and "reason" not in message
        return message

    async def send(self, message: Message) -> None:
        """Send a message: set the request ID header once, count the bytes, stop the timer after the last byte."""
        kind = message["type"]
        ends = kind in BODIES and not message.get("more_body", False)
        for plugin in self._plugins:
            await plugin.enrich_response(message)
        if kind in STARTS:
            message = self._prepare_start(message)
        elif kind == "websocket.close" and not self.record.status and await self._deny(HTTPStatus.FORBIDDEN, message):
            return
        if self._disconnected is None and (ends or kind == "websocket.close"):
            self._disconnected = False  # we end it; some servers report the disconnect before `send` returns
        try:
            await self._send(message)
        except OSError as error:
            self._send_error = error  # an error of the connection, not of the application
            raise
        if kind in COUNTED and self.record.scope.get("method") != "HEAD":
            self.record.bytes_sent += size_of(message)
        if ends:
            self._end_response()

    def _prepare_start(self, message: Message) -> Message:
        # A new list, since the one in the message belongs to the Response object, which requests may share.
        name, record = self._header[0], self.record
        headers = [*[pair for pair in message.get("headers", ()) if pair[0].lower() != name], self._header]
        status = message.get("status", SWITCHING_PROTOCOLS)
        check_start(status, headers)
        record.ttfb, record.status = perf_counter() - record.started, status
        return {**message, "headers": headers}

    async def _deny(self, status: HTTPStatus, message: Message | None = None) -> bool:
        """Refuse a WebSocket with the error envelope if the server supports it; its own response lacks the ID."""
        self.record.status = status
        if "websocket.http.response" not in self.record.scope.get("extensions", {}):
            return False
        cause = (message or {}).get("reason") or phrase_of(status)
        await error_response(status, cause)(self.record.scope, self.receive, self.send)
        return True

    def _end_response(self) -> None:
        """Stop the timer and write the access log line; `close` writes that of a 500, when the error is known."""
        self.record.end()
        if self.record.status != 500:  # noqa: PLR2004
            self._finish()

    async def on_return(self) -> None:
        """Respond with 500 (the server's own lacks the ID) if the application has not and the client is connected."""
        if not self._client_disconnected():
            self.record.flags.append("no_response")
            await self._send_envelope(HTTPStatus.INTERNAL_SERVER_ERROR, phrase_of(HTTPStatus.INTERNAL_SERVER_ERROR))

    async def on_cancel(self, error: CancelledError) -> None:
        """Respond with 503 if no response has started (the server's own would lack the ID), and flag the log line."""
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            await self.on_error(error)  # the application cancelled another task and awaited it
            return
        self.record.failed, self.record.error_id = True, id(error)
        self.record.flags.append("CancelledError")
        if self._finished:
            log_cancelled()
        await self._send_envelope(HTTPStatus.SERVICE_UNAVAILABLE, "The server is shutting down; retry the request.")

    async def on_error(self, error: BaseException) -> None:
        """Flag the access log line, log the traceback and respond with 500, unless the client has disconnected."""
        record = self.record
        record.failed, record.error_id = True, id(error)
        if isinstance(error, ClientDisconnect | WebSocketDisconnect) or error is self._send_error:
            return
        self._plugins = ()  # a plugin may have raised the error
        record.flags.append(type(error).__name__)
        log_unhandled(error)
        await self._send_envelope(HTTPStatus.INTERNAL_SERVER_ERROR, phrase_of(HTTPStatus.INTERNAL_SERVER_ERROR))

    async def _send_envelope(self, status: HTTPStatus, cause: str) -> None:
        """Send the error envelope unless a response has started."""
        if self.record.status:
            return
        if self.record.scope["type"] == "websocket":
            await self._deny(status)
            return
        response = error_response(status, cause, headers={"connection": "close"})
        await response(self.record.scope, self.receive, self.send)

    def close(self) -> None:
        """Write the access log line if it is not written yet: the response is incomplete, a 500 or a WebSocket."""
        record = self.record
        if not record.is_over:
            record.end()
            if record.scope["type"] == "http":
                record.flags.append("incomplete")
            if not record.status:
                record.status = HTTPStatus.INTERNAL_SERVER_ERROR
        self._finish()

    def _client_disconnected(self) -> bool:
        if self._disconnected or (self._disconnected is False and self.record.scope["type"] == "websocket"):
            return self._disconnected
        # An endpoint that never calls `receive` is not notified of a disconnect, and uvicorn drops what it sends then.
        # uvicorn's own flag, `disconnected`, is an attribute of the object that `send` is a method of. On a WebSocket,
        # uvicorn also sets it after an orderly close, so it counts only while neither side has closed.
        return getattr(getattr(self._send, "__self__", None), "disconnected", False) is True

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        if self._client_disconnected():
            self.record.flags.insert(0, "client_disconnect")
        for observe in request_observers.values():
            observe(self.record)
        write_access_line(self.record)


def _raise(refusal: Refusal) -> None:
    raise HTTPException(refusal.status, refusal.cause)
