"""The door: every request gets its ID and its clock here, and leaves here with its header and its line.

Outermost and pure ASGI, so that nothing is outside of it: not the answer to an unhandled error, not CORS, not the
body limit. The context is not reset: the server's task ends with the request, and what the server itself logs after us
shall still carry the ID.
"""

from asyncio import CancelledError
from collections.abc import Sequence
from http import HTTPStatus

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette_context import _request_scope_context_storage as starlette_context_storage
from starlette_context.errors import MiddleWareValidationError
from starlette_context.plugins import Plugin

from app.common.errors import error_response
from app.common.exchange import Door, Exchange
from app.common.forwarded import TrustedProxies
from app.common.refusal import REFUSAL_KEY, refuse
from app.common.request_id import RequestIdPlugin
from app.common.request_record import SCOPE_KEY, RequestRecord, current_record
from app.common.request_time import RequestTimePlugin


class ContextMiddleware:
    """Opens a record for each request and websocket, and closes it with the access line.

    `plugins`: a `RequestIdPlugin` configures the ID, `RequestTimePlugin` may stand here too; any other plugin of
    starlette-context adds its value to the context. `proxies`: whose `X-Forwarded-*` counts; default: nobody's.
    `refuser`: answers what the server itself has found fault with.
    """

    def __init__(
        self,
        app: ASGIApp,
        plugins: Sequence[Plugin] = (),
        proxies: TrustedProxies | None = None,
        refuser: ASGIApp = refuse,
    ) -> None:
        self.app = app
        self.refuser = refuser
        self.proxies = proxies or TrustedProxies(())
        self.id_plugin = next((p for p in plugins if isinstance(p, RequestIdPlugin)), None) or RequestIdPlugin()
        self.plugins = tuple(p for p in plugins if not isinstance(p, RequestIdPlugin | RequestTimePlugin))
        self.door = Door(self.id_plugin.raw_header_name, self.plugins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; a mounted application of the same kind takes part in the record of the outer one."""
        if scope["type"] not in ("http", "websocket") or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        outer = current_record.get()
        record = self._open(scope)
        if outer is not None and outer.ended is None:
            record.outer = outer
        exchange = Exchange(record, receive, send, self.door)
        try:
            if self.plugins or REFUSAL_KEY in scope:
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
                current_record.set(record.outer)
                starlette_context_storage.set(record.outer.context)

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
        is_told = bool(forwarded_for or forwarded_proto)
        from_proxy = (is_told or self.id_plugin.trust == "proxies") and self.proxies.is_proxy(scope)
        if is_told and from_proxy:
            self.proxies.apply(scope, forwarded_for, forwarded_proto)
        record = RequestRecord(self.id_plugin.choose(incoming, from_proxy=from_proxy), scope)
        self._publish(record, incoming)
        return record

    def _publish(self, record: RequestRecord, incoming: list[bytes]) -> None:
        scope = record.scope
        scope[SCOPE_KEY] = True
        scope.setdefault("state", {})["request_id"] = record.request_id
        if self.id_plugin.update_request_header:
            name = self.id_plugin.raw_header_name
            kept = [pair for pair in scope["headers"] if pair[0] != name] if incoming else scope["headers"]
            scope["headers"] = [*kept, (name, record.raw_request_id)]
        record.context[self.id_plugin.key] = record.request_id
        current_record.set(record)
        starlette_context_storage.set(record.context)

    async def _serve(self, exchange: Exchange) -> None:
        scope = exchange.record.scope
        if REFUSAL_KEY in scope:
            await self.refuser(scope, exchange.receive, exchange.send)
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
