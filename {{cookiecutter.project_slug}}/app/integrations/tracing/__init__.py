"""OpenTelemetry traces, linked with the request ID; docs/tracing.md lists what is recorded and where it is sent."""

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
from app.integrations.tracing.export import SETTINGS, flush, start_export
from app.integrations.tracing.trace_context import child_of, inject, remote_context
from app.settings import Settings

__all__ = ["SETTINGS", "install", "lifespan", "observe", "wrap"]

METHODS: Final = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
PORTS: Final = {"http": 80, "https": 443}
TRACE_HEADERS: Final = (b"traceparent", b"tracestate")
# In the scope: the request's span; the span whose IDs the next log record of the request gets.
SPAN, LOG_SPAN = "app.tracing.span", "app.tracing.log_span"
tracer: Final = trace.get_tracer(__name__)


def install(_app: FastAPI, _: Settings) -> None:
    """Trace requests, and the calls and tasks that they start."""
    register_observers()
    request_observers["tracing"] = end_request_span


def observe(_: Settings) -> None:
    """Trace the tasks of this worker process, and start the export of spans."""
    register_observers()
    start_export()


def register_observers() -> None:
    """Add the trace IDs to log records and outgoing headers, and spans to outgoing calls and tasks."""
    log_fields["tracing"], injectors["tracing"] = trace_fields, inject
    call_observers["tracing"], task_observers["tracing"] = trace_call, trace_task


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Export spans while the application runs: started in the worker process, after its fork."""
    start_export()
    yield
    await asyncio.to_thread(flush)


def wrap(app: ASGIApp, _: Settings) -> ASGIApp:
    """Return the application with a span per request; it stays current, so later records of the server have its IDs."""

    async def trace_request(scope: Scope, receive: Receive, send: Send) -> None:
        record = current_record.get()
        if scope["type"] == "lifespan" or record is None:
            return await app(scope, receive, send)
        is_nested = get_current_span().get_span_context().is_valid
        scope["fastapi.telemetry"] = None  # a mounted FastAPI must add no spans of its own
        span = record.scope[SPAN] = start_request_span(record)
        token = attach(set_span_in_context(span, Context()))
        try:
            await app(scope, receive, send)
        except BaseException as error:
            record_error(span, error)
            raise
        finally:
            if is_nested:  # an in-process call (httpx2.ASGITransport): its task continues; the server's ends here
                detach(token)
                record.scope[LOG_SPAN] = span

    return trace_request


def start_request_span(record: RequestRecord) -> Span:
    """Return the request's span, a child of its caller's; a path in ACCESS_LOG_EXCLUDE is not recorded."""
    headers = [(name, value.decode("latin-1")) for name, value in record.scope["headers"] if name in TRACE_HEADERS]
    caller = remote_context(*([value for name, value in headers if name == header] for header in TRACE_HEADERS))
    if policy.excludes(record.scope):
        return trace.NonRecordingSpan(child_of(get_current_span(caller).get_span_context()))
    return start_span(known_method(method_of(record), "HTTP"), SpanKind.SERVER, caller, round(record.started_at * 1e9))


def start_span(name: str, kind: SpanKind, context: Context | None = None, nanoseconds: int | None = None) -> Span:
    """Return a new child span of the context or current span; it starts at `nanoseconds` since the epoch, or now."""
    span = tracer.start_span(name, context, kind, start_time=nanoseconds)
    parent = get_current_span(context).get_span_context()
    # The tracer returns the parent if it records nothing; log records and outgoing calls need a span ID regardless.
    is_parent = span.get_span_context().span_id == parent.span_id
    return trace.NonRecordingSpan(child_of(parent)) if is_parent else span


def end_request_span(record: RequestRecord) -> None:
    """End the request's span when its access log line is written: both have the same duration and IDs."""
    span = record.scope[LOG_SPAN] = record.scope.get(SPAN)
    if span is None or not span.is_recording():
        return
    route, status, scope = route_of(record.scope), record.status, record.scope
    host = next((value[:256].decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    failed = status >= 500 or (record.failed and "client_disconnect" not in record.flags)  # noqa: PLR2004
    attributes = {
        "request_id": record.request_id,
        "http.request.method": known_method(method_of(record), "_OTHER"),
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
    span.update_name(f"{known_method(method_of(record), 'HTTP')} {route}".rstrip())
    if failed:
        span.set_status(StatusCode.ERROR)
    span.end(round(record.ended_at * 1e9))


def known_method(method: str, other: str) -> str:
    """Return the method if it is a known one, or else `other`, for low cardinality."""
    return method if method in METHODS else other


def record_error(span: Span, error: BaseException) -> None:
    """Add an unhandled error, without local variables and secrets, unless it says that the client disconnected."""
    if span.is_recording() and not isinstance(error, ClientDisconnect | WebSocketDisconnect):
        kind, lines = type(error).__qualname__, format_exception(error)
        texts = {"exception.message": redact(lines[-1].strip()), "exception.stacktrace": redact("".join(lines))}
        span.add_event("exception", {"exception.type": kind} | {name: text[-8192:] for name, text in texts.items()})
        span.set_attribute("error.type", kind)


def trace_fields() -> Mapping[str, object]:
    """Return the IDs of the current span for a log record; the access log line has those of its request's span."""
    record = current_record.get()
    span: Span = (record.scope.pop(LOG_SPAN, None) if record else None) or get_current_span()
    ids = span.get_span_context()
    return {"trace_id": f"{ids.trace_id:032x}", "span_id": f"{ids.span_id:016x}"} if ids.is_valid else {}


@contextmanager
def use_span(span: Span) -> Iterator[None]:
    """Make the span current for the block and end it afterwards; an error sets its type as `error.type`."""
    token = attach(set_span_in_context(span))
    try:
        yield
    except BaseException as error:
        mark_failed(span, type(error).__qualname__)
        raise
    finally:
        detach(token)
        span.end()


def mark_failed(span: Span, error_type: str) -> None:
    """Set the span's error status and `error.type`."""
    span.set_attribute("error.type", error_type)
    span.set_status(StatusCode.ERROR)


@contextmanager
def trace_call(call: OutboundCall) -> Iterator[None]:
    """Trace an outgoing call up to the response's headers, without the URL's user and query, which may be secret."""
    method, url = known_method(call.request.method, "HTTP"), call.request.url
    span = start_span(method, SpanKind.CLIENT)
    path = url.raw_path.partition(b"?")[0].decode()
    full_url = f"{url.scheme}://{url.netloc.decode()}{path}"
    span.set_attributes({"server.address": url.host, "server.port": url.port or PORTS.get(url.scheme, 0)})
    span.set_attributes({"http.request.method": known_method(call.request.method, "_OTHER"), "url.full": full_url})
    with use_span(span):
        yield
        if call.response is not None:
            status = call.response.status_code
            span.set_attribute("http.response.status_code", status)
            if status >= 400:  # noqa: PLR2004
                mark_failed(span, str(status))


@contextmanager
def trace_task(record: TaskRecord) -> Iterator[None]:
    """Trace a task as a child of the span in its headers, or else (called directly, not sent) of the current span."""
    headers = ([text] if (text := record.headers.get(name.decode())) else [] for name in TRACE_HEADERS)
    parents, states = ([v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in values] for values in headers)
    span = start_span(f"process {record.name}", SpanKind.CONSUMER, remote_context(parents, states) if parents else None)
    with use_span(span):
        yield
        span.set_attributes({"request_id": record.request_id, "task_id": record.task_id})
        span.set_attributes({"task": record.name, "state": record.state})
        if record.failed:
            span.set_status(StatusCode.ERROR)
