"""The ID and the clock of a request, kept by starlette-context."""

import time
import uuid

from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette_context import _request_scope_context_storage, context
from starlette_context.errors import MiddleWareValidationError
from starlette_context.middleware import ContextMiddleware as Resetting
from starlette_context.plugins.base import Plugin, PluginUUIDBase

REQUEST_ID = "X-Request-ID"
START_TIME = "X-Request-Start-Time"
REQUEST_TIME = "X-Request-Time"


class RequestIdPlugin(PluginUUIDBase):
    """Takes the ID from the header, or makes one, in canonical text."""

    key = REQUEST_ID

    def get_new_uuid(self) -> str:
        """Give an ID with dashes."""
        return str(uuid.uuid4())


class RequestTimePlugin(Plugin):
    """Starts the clock with the request, and stops it when there is a response."""

    key = START_TIME

    async def process_request(self, request: Request | HTTPConnection) -> float:  # noqa: ARG002
        """Give the seconds at which the request began."""
        return time.time()

    async def enrich_response(self, arg: object) -> None:  # noqa: ARG002
        """Keep how long it took, in seconds."""
        context[REQUEST_TIME] = time.time() - context[START_TIME]


def current_request_id() -> str:
    """Give the ID of this request."""
    return str(context.data[REQUEST_ID])


def current_request_time(precision: int = 3) -> float:
    """Give the seconds that the request took, or has taken so far."""
    taken = context.data.get(REQUEST_TIME)
    return round(time.time() - context.data[START_TIME] if taken is None else taken, precision)


class ContextMiddleware(Resetting):
    """Leaves the context in place, so that it can still be read when the access line is formatted."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Serve one request."""
        try:
            _request_scope_context_storage.set(await self.set_context(request))
        except MiddleWareValidationError as error:
            return error.error_response or self.error_response
        response = await call_next(request)
        for plugin in self.plugins:
            await plugin.enrich_response(response)
        return response
