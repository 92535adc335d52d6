"""Spans, checked in memory; W3C trace headers; export to a collector on loopback."""

import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, get_current_span
from opentelemetry.util._once import Once
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.common.http.refusals import REFUSAL_KEY, Refusal
from app.common.outbound import OutboundAsyncClient, OutboundClient
from app.common.task_record import TaskRecord, extract, inject
from app.environment import project_metadata, read_settings
from app.integrations import tracing
from app.integrations.tracing import SETTINGS, export
from app.integrations.tracing.trace_context import remote_context
from app.main import Application
from app.settings import get_settings
from tests.support import HEADER, ID, Logs, connect

TRACE, CALLER = "12345678901234567890123456789012", "1234567890123456"
PARENT = f"00-{TRACE}-{CALLER}-01"
log = logging.getLogger("work")

Memory = InMemorySpanExporter
RecordSpans = Callable[[sampling.Sampler], Memory]


@pytest.fixture
def record_spans(monkeypatch: pytest.MonkeyPatch) -> RecordSpans:
    """Return a function that records spans in memory during this test."""

    def record(sampler: sampling.Sampler) -> Memory:
        exporter, provider = Memory(), TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
        return exporter

    return record


@pytest.fixture
def memory(record_spans: RecordSpans) -> Memory:
    return record_spans(sampling.DEFAULT_ON)


def span_of(memory: Memory, kind: SpanKind = SpanKind.SERVER) -> ReadableSpan:
    """Return the only span of this kind."""
    (span,) = [span for span in memory.get_finished_spans() if span.kind is kind]
    return span


def context_of(span: ReadableSpan) -> SpanContext:
    """Return the span's context, which is optional by its type."""
    context = span.get_span_context()
    assert context
    return context


def ids(span: ReadableSpan) -> str:
    """Return the span's IDs as a text line shows them."""
    context = context_of(span)
    return f" trace_id={context.trace_id:032x} span_id={context.span_id:016x}"


def raw_lines(logs: Logs, name: str) -> list[str]:
    """Return the lines of a log file with the fields of integrations."""
    return (logs.folder / name).read_text("utf-8").splitlines()


# W3C Trace Context


@pytest.mark.parametrize(
    "value",
    [
        PARENT,
        f" \t{PARENT}\t ",
        f"00-{TRACE}-{CALLER}-ff",
        f"cc-{TRACE}-{CALLER}-01",
        f"cc-{TRACE}-{CALLER}-01-a-later-version",
    ],
)
def test_valid_traceparent_is_accepted(value: str) -> None:
    caller = get_current_span(remote_context([value], [])).get_span_context()
    assert (f"{caller.trace_id:032x}", f"{caller.span_id:016x}") == (TRACE, CALLER)
    assert caller.is_remote
    assert caller.trace_flags == int(value.strip()[53:55], 16) & 3


@pytest.mark.parametrize(
    "values",
    [
        [], [PARENT, PARENT], [""], [f"{PARENT},{PARENT}"], [f"{PARENT}-more"], [f"{PARENT}."], [f"{PARENT}\n"],
        [PARENT.replace("1", "\u0661")], [f"cc-{TRACE}-{CALLER}-01.more"],
        *([f"{version}-{TRACE}-{CALLER}-01"] for version in ("ff", "0", "000", "0.")),
        *([f"00-{one}-{CALLER}-01"] for one in (TRACE.replace("1", "A"), f"{TRACE}0", TRACE[1:], "0" * 32)),
        *([f"00-{TRACE}-{one}-01"] for one in ("0" * 16, f"{CALLER}0", CALLER[1:])),
        *([f"00-{TRACE}-{CALLER}-{flags}"] for flags in (".0", "1", "001")),
    ],
)  # fmt: skip
def test_invalid_traceparent_starts_a_new_trace(values: list[str]) -> None:
    assert remote_context(values, ["vendor=1"]) == Context()


KEY = "z" * 256


@pytest.mark.parametrize(
    ("headers", "propagated"),
    [
        (["foo=1"], "foo=1"),
        (["foo=1,bar=2", "baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1 \t, \t bar=2", "", " , "], "foo=1,bar=2"),
        (["foo=1,foo=2,bar=3"], "foo=1,bar=3"),
        (["foo= 1"], "foo= 1"),
        (["0a_-*/@=1,v@@w=2"], "0a_-*/@=1,v@@w=2"),
        ([f"{KEY}={KEY}"], f"{KEY}={KEY}"),
        *(([text], "") for text in (f"{KEY}z=1,foo=1", f"foo={KEY}z", "foo =1", "FOO=1", "foo.bar=1", "@foo=1,bar=2")),
        *(([text], "") for text in ("foo=bar=baz", "foo=,bar=3", "foo=1,bar", "foo=\u00e9")),
        ([",".join(f"k{number}=1" for number in range(32))], ",".join(f"k{number}=1" for number in range(32))),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
        ([",".join(["foo=1"] * 33)], ""),
    ],
)
def test_tracestate_is_propagated_completely_or_not_at_all(headers: list[str], propagated: str) -> None:
    state = get_current_span(remote_context([PARENT], headers)).get_span_context().trace_state
    assert state.to_header() == propagated


def mock_transport(received: list[httpx2.Headers], status: int = 200) -> httpx2.MockTransport:
    """Return a transport that responds to each call and stores its headers in `received`."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        received.append(request.headers)
        return httpx2.Response(status)

    return httpx2.MockTransport(respond)


def call_allowed_host(app: Application, **headers: str) -> httpx2.Headers:
    """Send a request whose endpoint calls an allowed host, and return the headers of that call."""
    received: list[httpx2.Headers] = []

    async def calls() -> None:
        async with OutboundAsyncClient(allowed_hosts=["there"], transport=mock_transport(received)) as client:
            await client.get("http://there/")

    app.get(path := f"/calls/{len(app.routes)}")(calls)
    assert connect(app).get(path, headers=headers).status_code == 200
    return received[0]


def test_trace_propagates_without_a_collector(app: Application, logs: Logs) -> None:
    sent = call_allowed_host(app, traceparent=PARENT, tracestate="vendor@=1,foo=2")
    version, trace_id, span_id, flags = sent["traceparent"].split("-")
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert sent["tracestate"] == "vendor@=1,foo=2"
    (line,) = raw_lines(logs, "access.log")
    assert f" trace_id={TRACE} span_id=" in line
    assert len({span_id, CALLER, line.rpartition("=")[2]}) == 3
    assert not any(thread.name.startswith("Otel") for thread in threading.enumerate())


def test_without_a_valid_traceparent_a_new_unsampled_trace_starts(app: Application) -> None:
    first, second = (call_allowed_host(app, traceparent=value)["traceparent"] for value in ("", "nonsense"))
    assert first[:2] == second[:2] == "00"
    assert first[-2:] == second[-2:] == "02"  # only the flag "random trace ID"
    assert len({first[3:35], second[3:35], "0" * 32}) == 3
    assert "tracestate" not in call_allowed_host(app, tracestate="foo=1")


def test_existing_traceparent_is_not_overwritten(memory: Memory) -> None:
    tracing.observe(get_settings())
    with trace.get_tracer("test").start_as_current_span("own"):
        carrier = {"TraceParent": "existing"}
        inject(carrier)
        empty: dict[str, str] = {}
        inject(empty)
    assert set(carrier) == {"TraceParent", "x-request-id"}
    assert empty["traceparent"].split("-")[2] == f"{context_of(span_of(memory, SpanKind.INTERNAL)).span_id:016x}"
    assert "tracestate" not in empty


# The span of a request


@pytest.fixture
def service(app: Application) -> Application:
    """The application with the routes that these tests request."""
    router, mounted, inner = APIRouter(prefix="/things"), FastAPI(), APIRouter()

    @router.get("/{number}")
    async def thing(number: int) -> int:
        return number

    @app.get("/fails")
    async def fails() -> None:
        local = "local-hunter2"
        raise ValueError(f"{len(local)} password=hunter2")

    @app.get("/busy")
    async def busy() -> None:
        raise HTTPException(503)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    @app.websocket("/echo/{name}")
    async def echo(socket: WebSocket, name: str) -> None:
        await socket.accept()
        log.info("socket of %s", name)
        await socket.close()

    inner.add_api_route("/part/{name}", lambda name: name)
    mounted.include_router(inner)
    app.include_router(router, prefix="/v1")
    app.mount("/tenants/{tenant}", mounted)
    app.mount("/files", PlainTextResponse("a file"))
    return app


async def chunks() -> AsyncIterator[bytes]:
    """Yield the last byte inside of another span."""
    with trace.get_tracer("test").start_as_current_span("own"):
        yield b"first"
        log.info("streaming")
        yield b"last"


@pytest.mark.parametrize(
    ("request_line", "name", "status"),
    [
        ("GET /v1/things/7?token=hunter2", "GET /v1/things/{number}", 200),
        ("GET /v1/things/seven", "GET /v1/things/{number}", 422),
        ("DELETE /v1/things/7", "DELETE /v1/things/{number}", 405),
        ("GET /tenants/42/part/7", "GET /tenants/{tenant}/part/{name}", 200),
        ("GET /tenants/42/nothing", "GET /tenants/{tenant}/{path}", 404),
        ("GET /files/a/b.txt", "GET /files/{path}", 200),
        ("GET /nothing/here", "GET", 404),
        ("BREW /v1/things/7", "HTTP /v1/things/{number}", 405),
        ("GET /busy", "GET /busy", 503),
        ("GET /fails", "GET /fails", 500),
    ],
)
def test_request_has_one_span(request_line: str, name: str, status: int, service: Application, memory: Memory) -> None:
    method, path = request_line.split(" ")
    headers = {HEADER: ID, "User-Agent": "curl/9", "Host": "example.org:8000", "traceparent": PARENT}
    connect(service).request(method, path, headers=headers)
    (span,) = memory.get_finished_spans()
    attributes = dict(span.attributes or {})
    assert (span.name, span.kind) == (name, SpanKind.SERVER)
    assert span.parent
    assert (f"{span.parent.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)
    assert attributes.pop("error.type", None) == {500: "ValueError", 503: "503"}.get(status)
    assert attributes.pop("http.route", "") == name.partition(" ")[2]
    assert attributes == {
        "request_id": ID,
        "http.request.method": "_OTHER" if method == "BREW" else method,
        "http.response.status_code": status,
        "url.path": path.partition("?")[0],
        "url.scheme": "http",
        "client.address": "testclient",
        "server.address": "example.org",
        "user_agent.original": "curl/9",
    }
    assert span.status.status_code is (StatusCode.ERROR if status >= 500 else StatusCode.UNSET)
    assert "hunter2" not in span.to_json()


def test_error_is_recorded_without_secrets_and_local_variables(
    service: Application, memory: Memory, logs: Logs
) -> None:
    connect(service).get("/fails")
    (span,) = memory.get_finished_spans()
    (event,) = span.events
    attributes = dict(event.attributes or {})
    assert (event.name, attributes["exception.type"]) == ("exception", "ValueError")
    assert attributes["exception.message"] == "ValueError: 13 password=***"
    assert 'raise ValueError(f"{len(local)} password=' in str(attributes["exception.stacktrace"])
    assert "local-hunter2" not in str(attributes["exception.stacktrace"]).replace('local = "local-hunter2"', "")
    (line,) = [line for line in raw_lines(logs, "error.log") if "Unhandled ValueError" in line]
    assert ids(span) in line
    assert raw_lines(logs, "access.log")[0].endswith(f" ValueError{ids(span)}")


def test_span_and_access_line_have_the_same_duration(
    configure: Callable[..., Application], memory: Memory, logs: Logs
) -> None:
    connect(configure(LOG_FORMAT="json")).get("/api/demo")
    (span,) = memory.get_finished_spans()
    (line,), context = map(json.loads, raw_lines(logs, "access.log")), context_of(span)
    assert (line["trace_id"], line["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert span.end_time
    assert span.start_time
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(line["duration"], abs=1e-5)


def test_rejected_request_has_a_span(service: Application, memory: Memory) -> None:
    async def reject(scope: Scope, receive: Receive, send: Send) -> None:
        await service({**scope, REFUSAL_KEY: Refusal(414, "Too long.")}, receive, send)

    connect(reject).get("/long")
    span = span_of(memory)
    assert (span.name, (span.attributes or {})["http.response.status_code"]) == ("GET", 414)


def test_websocket_has_a_span(service: Application, memory: Memory, logs: Logs) -> None:
    with connect(service).websocket_connect("/echo/ann", headers={"traceparent": PARENT}) as socket:
        socket.receive()
    span = span_of(memory)
    assert (span.name, (span.attributes or {})["http.response.status_code"]) == ("GET /echo/{name}", 101)
    assert [ids(span) in line for line in raw_lines(logs, "error.log") + raw_lines(logs, "access.log")] == [True, True]


def test_log_records_have_the_current_span_and_the_access_line_that_of_its_request(
    service: Application, memory: Memory, logs: Logs
) -> None:
    assert connect(service).get("/stream").content == b"firstlast"
    own, server = span_of(memory, SpanKind.INTERNAL), span_of(memory)
    assert own.parent == context_of(server)
    assert [f"]{ids(own)} streaming" in line for line in raw_lines(logs, "error.log")] == [True]
    assert [line.endswith(ids(server)) for line in raw_lines(logs, "access.log")] == [True]


def test_health_checks_are_not_recorded(service: Application, memory: Memory) -> None:
    assert connect(service).get("/livez").status_code == 200
    assert memory.get_finished_spans() == ()


def test_trace_does_not_leak_to_the_next_request(service: Application, memory: Memory) -> None:
    client = connect(service)
    for headers in ({"traceparent": PARENT}, {}, {"traceparent": PARENT}):
        client.get("/v1/things/7", headers=headers)
    first, second, third = memory.get_finished_spans()
    assert second.parent is None
    assert context_of(second).trace_id not in (int(TRACE, 16), 0)
    assert context_of(first).trace_id == context_of(third).trace_id == int(TRACE, 16)


def test_nested_request_restores_the_span_of_the_outer_one(service: Application, memory: Memory, logs: Logs) -> None:
    @service.get("/outer")
    async def outer() -> None:
        transport = httpx2.ASGITransport(service, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://inner") as client:
            assert (await client.get("/fails")).status_code == 500
        log.info("outer")

    connect(service).get("/outer")
    inner, outer_span = memory.get_finished_spans()
    assert context_of(inner).trace_id != context_of(outer_span).trace_id
    lines = [line for line in raw_lines(logs, "error.log") if " trace_id=" in line]
    assert [ids(span) in line for span, line in zip((inner, outer_span), lines, strict=True)] == [True, True]
    assert [ids(inner) in line for line in raw_lines(logs, "access.log")] == [True, False]


@pytest.mark.parametrize(
    ("sampler", "flags", "recorded"),
    [
        (sampling.DEFAULT_ON, "01", 1),
        (sampling.DEFAULT_ON, "00", 0),
        (sampling.DEFAULT_OFF, "01", 1),
        (sampling.ALWAYS_OFF, "01", 0),
        (sampling.ALWAYS_ON, "00", 1),
    ],
)
def test_sampler_decides_whether_the_caller_s_sampled_flag_counts(
    sampler: sampling.Sampler, flags: str, recorded: int, record_spans: RecordSpans, app: Application
) -> None:
    memory = record_spans(sampler)
    sent = call_allowed_host(app, traceparent=PARENT[:-2] + flags)["traceparent"]
    assert sent[3:35] == TRACE
    assert int(sent[-2:], 16) & 1 == recorded
    assert len(memory.get_finished_spans()) == 2 * recorded


# Outgoing calls


@pytest.mark.parametrize("host", ["there", "elsewhere"])
def test_outgoing_call_has_a_span_and_only_allowed_hosts_get_its_headers(host: str, memory: Memory) -> None:
    tracing.observe(get_settings())
    received: list[httpx2.Headers] = []
    with OutboundClient(allowed_hosts=["there"], transport=mock_transport(received, 404)) as client:
        for _ in range(2):
            client.get(f"https://ann:hunter2@{host}/path/1?token=hunter2")
    first, second = memory.get_finished_spans()
    assert (first.name, first.kind, first.status.status_code) == ("GET", SpanKind.CLIENT, StatusCode.ERROR)
    assert first.attributes == {
        "http.request.method": "GET",
        "server.address": host,
        "server.port": 443,
        "url.full": f"https://{host}/path/1",
        "http.response.status_code": 404,
        "error.type": "404",
    }
    expected = [f"00-{context_of(s).trace_id:032x}-{context_of(s).span_id:016x}-03" for s in (first, second)]
    assert [headers.get("traceparent") for headers in received] == (expected if host == "there" else [None, None])


def test_failed_call_records_its_error(memory: Memory) -> None:
    tracing.observe(get_settings())

    def fail(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("hunter2")

    client = OutboundClient(transport=httpx2.MockTransport(fail))
    with client, pytest.raises(httpx2.ConnectError):
        client.get("http://there/")
    span = span_of(memory, SpanKind.CLIENT)
    assert ((span.attributes or {})["error.type"], span.status.status_code) == ("ConnectError", StatusCode.ERROR)
    assert "hunter2" not in span.to_json()
    assert not get_current_span().get_span_context().is_valid


# Tasks


@pytest.mark.parametrize(("failed", "value"), [(False, PARENT), (True, PARENT.encode())])
def test_task_has_a_child_span_of_its_sender(failed: bool, value: object, memory: Memory) -> None:
    tracing.observe(get_settings())
    task = extract({"X-Request-ID": ID, "TraceParent": value, "tracestate": "foo=1"}, "task-1").begin("demo")
    task.finish("demo", "done", failed=failed)
    task.__exit__()
    span = span_of(memory, SpanKind.CONSUMER)
    assert (span.name, span.parent and f"{span.parent.trace_id:032x}") == ("process demo", TRACE)
    assert context_of(span).trace_state.to_header() == "foo=1"
    assert span.attributes == {"request_id": ID, "task_id": "task-1", "task": "demo", "state": "done"}
    assert span.status.status_code is (StatusCode.ERROR if failed else StatusCode.UNSET)
    assert not get_current_span().get_span_context().is_valid


def test_task_called_directly_has_a_child_span_of_its_caller(memory: Memory) -> None:
    tracing.observe(get_settings())
    with trace.get_tracer("test").start_as_current_span("own"):
        TaskRecord(ID, "task-1").begin("demo").__exit__()
    TaskRecord(ID, "task-2", headers={"traceparent": "nonsense"}).begin("demo").__exit__()
    child, own, root = memory.get_finished_spans()
    assert child.parent == context_of(own)
    assert root.parent is None


# The collector


class Collector(ThreadingHTTPServer):
    """A server that stores received spans and responds with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.requests: list[tuple[str, str | None, ExportTraceServiceRequest]] = []


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((self.path, self.headers["x-key"], body))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector whose address is in the environment; the export to it stops with the test."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    monkeypatch.setattr(tracing, "tracer", trace.ProxyTracer("test"))
    with Collector() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        if isinstance(provider := trace.get_tracer_provider(), TracerProvider):
            provider.shutdown()
        server.shutdown()
        thread.join()
    for name in ("exporter.otlp.proto.http.trace_exporter", "sdk._shared_internal"):
        logger = logging.getLogger(f"opentelemetry.{name}")
        logger.filters = [one for one in logger.filters if not hasattr(one, "__self__")]


def test_remaining_spans_are_sent_when_the_lifespan_ends(
    collector: Collector, configure: Callable[..., Application]
) -> None:
    app = configure(OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20key", OTEL_RESOURCE_ATTRIBUTES="team=blue,zone=a%2Fb")
    with connect(app) as client:
        client.get("/api/demo", headers={HEADER: ID, "traceparent": PARENT})
        assert "OtelBatchSpanRecordProcessor" in {thread.name for thread in threading.enumerate()}
    ((path, key, body),) = collector.requests
    assert (path, key) == ("/v1/traces", "a key")
    (group,) = body.resource_spans
    resource = {one.key: one.value.string_value for one in group.resource.attributes}
    assert resource["service.name"] == project_metadata()["name"]
    assert (resource["team"], resource["zone"]) == ("blue", "a/b")
    (scope,) = group.scope_spans  # none are from FastAPI, which can record spans too
    (span,) = scope.spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("GET /api/demo", TRACE, CALLER)


@pytest.mark.parametrize(("name", "value"), [("SERVICE_NAME", "mine"), ("RESOURCE_ATTRIBUTES", "service.name=mine")])
def test_service_name_can_be_set(name: str, value: str, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"OTEL_{name}", value)
    export.start_export()
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    assert provider.resource.attributes["service.name"] == "mine"
    assert collector.requests == []


@pytest.mark.parametrize(("name", "value"), [("EXPORTER_OTLP_ENDPOINT", ""), ("SDK_DISABLED", "true")])
def test_nothing_starts_without_an_endpoint_or_if_disabled(
    name: str, value: str, collector: Collector, configure: Callable[..., Application]
) -> None:
    with connect(configure(**{f"OTEL_{name}": value})) as client:
        client.get("/api/demo")
        assert not any(thread.name.startswith("Otel") for thread in threading.enumerate())
    assert not isinstance(trace.get_tracer_provider(), TracerProvider)
    assert collector.requests == []


def test_existing_tracer_provider_is_kept(collector: Collector) -> None:
    own = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(own)
    export.start_export()
    assert trace.get_tracer_provider() is own
    assert not any(thread.name.startswith("Otel") for thread in threading.enumerate())
    assert collector.requests == []


def test_failing_collector_is_logged_once_and_its_recovery_too(
    collector: Collector, app: Application, logs: Logs
) -> None:
    collector.status = 401
    with connect(app) as client:
        for _ in range(3):
            client.get("/api/demo")
            export.flush()
        collector.status = 200
        client.get("/api/demo")
        export.flush()
    assert len(collector.requests) == 4
    lines = [line.partition("[-] ")[2] for line in logs.error if "batch" in line or "collector" in line]
    assert lines == [
        "Failed to export spans batch code: 401, reason: Unauthorized",
        "The trace collector accepts spans again",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("EXPORTER_OTLP_HEADERS", "hunter2"),
        ("EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("RESOURCE_ATTRIBUTES", "team"),
        ("TRACES_SAMPLER", "sometimes"),
        ("TRACES_SAMPLER_ARG", "1.5"),
        ("SDK_DISABLED", "perhaps"),
    ],
)
def test_invalid_setting_is_reported_in_a_sentence(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"OTEL_{name}", value)
    with pytest.raises(SystemExit, match=f"^The environment variable OTEL_{name} is ") as rejected:
        read_settings(SETTINGS)
    assert "hunter2" not in str(rejected.value)
