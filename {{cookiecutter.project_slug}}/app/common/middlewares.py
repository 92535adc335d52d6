"""Outermost ASGI middleware: request ID, timer, response header and access log line of every request.

Pure ASGI, so that CORS and the response to an unhandled error are inside of it. It does not reset the context: the
server's task ends with the request, and what the server logs afterwards still carries the ID.
"""

from asyncio import CancelledError
from collections.abc import Sequence
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_context.errors import MiddleWareValidationError
from starlette_context.plugins import Plugin

from app.common.context.request_record import SCOPE_KEY, RequestRecord, bind, current_record, unbind
from app.common.errors import error_response
from app.common.http.exchange import Exchange
from app.common.http.proxy_headers import TrustedProxies
from app.common.http.refusals import REFUSAL_KEY, RefusalMiddleware
from app.common.request_id import RequestIdPlugin
from app.common.request_time import RequestTimePlugin


class ContextMiddleware:
    """Creates the record of each request and websocket, and writes the access log line at its end.

    `plugins`: a `RequestIdPlugin` configures the ID; `RequestTimePlugin` is accepted, but not needed; other plugins of
    starlette-context add their values to the context. `proxies`: trusted to set `X-Forwarded-*`; by default none.
    `max_body_bytes`: larger request bodies are refused with 413; None: no limit. `refuses`: whether it adds a
    `RefusalMiddleware`, which responds to refused requests; False if the application has one, as in app/main.py.
    """

    def __init__(
        self,
        app: ASGIApp,
        plugins: Sequence[Plugin] = (),
        proxies: TrustedProxies | None = None,
        max_body_bytes: int | None = None,
        refuses: bool = True,
    ) -> None:
        self.app = RefusalMiddleware(app) if refuses else app
        self.proxies = proxies or TrustedProxies(())
        self.max_body_bytes = max_body_bytes
        self.id_plugin = next((p for p in plugins if isinstance(p, RequestIdPlugin)), None) or RequestIdPlugin()
        self.plugins = tuple(p for p in plugins if not isinstance(p, RequestIdPlugin | RequestTimePlugin))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a mounted application with this middleware shares the record of the outer one."""
        if scope["type"] not in ("http", "websocket") or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        outer = current_record.get()
        record = self._create_record(scope)
        if outer is not None and not outer.is_over:
            record.outer = outer
        tokens = bind(record)
        exchange = Exchange(record, receive, send, self.id_plugin.raw_header_name, self.plugins)
        calls_plugins = self.plugins and REFUSAL_KEY not in scope
        if self.max_body_bytes is not None and scope["type"] == "http":
            exchange.limit_body(self.max_body_bytes)
        try:
            if calls_plugins:
                await self._serve_with_plugins(exchange)
            else:
                await self.app(scope, exchange.receive, exchange.send)
            if not record.status:
                await exchange.on_return()
        except CancelledError as error:
            await exchange.on_cancel(error)
            raise
        except BaseException as error:
            await exchange.on_error(error)
            raise
        finally:
            exchange.close()
            if record.outer is not None:
                unbind(tokens)

    def _create_record(self, scope: Scope) -> RequestRecord:
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
        is_forwarded = bool(forwarded_for or forwarded_proto)
        from_proxy = (is_forwarded or self.id_plugin.trust == "proxies") and self.proxies.is_proxy(scope)
        if is_forwarded and from_proxy:
            self.proxies.apply(scope, forwarded_for, forwarded_proto)
        record = RequestRecord(self.id_plugin.choose(incoming, from_proxy=from_proxy), scope)
        self._publish(record, incoming)
        return record

    def _publish(self, record: RequestRecord, incoming: list[bytes]) -> None:
        scope = record.scope
        scope[SCOPE_KEY] = scope.get("app")
        scope.setdefault("state", {})["request_id"] = record.request_id
        record.context[self.id_plugin.key] = record.request_id  # a subclass may use another key
        if self.id_plugin.update_request_header:
            name = self.id_plugin.raw_header_name
            others = [pair for pair in scope["headers"] if pair[0] != name] if incoming else scope["headers"]
            scope["headers"] = [*others, (name, record.raw_request_id)]

    async def _serve_with_plugins(self, exchange: Exchange) -> None:
        """Put the values of the other plugins into the context, then call the application."""
        scope = exchange.record.scope
        try:
            connection = HTTPConnection(scope)
            for plugin in self.plugins:
                exchange.record.context[plugin.key] = await plugin.process_request(connection)
        except MiddleWareValidationError as error:
            response = error.error_response or error_response(HTTPStatus.BAD_REQUEST, "A request header is invalid.")
            await response(scope, exchange.receive, exchange.send)
            return
        await self.app(scope, exchange.receive, exchange.send)
