"""The clock: how long the current request has taken, and the plugin that puts it into the context."""

from starlette.requests import HTTPConnection
from starlette_context.plugins import Plugin

from app.common.constants import REQUEST_START_TIME_CTX_KEY
from app.common.context.request_record import current_record


def current_request_time(precision: int = 3) -> float | None:
    """Return the request's time in seconds, final once its response is over; None outside of a request."""
    record = current_record.get()
    return None if record is None else round(record.elapsed(), precision)


class RequestTimePlugin(Plugin):
    """Puts the start (seconds since the epoch) and, at the end, the duration (seconds) into the context."""

    key = REQUEST_START_TIME_CTX_KEY

    async def process_request(self, request: HTTPConnection) -> float | None:  # noqa: ARG002
        """Return the start, for starlette-context's own middlewares."""
        record = current_record.get()
        return None if record is None else record.started_at
