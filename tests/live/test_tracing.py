"""Traces of a running service, sent to a collector: requests, calls and tasks in one tree, each line with its IDs.

`TRACE_CONTEXT_SUITE` may name the folder `test` of the repository w3c/trace-context; then its own suite runs as well.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any
from uuid import uuid4

import pytest

from tests.support.baking import UV
from tests.support.brokers import Nats, Redis
from tests.support.client import build_request, new_id
from tests.support.lines import parse_access, parse_app
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker, trail

HERE = Path(__file__).parent
TRACE, CALLER = "12345678901234567890123456789012", "1234567890123456"
PARENT = f"00-{TRACE}-{CALLER}-01"
Span = dict[str, Any]


class Collector(Worker):
    """Takes spans over HTTP, in a process that can be stopped and go on."""

    def __init__(self, project: Path, work: Path) -> None:
        self.port = free_port()
        words = ["python", str(HERE / "tracing_collector_probe.py"), str(self.port)]
        super().__init__(project, work, words, {}, name="collector")

    @property
    def url(self) -> str:
        """Where spans are sent to."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        """Start it, and return when it answers."""
        super().start(wait)
        wait_for(self._answers, "the collector")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def spans(self, request_id: str = "", trace_id: str = "") -> list[Span]:
        """Return the spans of a trace, told by its ID or by a request's."""
        found: list[Span] = [json.loads(line) for line in self.stdout.read_text("utf-8").splitlines()]
        if request_id:
            trace_id = next(
                (one["trace_id"] for one in found if one["attributes"].get("request_id") == request_id), "-"
            )
        return [one for one in found if one["trace_id"] == trace_id] if trace_id else found

    def wait(self, count: int, request_id: str) -> list[Span]:
        """Return the spans of a request's trace as soon as there are so many."""
        wait_for(lambda: len(self.spans(request_id)) >= count, f"{count} spans of {request_id}")
        return self.spans(request_id)


def with_probe(connected: Path, folder: Path, *others: str) -> Path:
    """Return a copy of the service that traces, with the probe and these integrations."""
    project = folder / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for integration in (project / "app/integrations").glob("*/__init__.py"):
        if integration.parent.name not in ("tracing", *others):
            shutil.rmtree(integration.parent)
    probe = project / "app/integrations/tracing_probe"
    probe.mkdir()
    shutil.copy(HERE / "tracing_probe.py", probe / "__init__.py")
    return project


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with nothing else on."""
    return with_probe(connected, tmp_path_factory.mktemp("tracing"))


@pytest.fixture(scope="module")
def collector(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector for all tests of this module."""
    with Collector(connected, tmp_path_factory.mktemp("collector")) as running:
        yield running


def variables(collector: Collector, **more: str) -> dict[str, str]:
    """Return what service and workers read from the environment; spans are sent at once."""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OUTBOUND_HOSTS": "127.0.0.1",
    }
    return {**env, **more}


@pytest.fixture(scope="module", params=["text", "json"])
def service(
    request: pytest.FixtureRequest, probed: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run gunicorn with two workers, which send to the collector."""
    env = variables(
        collector, LOG_FORMAT=request.param, LIMIT_REQUEST_LINE="2000", OTEL_EXPORTER_OTLP_HEADERS="x-key=k"
    )
    with Service(probed, tmp_path_factory.mktemp(request.param), app="app.main:app", env=env) as running:
        yield running


def test_a_request_and_the_request_that_it_sends(service: Service, collector: Collector) -> None:
    """Two requests and the call between them are one trace, and each line has the IDs of its span."""
    trace = uuid4().hex  # of its own: a span of another test's would do for one of these
    request_id, there = new_id("two"), f"http://127.0.0.1:{service.port}/probe/test"
    answer = ask(
        service, "/probe/test", request_id, [{"url": there, "arguments": []}], traceparent=f"00-{trace}-{CALLER}-01"
    )
    assert answer.status == 200
    spans = {(one["kind"], one["parent_id"]): one for one in collector.wait(3, request_id)}
    outer = spans["server", CALLER]
    call = spans["client", outer["span_id"]]
    inner = spans["server", call["span_id"]]
    assert {one["trace_id"] for one in (outer, call, inner)} == {trace}
    assert [one["name"] for one in (outer, call, inner)] == ["POST /probe/test", "POST", "POST /probe/test"]
    assert outer["attributes"]["request_id"] == inner["attributes"]["request_id"] == request_id
    assert call["attributes"]["url.full"] == there
    assert (outer["resource"]["service.name"], outer["resource"]["key"]) == ("service", "k")
    lines = service.access_lines(request_id, 2)
    assert {(line.trace_id, line.span_id) for line in lines} == {(trace, outer["span_id"]), (trace, inner["span_id"])}
    durations = sorted(line.duration for line in lines)
    assert durations == pytest.approx(sorted((outer["seconds"], inner["seconds"])), abs=6e-4)
    (told,) = [line for line in service.app_records(request_id) if line.file == "outbound.py"]
    assert (told.trace_id, told.span_id) == (trace, call["span_id"])


def ask(service: Service, path: str, request_id: str, body: object, **headers: str) -> Any:  # noqa: ANN401
    """Post JSON."""
    extra = [("Content-Type", "application/json"), *headers.items()]
    return service.request("POST", path, request_id=request_id, headers=extra, body=json.dumps(body).encode())


@pytest.mark.parametrize(
    ("target", "name", "status"),
    [
        ("/probe/item/7?token=hunter2", "GET /probe/item/{number}", 200),
        ("/nothing/here", "GET", 404),
        ("/probe/fails?token=hunter2", "GET /probe/fails", 500),
        (f"/{'long' * 600}", "GET", 414),
        ("/probe/stream", "GET /probe/stream", 200),
    ],
    ids=lambda value: str(value)[:24],
)
def test_every_outcome(target: str, name: str, status: int, service: Service, collector: Collector) -> None:
    """Found or not, failed or refused at the door: a span, which ends with the response, and no secret in it."""
    answer = service.request("GET", target)
    assert answer.status == status
    request_id = answer.one()
    (access,) = service.access_lines(request_id, 1)
    wait_for(lambda: [one for one in collector.spans(request_id) if one["kind"] == "server"], "the server's span")
    (server,) = [one for one in collector.spans(request_id) if one["kind"] == "server"]
    assert (server["name"], server["is_error"], server["parent_id"]) == (name, status == 500, "")
    assert server["attributes"]["http.response.status_code"] == status
    assert (access.trace_id, access.span_id) == (server["trace_id"], server["span_id"])
    assert server["seconds"] == pytest.approx(access.duration, abs=6e-4)
    assert "hunter2" not in json.dumps(collector.spans(request_id))
    spans = {one["span_id"] for one in collector.spans(request_id)}
    lines = service.app_records(request_id)
    assert {line.trace_id for line in lines} <= {server["trace_id"]}
    assert {line.span_id for line in lines} <= spans
    if status == 500:
        (event,) = server["events"]
        assert event["exception.message"] == "ValueError: password=***"
        assert [line.span_id for line in lines if line.exception] == [server["span_id"]]


def test_lines_are_as_the_document_shows_them(project: Path) -> None:
    """The page has one line of either kind, and both are of the same span."""
    sample = (project / "docs/tracing.md").read_text("utf-8").partition("```text\n")[2].partition("\n```")[0]
    told, access = sample.split("\n")
    ((line,), strays), last = parse_app(told), parse_access(access)
    assert (strays, line.message) == ([], "demo")
    assert (line.request_id, line.trace_id, line.span_id) == (last.request_id, last.trace_id, last.span_id)
    assert None not in (line.trace_id, line.span_id)


def test_keep_alive_mixes_nothing(service: Service) -> None:
    """On one connection, also after a body that is read in parts, each request has its own trace, or its caller's."""
    sent: dict[str, str | None] = {new_id("alive"): f"{number:032x}" if number % 2 else None for number in range(1, 9)}
    with service.connect() as connection:
        for request_id, trace_id in sent.items():
            headers = [("traceparent", f"00-{trace_id}-{CALLER}-01")] if trace_id else []
            body = json.dumps([]).encode() + b" " * 200_000
            extra = [("Content-Type", "application/json"), *headers]
            connection.send(
                build_request("POST", "/probe/test", request_id=request_id, headers=extra, body=body, close=False)
            )
            assert connection.answer("POST").status == 200
    found = {request_id: service.access_lines(request_id, 1)[0].trace_id for request_id in sent}
    assert {one: trace for one, trace in found.items() if sent[one]} == {one: t for one, t in sent.items() if t}
    assert len(set(found.values())) == len(sent)


def test_a_client_that_leaves(service: Service, collector: Collector) -> None:
    """Its span ends too, and says no error."""
    request_id = new_id("left")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/stream", request_id=request_id))
        assert connection.socket.recv(12) == b"HTTP/1.1 200"
    (line,) = service.access_lines(request_id, 1)
    assert "client_disconnect" in line.flags
    wait_for(lambda: any(one["span_id"] == line.span_id for one in collector.spans()), "its span")
    (span,) = [one for one in collector.spans() if one["span_id"] == line.span_id]
    assert (span["name"], span["is_error"]) == ("GET /probe/stream", False)


if "TRACE_CONTEXT_SUITE" in os.environ:

    def test_the_suite_of_the_w3c(service: Service) -> None:
        """Its own tests, at their strictest, against the running service."""
        command = [str(UV), "run", "--no-project", "--with", "aiohttp", "test.py"]
        words = [*command, f"http://127.0.0.1:{service.port}/probe/test"]
        env = {**os.environ, "SPEC_LEVEL": "2", "STRICT_LEVEL": "2", "HARNESS_PORT": str(free_port())}
        suite = os.environ["TRACE_CONTEXT_SUITE"]
        run = subprocess.run(words, cwd=suite, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert run.stderr.rstrip().endswith("OK"), run.stderr


# The end of a process, and a collector that is not there


def test_what_is_recorded_last_is_sent(probed: Path, collector: Collector, tmp_path: Path) -> None:
    """A worker that ends sends what it has, also of a request that it had to cancel."""
    env = variables(collector, OTEL_BSP_SCHEDULE_DELAY="60000", GRACEFUL_TIMEOUT="4")
    with Service(probed, tmp_path, app="app.main:app", env=env) as service:
        request_id, cancelled = new_id("last"), new_id("cancelled")
        with service.connect() as connection:
            connection.send(build_request("GET", "/probe/slow", request_id=cancelled))
            service.request("GET", "/probe/item/7", request_id=request_id)
            assert collector.spans(request_id) == []
            time.sleep(0.2)
            assert service.stop() == 0
    assert {one["kind"] for one in collector.spans(request_id)} == {"server", "internal"}
    (span,) = collector.spans(cancelled)
    assert (span["attributes"]["error.type"], span["is_error"]) == ("CancelledError", True)


@pytest.mark.parametrize("state", ["down", "hangs"])
def test_a_collector_that_is_away_is_in_nobody_s_way(state: str, probed: Path, tmp_path: Path) -> None:
    """Requests are as quick as ever, the log says it once for each worker, and the end comes in time."""
    with ExitStack() as stack:
        collector = stack.enter_context(Collector(probed, tmp_path))
        service = Service(probed, tmp_path / "service", app="app.main:app", env=variables(collector))
        stack.enter_context(service)
        collector.stop() if state == "down" else collector.signal(SIGSTOP)
        stack.callback(collector.signal, SIGCONT) if state == "hangs" else None
        with service.connect() as connection:
            began = time.monotonic()
            for _ in range(3000):
                connection.send(build_request("GET", "/probe/item/7", close=False))
                assert connection.answer("GET").status == 200
            assert time.monotonic() - began < 30
        time.sleep(2)
        began = time.monotonic()
        assert service.stop(SIGTERM) == 0
        assert time.monotonic() - began < 10
        told = [line for line in service.app_text().splitlines() if "spans batch" in line or "Queue full" in line]
        assert len(told) <= len({line.partition("[pid:")[2].partition("]")[0] for line in told}) <= 2
        assert "Traceback" not in service.output()


def test_without_a_collector_there_is_no_thread(probed: Path, tmp_path: Path) -> None:
    """Nothing is recorded, but a trace goes through the service as through any other."""
    with Service(probed, tmp_path, app="app.main:app", env={"OUTBOUND_HOSTS": "127.0.0.1"}) as service:
        request_id, there = new_id("none"), f"http://127.0.0.1:{service.port}/probe/test"
        assert (
            ask(service, "/probe/test", request_id, [{"url": there, "arguments": []}], traceparent=PARENT).status == 200
        )
        lines = service.access_lines(request_id, 2)
        assert {line.trace_id for line in lines} == {TRACE}
        assert len({line.span_id for line in lines} | {CALLER}) == 3
        for pid in service.workers():
            assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1


def test_a_bad_setting(probed: Path, tmp_path: Path) -> None:
    """The service does not start, and says why, without the key."""
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "hunter2", "OTEL_TRACES_SAMPLER": "sometimes"}
    with Service(probed, tmp_path, app="app.main:app", env=env, wait=False) as service:
        assert service.process.wait(20) != 0
        text = service.output()
    assert "The environment variable OTEL_EXPORTER_OTLP_HEADERS is not what it should be" in text
    assert "The environment variable OTEL_TRACES_SAMPLER is 'sometimes'" in text
    assert "hunter2" not in text


# Tasks


def tree(spans: list[Span], parent: str = "", depth: int = 0) -> list[str]:
    """Return a line for each span, below its parent's, those with the most below them first."""
    branches = [
        [f"{'  ' * depth}{one['kind']} {one['name']}", *tree(spans, one["span_id"], depth + 1)]
        for one in spans
        if one["parent_id"] == parent
    ]
    return [line for branch in sorted(branches, key=lambda lines: (-len(lines), lines)) for line in branch]


DEBUG = "consumer process app.integrations.celery.tasks.debug"
DEMOS: dict[str, list[str]] = {
    "celery": [DEBUG, *[f"  {DEBUG}", f"    {DEBUG}", f"      {DEBUG}", f"      {DEBUG}", f"    {DEBUG}"] * 2],
    "saq": ["consumer process demo", "  consumer process demo", "  consumer process demo_in_thread"],
    "faststream": ["consumer process Work", "  consumer process Conclude"],
}
COMMANDS = {
    "celery": (["celery", "-A", "app.integrations.celery", "worker", "-c", "2"], " ready."),
    "celery-threads": (["celery", "-A", "app.integrations.celery", "worker", "-c", "2", "-P", "threads"], " ready."),
    "celery-solo": (["celery", "-A", "app.integrations.celery", "worker", "-P", "solo"], " ready."),
    "saq": (["saq", "app.integrations.saq.settings", "--workers", "2"], "Worker starting"),
    "faststream": (["faststream", "run", "app.integrations.faststream.worker:worker"], "answers"),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_request_and_its_tasks(
    kind: str, connected: Path, collector: Collector, tmp_path: Path, brokers: Callable[[str], str]
) -> None:
    """Through a real broker and a worker: one tree, whose lines have its IDs; and the worker ends well."""
    option, (command, ready) = kind.partition("-")[0], COMMANDS[kind]
    project = with_probe(connected, tmp_path, option)
    variable = {"celery": "CELERY_BROKER_URL", "saq": "SAQ_URL", "faststream": "FASTSTREAM_URL"}[option]
    env = variables(collector, **{variable: brokers(option), "FASTSTREAM_CONSUME": "false", "LOG_FORMAT": "json"})
    env["OTEL_BSP_SCHEDULE_DELAY"] = "60000"  # what arrives has been sent at the end of each process
    service = Service(project, tmp_path / "service", app="app.main:app", env=env)
    with service, Worker(project, tmp_path, command, env, ready=ready, name=option) as worker:
        service.wait_ready()
        request_id = new_id(kind)
        assert service.request("POST", f"/api/{option}/demo", request_id=request_id).status in (200, 202)
        count = len(DEMOS[option])
        wait_for(lambda: len([one for one in trail([worker], request_id) if ended(one.message)]) == count, "its end")
        assert end(worker) in (0, -15)
        assert service.stop() == 0
        spans = collector.spans(request_id)
        assert tree(spans) == [f"server POST /api/{option}/demo", *[f"  {line}" for line in DEMOS[option]]]
        assert {one["attributes"]["request_id"] for one in spans} == {request_id}
        lines = trail([worker], request_id)
        told = {(line.current_id, line.trace_id, line.span_id) for line in lines if ended(line.message)}
        tasks = [one for one in spans if one["kind"] == "consumer"]
        assert told == {(one["attributes"]["task_id"], one["trace_id"], one["span_id"]) for one in tasks}
    print("\n".join(tree(spans)))  # noqa: T201 - seen with -s


def ended(message: str) -> bool:
    """Tell whether it is the last line of a task."""
    return any(f" {state} " in message for state in ("success", "complete", "processed"))


def end(worker: Process) -> int:
    """Tell a worker to end, and its processes too, where it leaves them to themselves."""
    children = worker.workers() if "saq" in str(worker.work) else []
    for child in children:
        os.kill(child, SIGTERM)
    return worker.stop()


@pytest.fixture(scope="module")
def brokers() -> Iterator[Callable[[str], str]]:
    """Return a function that gives the address of an option's broker."""
    with Redis() as redis, Nats() as nats:
        urls = {"celery": redis.url, "saq": redis.url.replace("/0", "/1"), "faststream": nats.url}
        yield urls.__getitem__
