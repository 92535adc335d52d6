"""The record of one request; accessors, starlette-context's context and the access log read it."""

from contextvars import ContextVar, Token
from time import perf_counter, time
from typing import Final

from starlette.types import Scope
from starlette_context import _request_scope_context_storage as context_storage

from app.common.constants import NO_REQUEST_ID, REQUEST_ID_CTX_KEY, REQUEST_START_TIME_CTX_KEY, REQUEST_TIME_CTX_KEY


class RequestRecord:
    """State of one request: its ID, its timings, and its response so far.

    Times are in seconds. `started` is a value of `perf_counter()`. `started_at` and `ended_at` are since the epoch; the
    latter is `started_at` plus `duration`. `duration` runs from the request's arrival to the response's last byte,
    `ttfb` to its start. Once `is_over`, `duration` and `ended_at` are set. `context` is `starlette_context.context`.
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
        self.outer: RequestRecord | None = None  # the enclosing request, if made in-process (httpx2.ASGITransport)
        self.ttfb: float | None = None
        self.is_over = self.failed = False
        self.duration = self.ended_at = 0.0
        self.status = self.bytes_sent = 0
        self.error_id = 0  # `id()` of the exception that the application raised; a reference would keep its frames
        self.flags: list[str] = []

    def end(self) -> None:
        """Stop the timer."""
        self.is_over, self.duration = True, perf_counter() - self.started
        self.ended_at = self.started_at + self.duration
        self.context[REQUEST_TIME_CTX_KEY] = self.duration

    def elapsed(self) -> float:
        """Return the seconds from the request's arrival to now, or to its response's last byte."""
        return self.duration if self.is_over else perf_counter() - self.started


current_record: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""Separate from starlette-context's variable, which a starlette-context middleware further inside would replace."""

SCOPE_KEY: Final = "app.request_record"
"""ASGI scope key of the outermost application; if it is set, a record exists, and mounted applications create none."""

Tokens = tuple[Token[RequestRecord | None], Token[dict[object, object]]]


def bind(record: RequestRecord) -> Tokens:
    """Make the record the current one, and its context that of starlette-context; return tokens for `unbind`."""
    return current_record.set(record), context_storage.set(record.context)


def unbind(tokens: Tokens) -> None:
    """Restore what was current before `bind`; it must run in the same context as `bind`."""
    current_record.reset(tokens[0])
    context_storage.reset(tokens[1])
