"""The door: every request gets its ID and its clock here, and leaves here with its header and its line.

Outermost and pure ASGI, so that nothing is outside of it: not the answer to an unhandled error, not CORS, not the
body limit. The context is set and never reset: the server's task ends with the request, and what the server itself
logs after us shall still carry the ID.
"""

from asyncio import CancelledError
from collections.abc import Sequence
from http import HTTPStatus
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette_context import _request_scope_context_storage as starlette_context_storage
from starlette_context.errors import MiddleWareValidationError
from starlette_context.plugins import Plugin

from app.common.access_log import write_access_line
from app.common.errors import error_response, phrase_of
from app.common.forwarded import TrustedProxies
from app.common.log_handler import log_unhandled
from app.common.refusal import BODY_FAULT_KEY, REFUSAL_KEY, Refusal, refuse
from app.common.request_id import RequestIdPlugin
from app.common.request_record import SCOPE_KEY, RequestRecord, current_record
from app.common.request_time import RequestTimePlugin

STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
"""Messages that carry the response's headers."""

NO_CLOSE_FRAME = frozenset({1005, 1006})
"""Codes of a websocket that ended without one (RFC 6455, 7.4.1)."""


class ContextMiddleware:
    """Opens a record for each request and websocket, and closes it with the access line.

    `plugins`: a `RequestIdPlugin` and a `RequestTimePlugin` configure ID and clock; any other plugin of
    starlette-context adds its value to the context. `proxies`: whose `X-Forwarded-*` counts; default: nobody's.
    """

    def __init__(self, app: ASGIApp, plugins: Sequence[Plugin] = (), proxies: TrustedProxies | None = None) -> None:
        self.app = app
        self.proxies = proxies or TrustedProxies(())
        self.id_plugin = next((p for p in plugins if isinstance(p, RequestIdPlugin)), None) or RequestIdPlugin()
        self.time_plugin = next((p for p in plugins if isinstance(p, RequestTimePlugin)), None) or RequestTimePlugin()
        self.plugins = tuple(p for p in plugins if not isinstance(p, RequestIdPlugin | RequestTimePlugin))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a mounted application of the same kind takes part in the record of the outer one."""
        if scope["type"] not in ("http", "websocket") or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        record = self._open(scope)
        exchange = Exchange(record, receive, send, self)
        try:
            await self._serve(exchange)
        except CancelledError as error:
            await exchange.cancelled(error)
            raise
        except BaseException as error:
            await exchange.failed(error)
            raise
        finally:
            exchange.close()

    def _open(self, scope: Scope) -> RequestRecord:
        name = self.id_plugin.raw_header_name
        incoming: list[bytes] = []
        forwarded_for: list[bytes] = []
        forwarded_proto = None
        for key, value in scope["headers"]:
            if key == name:
                incoming.append(value)
            elif key == b"x-forwarded-for":
                forwarded_for.append(value)
            elif key == b"x-forwarded-proto":
                forwarded_proto = value
        from_proxy = self.proxies.is_proxy(scope)
        if from_proxy and (forwarded_for or forwarded_proto):
            self.proxies.apply(scope, forwarded_for, forwarded_proto)
        record = RequestRecord(self.id_plugin.choose(incoming, from_proxy=from_proxy), scope)
        self._publish(record, incoming)
        return record

    def _publish(self, record: RequestRecord, incoming: list[bytes]) -> None:
        scope = record.scope
        scope[SCOPE_KEY] = record
        scope.setdefault("state", {})["request_id"] = record.request_id
        if self.id_plugin.update_request_header:
            name = self.id_plugin.raw_header_name
            kept = [pair for pair in scope["headers"] if pair[0] != name] if incoming else list(scope["headers"])
            scope["headers"] = [*kept, (name, record.request_id.encode("latin-1"))]
        current_record.set(record)
        starlette_context_storage.set(record.context)
        self.id_plugin.open(record)
        self.time_plugin.open(record)

    async def _serve(self, exchange: "Exchange") -> None:
        scope = exchange.record.scope
        if REFUSAL_KEY in scope:
            await refuse(scope, exchange.receive, exchange.send)
            return
        if self.plugins:
            try:
                connection = HTTPConnection(scope)
                for plugin in self.plugins:
                    exchange.record.context[plugin.key] = await plugin.process_request(connection)
            except MiddleWareValidationError as error:
                response = error.error_response or error_response(HTTPStatus.BAD_REQUEST, "A header is not valid.")
                await response(scope, exchange.receive, exchange.send)
                return
        await self.app(scope, exchange.receive, exchange.send)


class Exchange:
    """One request on its way: watches what comes in and goes out, and keeps the record."""

    __slots__ = ("_disconnected", "_door", "_finished", "_header", "_receive", "_send", "record")

    def __init__(self, record: RequestRecord, receive: Receive, send: Send, door: ContextMiddleware) -> None:
        self.record = record
        self._receive = receive
        self._send = send
        self._door = door
        self._header = (door.id_plugin.raw_header_name, record.request_id.encode("latin-1"))
        self._disconnected = False
        self._finished = False

    async def receive(self) -> Message:
        """Hand on what the client sends; a disconnect counts while the response is not over."""
        message = await self._receive()
        kind = message["type"]
        if BODY_FAULT_KEY in self.record.scope:
            fault: Refusal = self.record.scope[BODY_FAULT_KEY]
            raise HTTPException(fault.status, fault.cause)
        if kind == "http.disconnect":
            self._disconnected = self.record.ended is None
        elif kind == "websocket.disconnect":
            # Servers tell a broken connection by the code, and by having no reason to hand on.
            self._disconnected = message.get("code") in NO_CLOSE_FRAME and "reason" not in message
        return message

    async def send(self, message: Message) -> None:
        """Hand on what the application sends: the header is set once, the clock stops with the last byte."""
        record = self.record
        kind = message["type"]
        for plugin in self._door.plugins:
            await plugin.enrich_response(message)
        if kind == "http.response.body":
            await self._send(message)
            if record.scope["method"] != "HEAD":
                record.bytes_sent += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._end()
            return
        if kind in STARTS:
            record.first_byte = perf_counter()
            record.status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
            message = {**message, "headers": self._with_header(message.get("headers", ()))}
        elif kind == "websocket.close" and not record.status and await self._deny(HTTPStatus.FORBIDDEN, message):
            return
        elif kind in ("websocket.send", "websocket.http.response.body"):
            record.bytes_sent += _size_of(message)
        await self._send(message)

    async def _deny(self, status: HTTPStatus, message: Message | None = None) -> bool:
        """Refuse a websocket with the envelope, where the server can; else it would answer without the ID."""
        self.record.status = status
        if "websocket.http.response" not in self.record.scope.get("extensions", {}):
            return False
        cause = (message or {}).get("reason") or phrase_of(status)
        await error_response(status, cause)(self.record.scope, self.receive, self.send)
        return True

    def _with_header(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        # A new list: the one in the message belongs to the Response object, which may be shared between requests.
        name = self._header[0]
        return [*(pair for pair in headers if pair[0].lower() != name), self._header]

    def _end(self) -> None:
        """Stop the clock; a 500 waits for what `close` learns of the error, everything else is written now."""
        self.record.ended = perf_counter()
        self._door.time_plugin.close(self.record)
        if self.record.status != HTTPStatus.INTERNAL_SERVER_ERROR:
            self._finish()

    async def cancelled(self, error: CancelledError) -> None:
        """Answer 503 if nothing has gone out, since the server would answer without the ID; the line says why."""
        self.record.exception = error
        self.record.flags.append("CancelledError")
        await self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "The server is stopping; send the request again.")

    async def failed(self, error: BaseException) -> None:
        """Keep the error for the line and log its traceback, unless it only says that the client has left."""
        record = self.record
        record.exception = error
        if self._client_left() and isinstance(error, ClientDisconnect | OSError):
            return
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
        if record.ended is None:
            record.ended = perf_counter()
            self._door.time_plugin.close(record)
            if record.scope["type"] == "http":
                record.flags.append("incomplete")
            if not record.status:
                record.status = HTTPStatus.INTERNAL_SERVER_ERROR
        self._finish()

    def _client_left(self) -> bool:
        # A plain endpoint never asks for what the client sends, so only the server knows. uvicorn drops what is sent
        # to a client that left and tells nobody; its flag is read where `send` is its own.
        return self._disconnected or getattr(getattr(self._send, "__self__", None), "disconnected", False) is True

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        if self._client_left():
            self.record.flags.insert(0, "client_disconnect")
        write_access_line(self.record)


def _size_of(message: Message) -> int:
    """Return the bytes of a websocket's message."""
    text = message.get("text")
    return len(text.encode()) if text else len(message.get("bytes") or message.get("body") or b"")
