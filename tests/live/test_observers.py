"""Tracing, Sentry, metrics and structlog in one service: what they report about requests and tasks."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from signal import SIGTERM
from typing import Any
from uuid import uuid4

import pytest

from tests.support.away import hanging_server, unused_port
from tests.support.baked import bake_with
from tests.support.baking import TEMPLATE_DIR
from tests.support.brokers import Nats, Redis
from tests.support.client import build_request, new_id
from tests.support.collectors import Sentry, Span, TraceCollector, exemplar_of
from tests.support.lines import parse_access, parse_app
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for
from tests.support.workers import Worker, app_lines_of

pytestmark = pytest.mark.full

CALLER = "1234567890123456"
SECRET = "hunter2"


@pytest.fixture(scope="module")
def observed_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("celery", "saq", "faststream", "metrics", "sentry", "structlog", "tracing")
    copy = bake_with(project, tmp_path_factory.mktemp("observed") / "project", *names)
    probe = copy / "app/integrations/observers_probe"
    probe.mkdir()
    shutil.copy(Path(__file__).with_name("observers_probe.py"), probe / "__init__.py")
    return copy


@pytest.fixture(scope="module")
def traces(observed_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TraceCollector]:
    with TraceCollector(observed_project, tmp_path_factory.mktemp("collector")) as running:
        yield running


@pytest.fixture(scope="module")
def sentry() -> Iterator[Sentry]:
    """A Sentry server for all tests of this module; none of them may send a secret to it."""
    with Sentry() as running:
        yield running
        assert SECRET not in json.dumps(running.items)


@pytest.fixture(scope="module")
def env(traces: TraceCollector, sentry: Sentry) -> Iterator[dict[str, str]]:
    """The environment of services and workers, with running brokers. Spans are exported after 0.1 s."""
    with Redis() as redis, Nats() as nats:
        yield {
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=k",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OUTBOUND_HOSTS": "127.0.0.1",
            "SENTRY_DSN": sentry.dsn,
            "SENTRY_TRACES_SAMPLE_RATE": "1",
            "CELERY_BROKER_URL": redis.url,
            "SAQ_URL": redis.url.replace("/0", "/1"),
            "FASTSTREAM_URL": nats.url,
            "FASTSTREAM_CONSUME": "false",
            "LIMIT_REQUEST_LINE": "2000",
            "LOG_FORMAT": "json",
        }


@pytest.fixture(scope="module")
def service(observed_project: Path, env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run gunicorn with two workers and all observers."""
    with Service(observed_project, tmp_path_factory.mktemp("service"), app="app.main:app", env=env) as running:
        running.wait_ready()
        yield running


# Requests


def test_request_has_the_same_id_everywhere(service: Service, traces: TraceCollector, sentry: Sentry) -> None:
    """Header, body, log records, access log line, span, event and exemplar have it; one trace ID; no secret."""
    request_id = new_id("observed")
    response = service.request("GET", "/probe/observed/7", request_id=request_id)
    assert (response.status, response.header(), response.json()["request_id"]) == (500, request_id, request_id)
    access, app_lines = service.access_line(request_id), service.app_lines(request_id, 3)
    (span,) = traces.wait(1, request_id)
    (transaction,) = sentry.wait("transaction", request_id)
    (event,) = sentry.items_of("event", request_id)  # sent before its transaction
    exemplar = wait_for(lambda: exemplar_of(service, request_id), "the exemplar of the request")
    raw = [line for line in (service.app_text() + service.access_text()).splitlines() if request_id in line]
    assert [line.message for line in app_lines] == ["by structlog", "by logging", "Unhandled RuntimeError"]
    records = [json.loads(line) for line in raw]
    assert {one["trace_id"] for one in records} == {span["trace_id"]}
    assert {one["number"] for one in records} == {7}
    assert (span["name"], span["attributes"]["request_id"]) == ("GET /probe/observed/{number}", request_id)
    assert (event["tags"]["request_id"], event["transaction"].rpartition(".")[2]) == (request_id, "observed")
    assert transaction["tags"]["request_id"] == request_id
    assert exemplar
    assert exemplar.labels["route"] == "/probe/observed/{number}"
    assert access.status == 500
    assert access.duration == pytest.approx(span["seconds"], abs=0.001)
    assert SECRET not in "".join(raw) + json.dumps([span, event, transaction])


def test_request_and_its_outgoing_request_are_one_trace(service: Service, traces: TraceCollector) -> None:
    trace = uuid4().hex  # unique, so that no span of another test matches
    request_id, there = new_id("two"), f"http://127.0.0.1:{service.port}/probe/call"
    headers = [("traceparent", f"00-{trace}-{CALLER}-01")]
    assert service.request("GET", f"/probe/call?url={there}", headers, request_id=request_id).status == 200
    spans = {(one["kind"], one["parent_id"]): one for one in traces.wait(3, request_id)}
    outer = spans["server", CALLER]
    call = spans["client", outer["span_id"]]
    inner = spans["server", call["span_id"]]
    assert {one["trace_id"] for one in (outer, call, inner)} == {trace}
    assert [one["name"] for one in (outer, call, inner)] == ["GET /probe/call", "GET", "GET /probe/call"]
    assert outer["attributes"]["request_id"] == inner["attributes"]["request_id"] == request_id
    assert call["attributes"]["url.full"] == there
    assert (outer["resource"]["service.name"], outer["resource"]["key"]) == ("service", "k")
    lines = service.access_lines(request_id, 2)
    assert {(line.trace_id, line.span_id) for line in lines} == {(trace, outer["span_id"]), (trace, inner["span_id"])}
    durations = sorted(line.duration for line in lines)
    assert durations == pytest.approx(sorted((outer["seconds"], inner["seconds"])), abs=6e-4)
    (outbound,) = [line for line in service.app_records(request_id) if line.file == "outbound.py"]
    assert (outbound.trace_id, outbound.span_id) == (trace, call["span_id"])


def test_sample_log_lines_in_the_documentation_are_valid() -> None:
    sample = (TEMPLATE_DIR / "docs/tracing.md").read_text("utf-8").partition("```text\n")[2].partition("\n```")[0]
    app_line, access_line = sample.split("\n")
    ((line,), strays), access = parse_app(app_line), parse_access(access_line)
    assert (strays, line.message) == ([], "demo")
    assert (line.request_id, line.trace_id, line.span_id) == (access.request_id, access.trace_id, access.span_id)
    assert None not in (line.trace_id, line.span_id)


def test_pipelined_requests_do_not_share_traces_or_bound_values(service: Service) -> None:
    """Log records and access log line have the bound value of the request, and its trace ID or that of its caller."""
    count = 50
    ids = {n: new_id(f"bound{n}") for n in range(1, 4 * count + 1)}
    for first in range(1, len(ids), count):
        numbers = range(first, first + count)
        with service.connect() as connection:
            for n in numbers:
                headers = [("traceparent", f"00-{n:032x}-{CALLER}-01")] if n % 3 else []
                connection.send(build_request("GET", f"/probe/bound/{n}", headers, request_id=ids[n], close=False))
            assert [connection.read_response().json()["result"] for _ in numbers] == [*numbers]

    def records() -> dict[int, list[dict[str, Any]]]:
        lines = (service.app_text() + service.access_text()).splitlines(keepends=True)
        own = [json.loads(line) for line in lines if '"bound' in line and line.endswith("\n")]
        return {n: [one for one in own if one["request_id"] == ids[n]] for n in ids}

    wait_for(lambda: min(map(len, records().values())) == 3, "three records of each request")
    traces = set()
    for n, own in records().items():
        assert [one.get("number") for one in own] == [n] * 3
        assert {one.get("found", 0) for one in own} == {0}
        (trace,) = {one["trace_id"] for one in own}
        assert trace == f"{n:032x}" or not n % 3
        traces.add(trace)
    assert len(traces) == len(ids)


def test_client_disconnect_is_not_an_error(service: Service, traces: TraceCollector) -> None:
    request_id = new_id("left")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/stream", request_id=request_id))
        assert connection.socket.recv(12) == b"HTTP/1.1 200"
    line = service.access_line(request_id)
    assert "client_disconnect" in line.flags
    span = next(one for one in traces.wait(2, request_id) if one["span_id"] == line.span_id)
    assert (span["name"], span["is_error"]) == ("GET /probe/stream", False)


# Shutdown, and receivers that do not respond


def test_each_worker_reports_its_failures_and_sends_the_last_ones_at_shutdown(
    observed_project: Path, env: dict[str, str], traces: TraceCollector, sentry: Sentry, tmp_path: Path
) -> None:
    """Each failure is one event and one transaction in one trace, also a request that the shutdown cancels."""
    ids: list[str] = []
    slow_export = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "GRACEFUL_TIMEOUT": "4"}
    with Service(observed_project, tmp_path, app="app.main:app", env=env | slow_export) as service:

        def fail(request_id: str) -> None:
            service.request("GET", f"/probe/observed/7?token={SECRET}&id={request_id}", request_id=request_id)

        def workers_that_failed() -> set[int]:
            ids.extend(batch := [new_id("event") for _ in range(20)])
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(fail, batch))
            return {line.pid for line in parse_app(service.app_text())[0] if line.request_id in ids}

        wait_for(lambda: len(workers_that_failed()) == 2, "failures of both workers")
        for request_id in ids:
            (transaction,) = sentry.wait("transaction", request_id)
            (event,) = sentry.items_of("event", request_id)
            assert event["request"]["query_string"] == f"token=***&id={request_id}"
            assert event["transaction"] == transaction["transaction"] == "app.integrations.observers_probe.observed"
            assert event["contexts"]["trace"]["trace_id"] == transaction["contexts"]["trace"]["trace_id"]
            duration = transaction["timestamp"] - transaction["start_timestamp"]
            assert duration == pytest.approx(service.access_line(request_id).duration, abs=0.001)
        last, cancelled = new_id("last"), new_id("cancelled")
        with service.connect() as connection, sentry.slow():
            connection.send(build_request("GET", "/probe/slow", request_id=cancelled))
            service.app_lines(cancelled)
            fail(last)
            assert traces.spans(last) == []
            assert service.stop() == 0
    events = [sentry.items_of("event", one) for one in (*ids, last)]
    assert {len(of_one) for of_one in events} == {1}
    assert len({event["contexts"]["trace"]["trace_id"] for (event,) in events}) == len(events)
    assert [one["kind"] for one in traces.spans(last)] == ["server"]
    (span,) = traces.spans(cancelled)
    assert (span["attributes"]["error.type"], span["is_error"]) == ("CancelledError", True)


@pytest.mark.parametrize("state", [hanging_server, unused_port])
def test_unresponsive_receivers_delay_neither_requests_nor_shutdown(
    observed_project: Path, env: dict[str, str], tmp_path: Path, state: Callable[[], AbstractContextManager[int]]
) -> None:
    """The failure is logged once, although more is reported than the queues hold."""
    count = 60  # requests with an event and a transaction each; Sentry's queue holds 100
    with state() as port:
        receivers = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
        receivers |= {"OTEL_BSP_MAX_QUEUE_SIZE": "20", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "20"}
        receivers |= {"SENTRY_DSN": f"http://public-key@127.0.0.1:{port}/1"}
        with Service(observed_project, tmp_path, app="app.main:app", env=env | receivers, workers=1) as service:
            for _ in range(count):
                assert service.request("GET", "/probe/observed/7").status == 500
            assert max(line.duration for line in service.access()) < scaled(1)
            wait_for(lambda: exporter_lines(service), "the log record of the exporter")
            started = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - started < scaled(8)  # two seconds each for two observers and two attempts
            text = service.app_text()
    assert len(exporter_lines(service)) == 1
    assert text.count("Unhandled RuntimeError") == text.count("Traceback (most recent call last)") == count
    assert "urllib3" not in text
    assert " is attempting to send" not in text


def exporter_lines(service: Service) -> list[str]:
    """Return the log lines of the span exporter."""
    return [line for line in service.app_text().splitlines() if "spans batch" in line or "Queue full" in line]


# Tasks

CELERY = ["celery", "-A", "app.integrations.celery", "worker", "-I", "app.integrations.observers_probe"]
WORKERS = {
    "celery-prefork": ([*CELERY, "--without-mingle", "-c", "2"], " ready."),
    "celery-threads": ([*CELERY, "--without-mingle", "-c", "2", "-P", "threads"], " ready."),
    "celery-solo": ([*CELERY, "--without-mingle", "-P", "solo"], " ready."),
    "saq": (["saq", "app.integrations.saq.settings", "--workers", "2"], "Worker starting"),
    "faststream": (["faststream", "run", "app.integrations.faststream.worker:worker"], "Connected to the broker"),
}
"""The command of each kind of worker, and a text in its log that shows that it is ready."""
FAILING = {"celery": "app.integrations.observers_probe.fail_in_celery", "saq": "fail_in_saq",
           "faststream": "FailInFaststream"}  # fmt: skip
DEBUG = "consumer process app.integrations.celery.tasks.debug"
DEMOS = {
    "celery": [DEBUG, *[f"  {DEBUG}", f"    {DEBUG}", f"      {DEBUG}", f"      {DEBUG}", f"    {DEBUG}"] * 2],
    "saq": ["consumer process demo", "  consumer process demo", "  consumer process demo_in_thread"],
    "faststream": ["consumer process Work", "  consumer process Conclude"],
}


@pytest.mark.parametrize("kind", WORKERS)
def test_worker_reports_its_tasks_in_the_trace_of_their_request(  # noqa: PLR0917
    kind: str,
    observed_project: Path,
    env: dict[str, str],
    service: Service,
    traces: TraceCollector,
    sentry: Sentry,
    tmp_path: Path,
) -> None:
    """Each failure is one event. Shutdown sends what has not been sent yet."""
    queue, (command, ready) = kind.partition("-")[0], WORKERS[kind]
    demo, last = new_id(kind), new_id("last")
    slow_export = env | {"OTEL_BSP_SCHEDULE_DELAY": "60000"}
    with Worker(observed_project, tmp_path, command, slow_export, ready=ready, name=kind) as worker:
        assert service.request("POST", f"/api/{queue}/demo", request_id=demo).status in (200, 202)
        wait_for(lambda: len(last_records(worker, demo)) == len(DEMOS[queue]), "the last record of each demo task")
        assert_one_event_for_each_failure(service, sentry, queue)
        with sentry.slow():
            send_failing(service, queue, last)
            wait_for(lambda: any(line.level == "ERROR" for line in worker.app_records(last)), "the last failure")
            for child in worker.workers() if queue == "saq" else []:
                os.kill(child, SIGTERM)  # SAQ's main process does not stop its workers
            assert worker.stop(timeout=60) in (0, -15)
            assert len(sentry.wait("event", last)) == 1  # SAQ's main process does not wait for its workers
        spans = traces.wait(len(DEMOS[queue]) + 1, demo)
        assert tree(spans) == [f"server POST /api/{queue}/demo", *[f"  {line}" for line in DEMOS[queue]]]
        assert {one["attributes"]["request_id"] for one in spans} == {demo}
        tasks = [one for one in spans if one["kind"] == "consumer"]
        ids = {(one["attributes"]["task_id"], one["trace_id"], one["span_id"]) for one in tasks}
        assert last_records(worker, demo) == ids


def last_records(worker: Worker, request_id: str) -> set[tuple[str | None, str | None, str | None]]:
    """Return the IDs in the last log record of each task."""
    lines = [line for line in app_lines_of([worker], request_id)
             if any(f" {state} " in line.message for state in ("success", "complete", "processed"))]  # fmt: skip
    return {(line.current_id, line.trace_id, line.span_id) for line in lines}


def send_failing(service: Service, queue: str, request_id: str) -> None:
    response = service.request("POST", f"/probe/send/{queue}?password={SECRET}", request_id=request_id)
    assert response.status == 200, response


def assert_one_event_for_each_failure(service: Service, sentry: Sentry, queue: str) -> None:
    """Send tasks that fail: each is one event and one transaction, in the trace of its request only."""
    ids = [new_id("work") for _ in range(10)]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda one: send_failing(service, queue, one), ids))
    traces = set()
    for request_id in ids:
        transactions = sentry.wait("transaction", request_id, 2)
        (event,) = sentry.wait("event", request_id)
        assert event["transaction"] == FAILING[queue]
        (of_task,) = [one for one in transactions if one["transaction"] == FAILING[queue]]
        assert of_task["contexts"]["trace"]["status"] == "internal_error"
        assert event["tags"]["current_id"] == of_task["tags"]["current_id"]
        (trace,) = {one["contexts"]["trace"]["trace_id"] for one in (event, *transactions)}
        traces.add(trace)
    assert len(traces) == len(ids)


def tree(spans: list[Span], parent: str = "", depth: int = 0) -> list[str]:
    """Return one line per span, indented below its parent; siblings with more descendants come first."""
    branches = [
        [f"{'  ' * depth}{one['kind']} {one['name']}", *tree(spans, one["span_id"], depth + 1)]
        for one in spans
        if one["parent_id"] == parent
    ]
    return [line for branch in sorted(branches, key=lambda lines: (-len(lines), lines)) for line in branch]
