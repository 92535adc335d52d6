"""What is known of one request while it is served; the accessors, the context and the access line read it."""

from contextvars import ContextVar, Token
from time import perf_counter, time
from typing import Final

from starlette.types import Scope
from starlette_context import _request_scope_context_storage as context_storage

from app.common.constants import NO_REQUEST_ID, REQUEST_ID_CTX_KEY, REQUEST_START_TIME_CTX_KEY, REQUEST_TIME_CTX_KEY


class RequestRecord:
    """One request: its ID, its clock, and what has gone out so far.

    Times are seconds. `started` is a reading of `perf_counter()`, `started_at` and `ended_at` are of the epoch, by the
    clock at the request's arrival. `duration` is from the arrival to the response's last byte, `ttfb` to its start.
    Duration and end are known when the request `is_over`. `context` is what `starlette_context.context` shows.
    """

    __slots__ = (
        *("bytes_sent", "context", "duration", "ended_at", "error_id", "failed", "flags", "is_over", "outer"),
        *("raw_request_id", "request_id", "scope", "started", "started_at", "status", "ttfb"),
    )

    task_id = NO_REQUEST_ID
    parent_id = NO_REQUEST_ID

    def __init__(self, request_id: str, scope: Scope) -> None:
        self.request_id: Final = request_id
        self.raw_request_id: Final = request_id.encode("latin-1")
        self.scope: Final = scope
        self.started: Final = perf_counter()
        self.started_at: Final = time()
        self.context: dict[object, object] = {
            REQUEST_ID_CTX_KEY: request_id,
            REQUEST_START_TIME_CTX_KEY: self.started_at,
        }
        self.outer: RequestRecord | None = None  # in whose midst it is called, as httpx2.ASGITransport does
        self.ttfb: float | None = None
        self.is_over = self.failed = False
        self.duration = self.ended_at = 0.0
        self.status = self.bytes_sent = 0
        self.error_id = 0  # of the error that came out of the application, by `id`: a reference would keep its frames
        self.flags: list[str] = []

    def end(self) -> None:
        """Stop the clock."""
        self.is_over, self.duration = True, perf_counter() - self.started
        self.ended_at = self.started_at + self.duration
        self.context[REQUEST_TIME_CTX_KEY] = self.duration

    def elapsed(self) -> float:
        """Return the seconds from the request's arrival to now, or to its response's last byte."""
        return self.duration if self.is_over else perf_counter() - self.started


current_record: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""Ours, and not starlette-context's: a middleware that a user adds inside lays a fresh context over ours."""

SCOPE_KEY: Final = "app.request_record"
"""Marks a scope whose request has a record, so that mounted applications open no second one; holds the outermost."""

Bound = tuple[Token[RequestRecord | None], Token[dict[object, object]]]


def bind(record: RequestRecord) -> Bound:
    """Make the record the current one, and its context that of starlette-context."""
    return current_record.set(record), context_storage.set(record.context)


def unbind(bound: Bound) -> None:
    """Give back what was current before `bind`, in the same context."""
    current_record.reset(bound[0])
    context_storage.reset(bound[1])
