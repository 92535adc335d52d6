"""The ID and the duration of a request, stored by starlette-context."""

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
    """Takes the ID from the request header, or generates a UUID4 in canonical text form."""

    key = REQUEST_ID

    def get_new_uuid(self) -> str:
        """Return a new ID with hyphens."""
        return str(uuid.uuid4())


class RequestTimePlugin(Plugin):
    """Stores the start time of a request, and its duration when there is a response."""

    key = START_TIME

    async def process_request(self, request: Request | HTTPConnection) -> float:  # noqa: ARG002
        """Return the start time in seconds since the epoch."""
        return time.time()

    async def enrich_response(self, arg: object) -> None:  # noqa: ARG002
        """Store the duration in seconds."""
        context[REQUEST_TIME] = time.time() - context[START_TIME]


def current_request_id() -> str:
    """Return the ID of the current request."""
    return str(context.data[REQUEST_ID])


def current_request_time(precision: int = 3) -> float:
    """Return the duration of the current request in seconds, or the time so far."""
    taken = context.data.get(REQUEST_TIME)
    return round(time.time() - context.data[START_TIME] if taken is None else taken, precision)


class ContextMiddleware(Resetting):
    """Does not reset the context, so that the access log formatter can still read it."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Handle one request."""
        try:
            _request_scope_context_storage.set(await self.set_context(request))
        except MiddleWareValidationError as error:
            return error.error_response or self.error_response
        response = await call_next(request)
        for plugin in self.plugins:
            await plugin.enrich_response(response)
        return response
