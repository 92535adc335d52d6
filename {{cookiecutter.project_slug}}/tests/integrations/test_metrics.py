"""Metrics in this process, and in several that share a folder, without gunicorn."""

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
Grown = Callable[..., float]


def counted() -> list[Sample]:
    """Return what a scrape would have, without the text."""
    return [sample for family in metrics.Everything().collect() for sample in family.samples]


def total(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
    """Return the sum of what has these labels."""
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


@pytest.fixture
def grown(app: Application) -> Iterator[Grown]:  # noqa: ARG001 - which counts
    """Return by how much a metric has grown since the test began: the metrics are those of the process."""
    before = counted()
    yield lambda name, **labels: total(counted(), name, labels) - total(before, name, labels)
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
    app: Application, client: TestClient, grown: Grown, method: str, path: str, route: str, status: int
) -> None:
    """Under its method, the whole template of its path, and its status; its body with the bytes that were sent."""
    add_routes(app)
    labels = {"method": method, "route": route, "status": str(status)}
    response = client.request(method, path)
    assert response.status_code == status
    assert grown("http_requests_total", **labels) == grown("http_requests_total") == 1
    assert grown("http_request_duration_seconds_count", **labels) == grown("http_request_duration_seconds_count") == 1
    assert 0 < grown("http_request_duration_seconds_sum", **labels) < 5
    assert grown("http_response_size_bytes_sum", **labels) == len(response.content)


def test_a_websocket_is_counted_without_its_time(app: Application, client: TestClient, grown: Grown) -> None:
    """How long it was open is no answer's duration; one that is refused is a request like any other."""
    add_routes(app)
    with client.websocket_connect("/shop/v1/items/1/events"):
        pass
    route = "/shop/v1/items/{item}/events"
    assert grown("http_requests_total", method="GET", route=route, status="101") == grown("http_requests_total") == 1
    assert grown("http_request_duration_seconds_count") == grown("http_response_size_bytes_count") == 0
    with pytest.raises(WebSocketDenialResponse), client.websocket_connect("/shop/v1/items/1/refused"):
        pass
    assert grown("http_requests_total", status="403") == grown("http_request_duration_seconds_count") == 1


def test_unknown_methods_and_paths_are_one_series(client: TestClient, grown: Grown) -> None:
    client.request("BREW", "/pot/x")
    known = len(counted())
    for number in range(100):
        client.request(f"BREW{number}", f"/pot/{number}", params={"q": str(number)})
    assert len(counted()) == known
    assert grown("http_requests_total", method="_OTHER", route="_UNMATCHED", status="404") == 101


def test_scrapes_are_neither_counted_nor_logged(client: TestClient, grown: Grown, logs: Logs) -> None:
    """A good one; one that fails is a request as any other. What is excluded besides stays so."""
    for _ in range(3):
        assert client.get("/metrics").headers[HEADER]
    assert grown("http_requests_total") == grown("http_requests_in_flight") == 0
    client.get("/livez")
    assert logs.access == []
    client.post("/metrics")
    assert len(logs.access) == 1


@pytest.mark.parametrize("prefix", ["", "/nested"])
def test_requests_in_flight_are_counted_once(app: Application, client: TestClient, grown: Grown, prefix: str) -> None:
    """Seen from within: this one while it is served, none when it has failed; also of a mounted application."""
    inner, seen = create_app(), []
    app.mount("/nested", inner)

    @(inner if prefix else app).get("/look")
    def look() -> None:
        seen.append(total(counted(), "http_requests_in_flight", {"type": "http"}))
        raise ValueError("looked")

    assert client.get(f"{prefix}/look").status_code == 500
    assert seen == [1]
    assert total(counted(), "http_requests_in_flight", {}) == 0
    assert grown("http_requests_total", route=f"{prefix}/look") == grown("http_requests_total") == 1


def test_metrics_are_not_served_through_a_proxy(client: TestClient) -> None:
    response = client.get("/metrics", headers={"X-Forwarded-For": "203.0.113.9"})
    assert (response.status_code, response.json()["code"]) == (404, 404)
    assert client.get("/metrics").headers["connection"] == "close"


def test_format_is_negotiated(client: TestClient) -> None:
    """OpenMetrics where it is asked for, else the text that everybody reads; nonsense is no error."""
    answer = client.get("/metrics", headers=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics")
    assert answer.text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(answer.text)}
    for accept in ("", "*/*", "text/plain;version=x", "\xff", "application/json;version=1"):
        answer = client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert {family.name for family in parse_text(answer.text)} == names > {"http_requests", "log_messages"}


@pytest.mark.parametrize(("length", "is_shown"), [(118, True), (119, False)])
def test_newest_id_of_a_bucket_is_its_exemplar_unless_it_is_too_long(
    app: Application, client: TestClient, length: int, is_shown: bool
) -> None:
    """OpenMetrics has room for 128 characters, those of the name included."""
    add_routes(app)
    for request_id in ("first-of-all", newest := "x" * length):
        assert client.get("/plain/a", headers={HEADER: request_id}).headers[HEADER] == request_id
    found = [one for one in counted() if one.exemplar and one.labels["route"] == "/plain/{name}"]
    assert ({"request_id": newest} in [one.exemplar.labels for one in found if one.exemplar]) is is_shown
    for one in found:
        assert one.name == "http_request_duration_seconds_bucket"
        assert one.exemplar
        assert one.exemplar.value <= float(one.labels["le"])


def test_each_log_record_is_counted_once(grown: Grown) -> None:
    """With several handlers, with none, with a logger of its own; what no logger keeps, and copies, are no records."""
    log = logging.getLogger("counted")
    log.handlers = [logging.NullHandler(), logging.NullHandler()]
    log.warning("twice handled")
    log.propagate = False
    log.handlers = []
    log.error("handled by nobody")
    log.debug("below the level")
    log.log(35, "between two levels")
    log.log(70, "above all")
    logging.makeLogRecord({"msg": "a copy", "levelno": logging.ERROR})
    assert {level: grown("log_messages_total", level=level) for level in ("DEBUG", "WARNING", "ERROR", "CRITICAL")} == {
        "DEBUG": 0, "WARNING": 2, "ERROR": 1, "CRITICAL": 1,
    }  # fmt: skip


def test_records_and_lines_agree(app: Application, grown: Grown, logs: Logs) -> None:
    """What other lines say already, such as a server's traceback of a request, is no line, and not counted."""

    @app.get("/tells")
    def tells() -> None:
        logging.getLogger("work").info("about to fail")
        raise ValueError("fails")

    def serve(application: ASGIApp) -> ASGIApp:
        async def as_uvicorn(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            try:
                await application(scope, receive, send)
            except ValueError:
                logging.getLogger("uvicorn.error").exception("Exception in ASGI application")

        return as_uvicorn

    assert connect(serve(app)).get("/tells").status_code == 500
    for level in ("INFO", "ERROR"):
        assert grown("log_messages_total", level=level) == sum(f" {level} [" in line for line in logs.error) == 1
    assert len(logs.access) == 1


def test_destructor_that_logs_while_counting_does_not_deadlock(grown: Grown) -> None:
    """As asyncio does of an exception that nobody asked for, when memory is given back while a lock is held."""

    class Loud:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            logging.getLogger("loud").warning("gone")

    def count() -> None:
        Loud()
        with metrics.levels[2]._value._lock:
            gc.collect()

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert grown("log_messages_total", level="WARNING") == 1


PROCESS = """
import os, sys
from prometheus_client.openmetrics.exposition import generate_latest
from app.common.context.request_record import RequestRecord
from app.integrations import metrics
for _ in range(int(sys.argv[1])):
    record = RequestRecord(sys.argv[2], {"type": "http", "method": "GET", "path": "/", "headers": []})
    record.end()
    metrics.count_request(record)
print(generate_latest(metrics.Everything()).decode())
if sys.argv[3:]:
    os.kill(os.getpid(), 9)
"""


def count_elsewhere(folder: Path, *words: str) -> list[Sample]:
    """Count requests in a process of its own, with a folder that others share; return what it gives to a scrape."""
    variables = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-u", "-c", PROCESS, *words]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == (-9 if words[2:] else 0), done.stderr
    return [one for family in parse_openmetrics(done.stdout.strip() + "\n") for one in family.samples]


def test_several_processes_count_together(tmp_path: Path) -> None:
    """One of them is killed; its counts stay. The newest ID is that of the process that answers."""
    count_elsewhere(tmp_path, "3", "from-the-first", "killed")
    samples = count_elsewhere(tmp_path, "4", "from-the-second")
    assert [one.value for one in samples if one.name == "http_requests_total"] == [7]
    assert {one.exemplar.labels["request_id"] for one in samples if one.exemplar} == {"from-the-second"}


class Arbiter(SimpleNamespace):
    """gunicorn's first process, as its hooks see it: `master_pid` of another one that it takes over from (USR2)."""

    def __init__(self, master_pid: int = 0, reexec_pid: int = 0) -> None:
        super().__init__(pid=7, master_pid=master_pid, reexec_pid=reexec_pid, WORKERS={})
        self.cfg = SimpleNamespace(env_orig={})

    def fork(self, age: int) -> SimpleNamespace:
        """Add a worker."""
        self.WORKERS[age] = worker = SimpleNamespace()
        server.pre_fork(self, worker)
        return worker


def test_each_start_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only its user can read it; what another start has left does not count; a successor begins with this one's."""
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


def test_a_worker_counts_on_in_the_files_of_one_that_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What that one had in flight is forgotten, and nothing else."""
    monkeypatch.setenv(server.FOLDER, str(tmp_path))
    arbiter = Arbiter()
    first, second = arbiter.fork(1), arbiter.fork(2)
    assert (first.counts_as, second.counts_as) == ("7-0", "7-1")
    kept = [tmp_path / name for name in ("counter_7-0.db", "gauge_livesum_7-1.db")]
    for file in (*kept, tmp_path / "gauge_livesum_7-0.db"):
        file.touch()
    server.child_exit(arbiter, arbiter.WORKERS.pop(1))
    assert sorted(tmp_path.iterdir()) == kept
    assert arbiter.fork(3).counts_as == "7-0"


@pytest.mark.parametrize(
    ("arbiter", "is_kept"),
    [
        (Arbiter(), False),
        (Arbiter(reexec_pid=8), True),
        (Arbiter(master_pid=os.getppid()), True),
        (Arbiter(master_pid=os.getppid() + 1), False),
    ],
    ids=["alone", "there is a successor", "it goes, and the old one stays", "the old one has gone"],
)
def test_the_last_of_two_first_processes_removes_the_folder(
    arbiter: Arbiter, is_kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(server.FOLDER, str(tmp_path / "folder"))
    (tmp_path / "folder").mkdir()
    server.on_exit(arbiter)
    assert (tmp_path / "folder").exists() is is_kept


DEPLOY = PROJECT_ROOT / "deploy" / "prometheus"
FUNCTIONS = {"histogram_quantile", "label_values"}
OF_PROMETHEUS = {"up": {"job", "instance"}}


def rules(field: str) -> list[str]:
    """Return what stands in a field of the rules."""
    return re.findall(rf" {field}: (.+)", (DEPLOY / "alerts.yml").read_text("utf-8"))


def queries() -> list[str]:
    """Return each query of the dashboard and of the rules."""
    board = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [*shown, *rules("expr"), *(one["query"] for one in board["templating"]["list"] if one["type"] == "query")]


def test_queries_name_what_is_there(client: TestClient) -> None:
    """Each metric and each label in a query of the dashboard and the rules is one that the service really has."""
    client.get("/livez")
    labels = {name: set(names) for name, names in OF_PROMETHEUS.items()}
    for sample in counted():
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


def test_what_an_integration_measures_is_a_histogram(grown: Grown) -> None:
    for seconds in (0.2, 0.7):
        observe_metric("probe", seconds, kind="a")
    observe_metric("probe", 0.1, kind="b")
    assert grown("probe_seconds_count", kind="a") == 2
    assert grown("probe_seconds_sum", kind="a") == pytest.approx(0.9)
    assert grown("probe_seconds_bucket", kind="a", le="0.25") == 1
    assert grown("probe_seconds_count", kind="b") == 1
