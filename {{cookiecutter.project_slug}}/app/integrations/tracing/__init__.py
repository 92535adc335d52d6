"""Traces by OpenTelemetry, joined with the request's ID: docs/tracing.md says what is recorded, and where it goes."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from traceback import format_exception
from typing import Final

from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span, set_span_in_context
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.common.context.observers import call_observers, injectors, log_fields, request_observers, task_observers
from app.common.context.request_record import RequestRecord, current_record
from app.common.http.routes import route_of
from app.common.logs.access_fields import method_of, path_of, policy, user_agent_of
from app.common.outbound import OutboundCall
from app.common.redaction import redact
from app.common.task_record import TaskRecord
from app.integrations.tracing.export import SETTINGS, flush, start
from app.integrations.tracing.trace_context import child_of, inject, remote_context
from app.settings import Settings

__all__ = ["SETTINGS", "install", "lifespan", "observe", "wrap"]

METHODS: Final = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
PORTS: Final = {"http": 80, "https": 443}
CONTEXT: Final = (b"traceparent", b"tracestate")
# In the scope: a request's span, and that of the next line about it.
SPAN, LINE = "app.tracing.span", "app.tracing.line"
tracer: Final = trace.get_tracer(__name__)


def install(_app: FastAPI, _: Settings) -> None:
    """Watch requests, and what they set off."""
    watch()
    request_observers["tracing"] = end_request


def observe(_: Settings) -> None:
    """Watch what works on tasks, and send its spans."""
    watch()
    start()


def watch() -> None:
    """Write the IDs into lines and into what goes out, and put spans around calls and tasks."""
    log_fields["tracing"], injectors["tracing"] = fields, inject
    call_observers["tracing"], task_observers["tracing"] = call, work


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Send spans from now on: in the process that serves, after its fork."""
    start()
    yield
    await asyncio.to_thread(flush)


def wrap(app: ASGIApp, _: Settings) -> ASGIApp:
    """Put a span around each request; it stays current for the lines after it, as the server's task ends with it."""

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        record = current_record.get()
        if scope["type"] == "lifespan" or record is None:
            return await app(scope, receive, send)
        is_within_another = get_current_span().get_span_context().is_valid
        scope["fastapi.telemetry"] = None  # nor shall a FastAPI that is mounted
        span = record.scope[SPAN] = begin_request(record)
        token = attach(set_span_in_context(span, Context()))
        try:
            await app(scope, receive, send)
        except BaseException as error:
            note(span, error)
            raise
        finally:
            if is_within_another:  # which has called us, as httpx2.ASGITransport does, and goes on
                detach(token)
                record.scope[LINE] = span

    return traced


def begin_request(record: RequestRecord) -> Span:
    """Return the span of a request below that of its caller; that of a health check is not recorded."""
    headers = [(name, value.decode("latin-1")) for name, value in record.scope["headers"] if name in CONTEXT]
    caller = remote_context(*([value for name, value in headers if name == one] for one in CONTEXT))
    if policy.excludes(record.scope):
        return trace.NonRecordingSpan(child_of(get_current_span(caller).get_span_context()))
    return start_span(known(method_of(record), "HTTP"), SpanKind.SERVER, caller, round(record.started_at * 1e9))


def start_span(name: str, kind: SpanKind, context: Context | None = None, nanoseconds: int | None = None) -> Span:
    """Return a new span below that of the context, else below the current one; since when: of the epoch, else now."""
    span = tracer.start_span(name, context, kind, start_time=nanoseconds)
    parent = get_current_span(context).get_span_context()
    # Where nothing is recorded we get the parent back; lines, and whoever is called, have an ID all the same.
    is_parent = span.get_span_context().span_id == parent.span_id
    return trace.NonRecordingSpan(child_of(parent)) if is_parent else span


def end_request(record: RequestRecord) -> None:
    """End its span when the access line is written, which has its IDs, with the same duration."""
    span = record.scope[LINE] = record.scope.get(SPAN)
    if span is None or not span.is_recording():
        return
    route, status, scope = route_of(record.scope), record.status, record.scope
    host = next((value[:256].decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    failed = status >= 500 or (record.failed and "client_disconnect" not in record.flags)  # noqa: PLR2004
    attributes = {
        "request_id": record.request_id,
        "http.request.method": known(method_of(record), "_OTHER"),
        "http.route": route,
        "http.response.status_code": status,
        "url.path": path_of(record),
        "url.scheme": scope.get("scheme", "http"),
        "client.address": (scope.get("client") or [""])[0],
        "server.address": re.sub(r":\d*$", "", host),
        "user_agent.original": user_agent_of(record),
        "error.type": str(status) if failed and not record.failed else "",
    }
    span.set_attributes({name: value for name, value in attributes.items() if value})
    span.update_name(f"{known(method_of(record), 'HTTP')} {route}".rstrip())
    if failed:
        span.set_status(StatusCode.ERROR)
    span.end(round(record.ended_at * 1e9))


def known(method: str, other: str) -> str:
    """Return the method, or what stands for those that nobody knows, of which there is no end."""
    return method if method in METHODS else other


def note(span: Span, error: BaseException) -> None:
    """Add an error that nobody caught, without local variables and secrets; that the client has left is none."""
    if span.is_recording() and not isinstance(error, ClientDisconnect | WebSocketDisconnect):
        kind, lines = type(error).__qualname__, format_exception(error)
        texts = {"exception.message": redact(lines[-1].strip()), "exception.stacktrace": redact("".join(lines))}
        span.add_event("exception", {"exception.type": kind} | {name: text[-8192:] for name, text in texts.items()})
        span.set_attribute("error.type", kind)


def fields() -> Mapping[str, object]:
    """Return what a line has: the IDs of the current span; the access line those of its request's."""
    record = current_record.get()
    span: Span = (record.scope.pop(LINE, None) if record else None) or get_current_span()
    ids = span.get_span_context()
    return {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"} if ids.is_valid else {}


@contextmanager
def within(span: Span) -> Iterator[None]:
    """Make the span current, and end it with what is done inside; of an error it keeps the kind."""
    token = attach(set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        fail(span, type(error).__qualname__)
        raise
    finally:
        detach(token)
        span.end()


def fail(span: Span, kind: str) -> None:
    """Say that what the span is about has failed, and how."""
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


@contextmanager
def call(exchange: OutboundCall) -> Iterator[None]:
    """Put a span around a call, up to its answer's headers; user and query, where secrets may be, are left out."""
    method, url = known(exchange.request.method, "HTTP"), exchange.request.url
    span = start_span(method, SpanKind.CLIENT)
    path = url.raw_path.partition(b"?")[0].decode()
    full = f"{url.scheme}://{url.netloc.decode()}{path}"
    span.set_attributes({"server.address": url.host, "server.port": url.port or PORTS.get(url.scheme, 0)})
    span.set_attributes({"http.request.method": known(exchange.request.method, "_OTHER"), "url.full": full})
    with within(span):
        yield
        if exchange.response is not None:
            status = exchange.response.status_code
            span.set_attribute("http.response.status_code", status)
            if status >= 400:  # noqa: PLR2004
                fail(span, str(status))


@contextmanager
def work(record: TaskRecord) -> Iterator[None]:
    """Put a span around a task, below that of its sender; of one that is called, not sent, below the current one."""
    headers = ([text] if (text := record.headers.get(name.decode())) else [] for name in CONTEXT)
    parents, states = ([one.decode("latin-1") if isinstance(one, bytes) else str(one) for one in of] for of in headers)
    span = start_span(f"process {record.name}", SpanKind.CONSUMER, remote_context(parents, states) if parents else None)
    with within(span):
        yield
        span.set_attributes({"request_id": record.request_id, "task_id": record.task_id})
        span.set_attributes({"task": record.name, "state": record.state})
        if record.failed:
            span.set_status(StatusCode.ERROR)
