"""Metrics of one process, and of several processes that share a folder, without gunicorn."""

import gc
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp

from app.common.context.observers import metric_observers, observe_metric, request_observers
from app.environment import PROJECT_ROOT
from app.integrations import metrics
from app.integrations.metrics import server
from app.main import Application, create_app
from tests.support import HEADER, Logs, connect

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
Growth = Callable[..., float]


def collect() -> list[Sample]:
    """Return the samples of a scrape, without the text format."""
    return [sample for family in metrics.WorkersCollector().collect() for sample in family.samples]


def total(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
    """Return the sum of a metric's samples with these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


@pytest.fixture
def growth(app: Application) -> Iterator[Growth]:  # noqa: ARG001 - installs the observers
    """Return a function for a metric's growth since the test began; earlier tests of this process counted too."""
    before = collect()
    yield lambda name, **labels: total(collect(), name, labels) - total(before, name, labels)
    request_observers.clear()
    metric_observers.clear()


async def plain(_: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


def add_routes(app: FastAPI) -> None:
    inner, outer = APIRouter(prefix="/items"), APIRouter(prefix="/v1")

    @inner.get("/{item}")
    def item(item: int) -> int:
        return item

    @app.get("/boom/{x}")
    def boom(x: str) -> None:
        raise ValueError(x)

    @inner.websocket("/{item}/events")
    async def events(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    @inner.websocket("/{item}/refused")
    async def refused(websocket: WebSocket) -> None:
        await websocket.close()

    outer.include_router(inner)
    outer.add_route("/plain/{name}", plain)
    outer.mount("/files/{kind}", Mount("", routes=[Route("/{name}", plain)]))
    app.include_router(outer, prefix="/shop")
    mounted = FastAPI()
    mounted.include_router(outer)
    app.mount("/of/{tenant}", mounted)
    app.mount("/files", Mount("", routes=[Route("/{name}", plain)]))
    app.add_route("/plain/{name}", plain)


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/livez", "/livez", 200),
        ("GET", "/shop/v1/items/1", "/shop/v1/items/{item}", 200),
        ("GET", "/shop/v1/items/x", "/shop/v1/items/{item}", 422),
        ("DELETE", "/shop/v1/items/1", "/shop/v1/items/{item}", 405),
        ("GET", "/of/acme/v1/items/1", "/of/{tenant}/v1/items/{item}", 200),
        ("GET", "/of/acme/nothing", "/of/{tenant}/{path}", 404),
        ("GET", "/files/a", "/files/{name}", 200),
        ("GET", "/plain/a", "/plain/{name}", 200),
        ("HEAD", "/plain/a", "/plain/{name}", 200),
        ("POST", "/plain/a", "/plain/{name}", 405),
        ("GET", "/shop/plain/a", "/shop/plain/{name}", 200),
        ("GET", "/shop/files/a/b", "/shop/files/{kind}/{path}", 200),
        ("GET", "/nothing/at/all", "_UNMATCHED", 404),
        ("GET", "/boom/1", "/boom/{x}", 500),
        ("POST", "/metrics", "/metrics", 405),
    ],
)
def test_each_request_is_counted_once(  # noqa: PLR0917
    app: Application, client: TestClient, growth: Growth, method: str, path: str, route: str, status: int
) -> None:
    """It counts under its method, the full path template and its status; its size is the bytes sent."""
    add_routes(app)
    labels = {"method": method, "route": route, "status": str(status)}
    response = client.request(method, path)
    assert response.status_code == status
    assert growth("http_requests_total", **labels) == growth("http_requests_total") == 1
    assert growth("http_request_duration_seconds_count", **labels) == growth("http_request_duration_seconds_count") == 1
    assert 0 < growth("http_request_duration_seconds_sum", **labels) < 5
    assert growth("http_response_size_bytes_sum", **labels) == len(response.content)


def test_websocket_is_counted_without_duration_and_size(app: Application, client: TestClient, growth: Growth) -> None:
    """A rejected handshake counts as an ordinary request."""
    add_routes(app)
    with client.websocket_connect("/shop/v1/items/1/events"):
        pass
    route = "/shop/v1/items/{item}/events"
    assert growth("http_requests_total", method="GET", route=route, status="101") == growth("http_requests_total") == 1
    assert growth("http_request_duration_seconds_count") == growth("http_response_size_bytes_count") == 0
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/shop/v1/items/1/refused"):
        pass
    assert growth("http_requests_total", status="403") == growth("http_request_duration_seconds_count") == 1


def test_unknown_methods_and_paths_share_one_series(client: TestClient, growth: Growth) -> None:
    client.request("BREW", "/pot/x")
    series = len(collect())
    for number in range(100):
        client.request(f"BREW{number}", f"/pot/{number}", params={"q": str(number)})
    assert len(collect()) == series
    assert growth("http_requests_total", method="_OTHER", route="_UNMATCHED", status="404") == 101


def test_scrapes_are_neither_counted_nor_logged(client: TestClient, growth: Growth, logs: Logs) -> None:
    """A failed one is an ordinary request. Paths in ACCESS_LOG_EXCLUDE stay excluded."""
    for _ in range(3):
        assert client.get("/metrics").headers[HEADER]
    assert growth("http_requests_total") == growth("http_requests_in_flight") == 0
    client.get("/livez")
    assert logs.access == []
    client.post("/metrics")
    assert len(logs.access) == 1


@pytest.mark.parametrize("prefix", ["", "/nested"])
def test_requests_in_flight_are_counted_once(app: Application, client: TestClient, growth: Growth, prefix: str) -> None:
    """The gauge is 1 during the request and 0 after it fails, also if a mounted application serves it."""
    inner, values = create_app(), []
    app.mount("/nested", inner)

    @(inner if prefix else app).get("/gauge")
    def read_gauge() -> None:
        values.append(total(collect(), "http_requests_in_flight", {"type": "http"}))
        raise ValueError("fails")

    assert client.get(f"{prefix}/gauge").status_code == 500
    assert values == [1]
    assert total(collect(), "http_requests_in_flight", {}) == 0
    assert growth("http_requests_total", route=f"{prefix}/gauge") == growth("http_requests_total") == 1


def test_metrics_are_not_served_through_a_proxy(client: TestClient) -> None:
    response = client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    assert (response.status_code, response.json()["code"]) == (404, 404)
    assert client.get("/metrics").headers["connection"] == "close"


def test_format_is_negotiated(client: TestClient) -> None:
    """OpenMetrics if the client accepts it, or else the text format, also for an invalid Accept header."""
    response = client.get("/metrics", headers=OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics")
    assert response.text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(response.text)}
    for accept in ("", "*/*", "text/plain;version=x", "\xff", "application/json;version=1"):
        response = client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {family.name for family in parse_text(response.text)} == names > {"http_requests", "log_messages"}


@pytest.mark.parametrize(("length", "has_exemplar"), [(118, True), (119, False)])
def test_exemplar_of_a_bucket_is_its_newest_request_id_unless_too_long(
    app: Application, client: TestClient, length: int, has_exemplar: bool
) -> None:
    """OpenMetrics allows 128 characters for names and values of an exemplar's labels."""
    add_routes(app)
    for request_id in ("first-of-all", newest := "x" * length):
        assert client.get("/plain/a", headers={HEADER: request_id}).headers[HEADER] == request_id
    buckets = [one for one in collect() if one.exemplar and one.labels["route"] == "/plain/{name}"]
    assert ({"request_id": newest} in [one.exemplar.labels for one in buckets if one.exemplar]) is has_exemplar
    for bucket in buckets:
        assert bucket.name == "http_request_duration_seconds_bucket"
        assert bucket.exemplar
        assert bucket.exemplar.value <= float(bucket.labels["le"])


def test_each_log_record_is_counted_once(growth: Growth) -> None:
    """The number of handlers does not matter. Records below the logger's level and copies of records do not count."""
    log = logging.getLogger("counted")
    log.handlers = [logging.NullHandler(), logging.NullHandler()]
    log.warning("has two handlers")
    log.propagate = False
    log.handlers = []
    log.error("has no handler")
    log.debug("below the level")
    log.log(35, "between two levels")
    log.log(70, "above CRITICAL")
    logging.makeLogRecord({"msg": "a copy", "levelno": logging.ERROR})
    for level, count in {"DEBUG": 0, "WARNING": 2, "ERROR": 1, "CRITICAL": 1}.items():
        assert growth("log_messages_total", level=level) == count


def test_record_that_repeats_an_error_is_neither_written_nor_counted(
    app: Application, growth: Growth, logs: Logs
) -> None:
    """uvicorn logs the traceback of a request again; the counts equal the lines in the log."""

    @app.get("/fails")
    def fails() -> None:
        logging.getLogger("work").info("about to fail")
        raise ValueError("fails")

    def serve(application: ASGIApp) -> ASGIApp:
        async def serve_like_uvicorn(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            try:
                await application(scope, receive, send)
            except ValueError:
                logging.getLogger("uvicorn.error").exception("Exception in ASGI application")

        return serve_like_uvicorn

    assert connect(serve(app)).get("/fails").status_code == 500
    for level in ("INFO", "ERROR"):
        assert growth("log_messages_total", level=level) == sum(f" {level} [" in line for line in logs.error) == 1
    assert len(logs.access) == 1


def test_destructor_that_logs_while_counting_does_not_deadlock(growth: Growth) -> None:
    """asyncio logs an exception that was never retrieved when the task is freed, possibly while a lock is held."""

    class LogsWhenFreed:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            logging.getLogger("destructor").warning("freed")

    def count() -> None:
        LogsWhenFreed()
        with metrics.levels[2]._value._lock:
            gc.collect()

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert growth("log_messages_total", level="WARNING") == 1


PROCESS = """
import os, sys
from prometheus_client.openmetrics.exposition import generate_latest
from app.common.context.request_record import RequestRecord
from app.integrations import metrics
for _ in range(int(sys.argv[1])):
    record = RequestRecord(sys.argv[2], {"type": "http", "method": "GET", "path": "/", "headers": []})
    record.end()
    metrics.count_request(record)
print(generate_latest(metrics.WorkersCollector()).decode())
if sys.argv[3:]:
    os.kill(os.getpid(), 9)
"""


def count_in_process(folder: Path, *arguments: str) -> list[Sample]:
    """Count requests in a new process that uses the shared folder; return the samples of its scrape."""
    variables = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-u", "-c", PROCESS, *arguments]
    result = subprocess.run(command, cwd=PROJECT_ROOT, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == (-9 if arguments[2:] else 0), result.stderr
    return [one for family in parse_openmetrics(result.stdout.strip() + "\n") for one in family.samples]


def test_several_processes_count_together(tmp_path: Path) -> None:
    """Counts of a killed process stay. Exemplars are those of the process that is scraped."""
    count_in_process(tmp_path, "3", "from-the-first", "killed")
    samples = count_in_process(tmp_path, "4", "from-the-second")
    assert [one.value for one in samples if one.name == "http_requests_total"] == [7]
    assert {one.exemplar.labels["request_id"] for one in samples if one.exemplar} == {"from-the-second"}


class Arbiter(SimpleNamespace):
    """gunicorn's master as its hooks see it; `master_pid` is set if it replaces another master (USR2)."""

    def __init__(self, master_pid: int = 0, reexec_pid: int = 0) -> None:
        super().__init__(pid=7, master_pid=master_pid, reexec_pid=reexec_pid, WORKERS={})
        self.cfg = SimpleNamespace(env_orig={})

    def fork(self, age: int) -> SimpleNamespace:
        """Add a worker."""
        self.WORKERS[age] = worker = SimpleNamespace()
        server.pre_fork(self, worker)
        return worker


def test_each_start_has_its_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only its user can read it. Files of an earlier start do not count, and a successor (USR2) shares the folder."""
    monkeypatch.setenv(server.FOLDER, str(tmp_path))
    server.on_starting(arbiter := Arbiter())
    arbiter.fork(1)
    folder = Path(os.environ[server.FOLDER])
    assert folder != tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    assert arbiter.cfg.env_orig == {server.FOLDER: str(folder)}
    server.on_starting(successor := Arbiter(master_pid=7))
    successor.fork(1)
    assert Path(os.environ[server.FOLDER]) == folder
    server.on_exit(Arbiter())
    assert not folder.exists()


def test_worker_continues_the_files_of_an_exited_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the file with the requests in flight of the exited worker is removed."""
    monkeypatch.setenv(server.FOLDER, str(tmp_path))
    arbiter = Arbiter()
    first, second = arbiter.fork(1), arbiter.fork(2)
    assert (first.metrics_name, second.metrics_name) == ("7-0", "7-1")
    remaining = [tmp_path / name for name in ("counter_7-0.db", "gauge_livesum_7-1.db")]
    for file in (*remaining, tmp_path / "gauge_livesum_7-0.db"):
        file.touch()
    server.child_exit(arbiter, arbiter.WORKERS.pop(1))
    assert sorted(tmp_path.iterdir()) == remaining
    assert arbiter.fork(3).metrics_name == "7-0"


@pytest.mark.parametrize(
    ("arbiter", "exists"),
    [
        (Arbiter(), False),
        (Arbiter(reexec_pid=8), True),
        (Arbiter(master_pid=os.getppid()), True),
        (Arbiter(master_pid=os.getppid() + 1), False),
    ],
    ids=["only master", "successor is running", "predecessor is running", "predecessor has exited"],
)
def test_last_master_removes_the_folder(
    arbiter: Arbiter, exists: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(server.FOLDER, str(tmp_path / "folder"))
    (tmp_path / "folder").mkdir()
    server.on_exit(arbiter)
    assert (tmp_path / "folder").exists() is exists


DEPLOY = PROJECT_ROOT / "deploy" / "prometheus"
FUNCTIONS = {"histogram_quantile", "label_values"}
PROMETHEUS_METRICS = {"up": {"job", "instance"}}


def rules(field: str) -> list[str]:
    """Return the values of a field in all rules."""
    return re.findall(rf" {field}: (.+)", (DEPLOY / "alerts.yml").read_text("utf-8"))


def queries() -> list[str]:
    """Return each query of the dashboard and of the rules."""
    board = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*panels, *rules("expr"), *(one["query"] for one in board["templating"]["list"] if one["type"] == "query")]


def test_queries_use_existing_metrics_and_labels(client: TestClient) -> None:
    """The queries are those of the dashboard and of the rules."""
    client.get("/livez")
    labels = {name: set(names) for name, names in PROMETHEUS_METRICS.items()}
    for sample in collect():
        labels.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    labels |= {name: {"job", "route"} for name in rules("record")}
    assert len(queries()) > 20
    for query in queries():
        bare = re.sub(r'"[^"]*"', '""', query)
        for name, matchers in re.findall(r"([a-z_:]+){([^}]*)}", bare):
            assert set(re.findall(r"(\w+)(?==|!)", matchers)) <= labels[name], query
        grouped = " ".join(re.findall(r"by \(([^)]*)\)", bare))
        assert set(re.findall(r"\w+", grouped)) <= set().union(*labels.values()), query
        names = re.findall(r"[a-z]\w*[_:][\w:]+", re.sub(r"by \([^)]*\)|{[^}]*}|\[[^]]*\]", "", bare))
        assert set(names) <= FUNCTIONS | labels.keys(), query


def test_measurements_of_an_integration_are_a_histogram(growth: Growth) -> None:
    for seconds in (0.2, 0.7):
        observe_metric("probe", seconds, kind="a")
    observe_metric("probe", 0.1, kind="b")
    assert growth("probe_seconds_count", kind="a") == 2
    assert growth("probe_seconds_sum", kind="a") == pytest.approx(0.9)
    assert growth("probe_seconds_bucket", kind="a", le="0.25") == 1
    assert growth("probe_seconds_count", kind="b") == 1
