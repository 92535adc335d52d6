"""The outermost layer: every request gets its ID and its clock here, and leaves with its header and its line.

Pure ASGI, so that nothing is outside of it: not the answer to an unhandled error, not CORS. The context is not reset:
the server's task ends with the request, and what the server itself logs after us still carries the ID.
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
    """Opens a record for each request and websocket, and closes it with the access line.

    `plugins`: a `RequestIdPlugin` configures the ID, `RequestTimePlugin` may stand here too; any other plugin of
    starlette-context adds its value to the context. `proxies`: whose `X-Forwarded-*` counts; default: nobody's.
    `max_body_bytes`: larger request bodies are refused with 413; None: any size. `refuses`: it answers what is refused;
    False: a `RefusalMiddleware` further inside does, as in app/main.py.
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
        """Serve one request; a mounted application of the same kind takes part in the record of the outer one."""
        if scope["type"] not in ("http", "websocket") or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        outer = current_record.get()
        record = self._open(scope)
        if outer is not None and not outer.is_over:
            record.outer = outer
        bound = bind(record)
        exchange = Exchange(record, receive, send, self.id_plugin.raw_header_name, self.plugins)
        asks_plugins = self.plugins and REFUSAL_KEY not in scope
        if self.max_body_bytes is not None and scope["type"] == "http":
            exchange.limit_body(self.max_body_bytes)
        try:
            if asks_plugins:
                await self._serve(exchange)
            else:
                await self.app(scope, exchange.receive, exchange.send)
            if not record.status:
                await exchange.returned()
        except CancelledError as error:
            await exchange.cancelled(error)
            raise
        except BaseException as error:
            await exchange.failed(error)
            raise
        finally:
            exchange.close()
            if record.outer is not None:
                unbind(bound)

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
        record.context[self.id_plugin.key] = record.request_id  # a subclass may have another key
        if self.id_plugin.update_request_header:
            name = self.id_plugin.raw_header_name
            kept = [pair for pair in scope["headers"] if pair[0] != name] if incoming else scope["headers"]
            scope["headers"] = [*kept, (name, record.raw_request_id)]

    async def _serve(self, exchange: Exchange) -> None:
        """Ask the foreign plugins for their values before the application is called."""
        scope = exchange.record.scope
        try:
            connection = HTTPConnection(scope)
            for plugin in self.plugins:
                exchange.record.context[plugin.key] = await plugin.process_request(connection)
        except MiddleWareValidationError as error:
            response = error.error_response or error_response(HTTPStatus.BAD_REQUEST, "A header is not valid.")
            await response(scope, exchange.receive, exchange.send)
            return
        await self.app(scope, exchange.receive, exchange.send)
