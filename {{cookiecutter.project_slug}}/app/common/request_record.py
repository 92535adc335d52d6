"""What is known of one request while it is served; the accessors, the context and the access line read it.

Integrations that want to know of it as well put themselves into the tables below, each under its own name.
"""

from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, Final

from starlette.types import Scope

from app.common.constants import NO_REQUEST_ID, REQUEST_ID_CTX_KEY, REQUEST_START_TIME_CTX_KEY, REQUEST_TIME_CTX_KEY
from app.common.redaction import redact


class RequestRecord:
    """One request: its ID, its clock, and what has gone out so far.

    Times are readings of `perf_counter()` in seconds, `started_at` is seconds since the epoch. `context` is what
    `starlette_context.context` shows.
    """

    __slots__ = (
        "bytes_sent",
        "context",
        "ended",
        "failed",
        "first_byte",
        "flags",
        "outer",
        "raw_request_id",
        "request_id",
        "scope",
        "started",
        "started_at",
        "status",
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
        self.first_byte: float | None = None
        self.ended: float | None = None
        self.status = 0
        self.bytes_sent = 0
        self.flags: list[str] = []
        self.failed = False

    def end(self) -> None:
        """Stop the clock."""
        self.ended = perf_counter()
        self.context[REQUEST_TIME_CTX_KEY] = self.ended - self.started

    @property
    def duration(self) -> float:
        """Seconds from the request's arrival to its response's last byte, or to now while it runs."""
        return (perf_counter() if self.ended is None else self.ended) - self.started

    @property
    def ended_at(self) -> float:
        """Seconds of the epoch at the response's last byte, by the clock at the request's arrival."""
        return self.started_at + self.duration

    @property
    def ttfb(self) -> float | None:
        """Seconds from the request's arrival to its response's start; None while there is none."""
        return None if self.first_byte is None else self.first_byte - self.started


current_record: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""Ours, and not starlette-context's: a middleware that a user adds inside lays a fresh context over ours."""

SCOPE_KEY: Final = "app.request_record"
"""Marks a scope whose request has a record, so that mounted applications open no second one."""

log_fields: Final[dict[str, Callable[[], Mapping[str, object]]]] = {}
"""What each line has besides the IDs, such as a trace's: of the context in which it is called."""

injectors: Final[dict[str, Callable[[MutableMapping[Any, Any]], None]]] = {}
"""What goes out besides the IDs, into the headers of calls (to allowed hosts), tasks and messages."""

request_watchers: Final[dict[str, Callable[[RequestRecord], None]]] = {}
"""Who is told of each request when it is over, refused ones and websockets included; they must not raise."""


def current_fields() -> dict[str, object]:
    """Return what the integrations have to say of a line that is written now, without secrets."""
    return {key: redact.value(value, key) for fields in log_fields.values() for key, value in fields().items()}


def fields_suffix(fields: Mapping[str, object]) -> str:
    """Return them as a text line shows them: a space and `name=value` for each."""
    return "".join(f" {name}={value}" for name, value in fields.items())
