"""The duration of the current request, and the starlette-context plugin for it."""

from starlette.requests import HTTPConnection
from starlette_context.plugins import Plugin

from app.common.constants import REQUEST_START_TIME_CTX_KEY
from app.common.context.request_record import current_record


def current_request_time(precision: int = 3) -> float | None:
    """Return the duration of the current request in seconds, final after its last byte; None outside of a request."""
    record = current_record.get()
    return None if record is None else round(record.elapsed(), precision)


class RequestTimePlugin(Plugin):
    """Plugin of starlette-context: the start (seconds since the epoch) and, at the end, the duration (seconds)."""

    key = REQUEST_START_TIME_CTX_KEY

    async def process_request(self, request: HTTPConnection) -> float | None:  # noqa: ARG002
        """Return the start; starlette-context's own middlewares call this."""
        record = current_record.get()
        return None if record is None else record.started_at
