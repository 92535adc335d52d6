"""What is sent to Sentry, under which IDs, and what is never sent."""

import asyncio
import gc
import json
import logging
import multiprocessing.util
import socket
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
import sentry_sdk
import sentry_sdk.integrations
import sentry_sdk.scope
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import unignore_logger
from sentry_sdk.transport import Transport
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from app.common.constants import ACCESS_LOGGER
from app.common.context.observers import injectors, request_observers, task_observers
from app.common.task_record import TaskRecord, extract, inject
from app.environment import project_metadata, read_settings
from app.integrations.sentry import SETTINGS, clean, observe, wrap
from app.main import Application
from app.settings import get_settings
from tests.support import HEADER, ID, Logs, connect

DSN = "http://public-key@127.0.0.1:9/1"
SECRET = "hunter2-hunter2"
TRACE, CALLER = "12345678901234567890123456789012", "1234567890123456"
log = logging.getLogger("work")


class MemoryTransport(Transport):
    """Stores items instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += [(str(item.headers["type"]), item.payload.json) for item in envelope.items]

    def of_type(self, item_type: str = "event") -> list[Any]:
        return [content for its_type, content in self.items if its_type == item_type]

    def single(self, item_type: str = "event") -> Any:  # noqa: ANN401
        (content,) = self.of_type(item_type)
        return content


Start = Callable[..., tuple[Application, MemoryTransport]]


@pytest.fixture
def start(configure: Callable[..., Application], monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts Sentry as in a new process, and makes an application; undo it after the test."""
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)
    monkeypatch.setattr(sentry_sdk.scope, "_global_scope", None)
    for name in ("_processed_integrations", "_installed_integrations"):
        monkeypatch.setattr(sentry_sdk.integrations, name, set())
    registry = multiprocessing.util._finalizer_registry  # type: ignore[attr-defined]
    finalizers = set(registry)

    def make(**variables: str) -> tuple[Application, MemoryTransport]:
        app = configure(**{"SENTRY_DSN": DSN, **variables})
        sentry_sdk.get_client().transport = sentry = MemoryTransport()
        return app, sentry

    yield make
    for added in set(registry) - finalizers:
        del registry[added]
    unignore_logger(ACCESS_LOGGER)
    logging.getLogger("urllib3.connectionpool").filters.clear()


def capture() -> None:
    sentry_sdk.capture_exception(LookupError("captured"))


async def capture_in_background(tasks: BackgroundTasks) -> None:
    tasks.add_task(capture)
    log.warning("before")


async def write_record() -> None:
    log.error("written by a logger")


async def send_message() -> None:
    sentry_sdk.capture_message("sent directly")


def fail(password: str = SECRET) -> None:
    log.info("before the error")
    raise RuntimeError(f"failed with {len(password)} characters")


async def fail_in_background(tasks: BackgroundTasks) -> None:
    tasks.add_task(fail)


async def fail_in_stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        fail()

    return StreamingResponse(parts())


def fail_when_captured() -> None:
    try:
        fail()
    except RuntimeError:
        sentry_sdk.capture_exception()  # in the context of a thread
        raise


async def fail_in_socket(socket: WebSocket) -> None:
    await socket.accept()
    fail()


def get_status(app: Application, endpoint: Callable[..., Any], headers: Any = None) -> int:  # noqa: ANN401
    """Add a route, send a request to it, and return the response's status."""
    app.add_api_route("/work", endpoint, response_model=None)
    return connect(app).get("/work", headers=headers or {HEADER: ID}).status_code


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (write_record, "written by a logger"),
        (send_message, "sent directly"),
        (capture, "captured"),
        (capture_in_background, "captured"),
    ],
)
def test_event_has_the_ids_of_its_request(start: Start, endpoint: Callable[..., Any], text: str) -> None:
    app, sentry = start()
    assert get_status(app, endpoint) == 200
    event = sentry.single()
    assert event["tags"] == {"request_id": ID, "transaction_id": ID}
    assert text in json.dumps(event)
    assert event["request"] == {"method": "GET", "url": "/work", "query_string": ""}
    assert event["transaction"] == f"{__name__}.{endpoint.__name__}"


@pytest.mark.parametrize("endpoint", [fail, fail_in_background, fail_in_stream, fail_when_captured, fail_in_socket])
def test_unhandled_error_is_one_event(start: Start, logs: Logs, endpoint: Callable[..., Any]) -> None:
    app, sentry = start()
    if endpoint is fail_in_socket:
        app.add_api_websocket_route("/socket", fail_in_socket)
        with pytest.raises(RuntimeError), connect(app).websocket_connect("/socket", headers={HEADER: ID}) as socket:
            socket.receive()
    else:
        get_status(app, endpoint)
    event = sentry.single()
    assert event["tags"]["request_id"] == ID
    assert event["exception"]["values"][-1]["value"] == f"failed with {len(SECRET)} characters"
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is (endpoint is fail_when_captured)
    crumbs = {crumb["category"]: crumb["message"] for crumb in event["breadcrumbs"]["values"]}
    assert endpoint is not fail or crumbs["work"] == "before the error"
    assert ACCESS_LOGGER not in crumbs
    assert sum("Unhandled RuntimeError" in line for line in logs.error) == 1


def test_http_errors_and_disconnects_are_no_events(start: Start) -> None:
    app, sentry = start()

    @app.get("/raises/{status}")
    async def fail_with(status: int) -> None:
        raise HTTPException(status) if status else ClientDisconnect

    for path in ("/raises/503", "/raises/0", "/nowhere"):
        connect(app).get(path)
    assert sentry.of_type() == []


def test_error_logged_again_by_the_server_is_one_event(start: Start) -> None:
    """uvicorn and Granian log it in the context of the request after the service; Granian as text."""
    app, sentry = start()
    app.add_api_route("/fails", fail)

    async def serve() -> None:
        try:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inner") as client:
                await client.get("/fails")
        except RuntimeError as error:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n", exc_info=error)
            text = "".join(traceback.format_exception(error))
            logging.getLogger("_granian").error(f"Application callable raised\n{text}")  # noqa: TRY400

    asyncio.run(serve())
    assert sentry.single()["logger"] == "app.error"


def test_concurrent_requests_share_no_ids_crumbs_or_traces(start: Start) -> None:
    """Each of 100 requests has two events and a transaction with its own IDs, breadcrumbs and trace."""
    app, sentry = start(SENTRY_TRACES_SAMPLE_RATE="1")

    @app.get("/mixed/{number}")
    async def mixed(number: int) -> None:
        log.info("crumb %d", number)
        await asyncio.sleep(0.001 * (number % 7))
        log.error("error %d", number)
        await asyncio.sleep(0.001 * (number % 5))
        raise RuntimeError(str(number))

    async def send_all() -> None:
        sentry_sdk.get_current_scope()  # creates a scope that all requests inherit, as under some servers
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            calls = [client.get(f"/mixed/{one}", headers={HEADER: f"request-{one}"}) for one in range(100)]
            await asyncio.gather(*calls)

    asyncio.run(send_all())
    traces: dict[str, list[str]] = {f"request-{number}": [] for number in range(100)}
    for event in sentry.of_type():
        number = event["tags"]["request_id"].removeprefix("request-")
        is_error = "exception" in event
        message = event["exception"]["values"][-1]["value"] if is_error else event["logentry"]["formatted"]
        assert message == (number if is_error else f"error {number}")
        crumbs = {crumb["message"] for crumb in event["breadcrumbs"]["values"] if crumb["category"] == "work"}
        assert crumbs == {f"crumb {number}", f"error {number}"} if is_error else {f"crumb {number}"}
    for one in sentry.of_type() + sentry.of_type("transaction"):
        traces[one["tags"]["request_id"]].append(one["contexts"]["trace"]["trace_id"])
    assert [(len(found), len(set(found))) for found in traces.values()] == [(3, 1)] * 100
    assert len({found[0] for found in traces.values()}) == 100


def test_error_of_a_forgotten_task_has_no_id_of_another_request(start: Start) -> None:
    """asyncio logs an exception that was never retrieved when the task is freed, in any context."""
    app, sentry = start()

    async def fail() -> None:
        raise LookupError

    @app.get("/forgets")
    async def forget() -> None:
        task = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        assert task.done()

    @app.get("/collects")
    async def collect() -> None:
        gc.collect()

    client = connect(app)
    client.get("/forgets", headers={HEADER: ID})
    client.get("/collects", headers={HEADER: "neighbour"})
    assert sentry.single()["logger"] == "asyncio"
    assert sentry.single().get("tags", {}).get("request_id") in (None, ID)


def add_secret(app: FastAPI) -> None:
    """Add a route that spreads secrets. It is outside of the test, because events contain source lines."""

    @app.post("/secret")
    async def secret(body: dict[str, str]) -> None:
        password = body["password"]
        nested = {"deep": [{"api_key": password}]}
        log.info("password=%s, %d", password, 5, extra={"token": password, "nested": nested, "count": 3, "what": app})
        log.error("logged in with %s", {"password": password})
        sentry_sdk.set_extra("cookie", password)
        raise RuntimeError(f"Authorization: Bearer {password}")


def test_nothing_secret_or_personal_is_sent(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, transactions and log records are masked as the service's own log is; the records have the IDs too."""
    monkeypatch.setattr("sys.argv", ["gunicorn", f"--{SECRET}"])
    app, sentry = start(SENTRY_TRACES_SAMPLE_RATE="1", SENTRY_LOGS="true")
    add_secret(app)
    connect(app, "203.0.113.9").post(
        f"/secret?token={SECRET}",
        json={"password": SECRET},
        headers={HEADER: ID, "cookie": f"a={SECRET}", "authorization": f"Bearer {SECRET}", "user-agent": "some-agent"},
    )
    sentry_sdk.flush()
    assert {kind for kind, _ in sentry.items} == {"event", "transaction", "log"}
    text = json.dumps(sentry.items)
    for private in (SECRET, "203.0.113.9", "some-agent", socket.gethostname(), '"vars"'):
        assert private not in text
    logged, failed = sentry.of_type()
    assert logged["request"]["query_string"] == failed["request"]["query_string"] == "token=***"
    assert logged["logentry"] == {"message": "logged in with %s", "formatted": "logged in with {'password': '***'}"}
    assert failed["exception"]["values"][-1]["value"] == "Authorization: ***"
    (record,) = [item for item in sentry.single("log")["items"] if item["body"] == "password=***, 5"]
    values = {name: value["value"] for name, value in record["attributes"].items()}
    assert (values["request_id"], values["transaction_id"], values["count"]) == (ID, ID, 3)
    assert not [name for name in values if name.startswith("sentry.message") or name == "ids_suffix"]


def test_clean_keeps_values_that_are_not_secret() -> None:
    event = {"function": "get_token", "module": "app.token", "lineno": 3, "in_app": True, "x": [None, "a=1", 2.5]}
    assert clean(event) == event


def test_task_is_in_the_trace_of_its_request(start: Start) -> None:
    app, sentry = start(SENTRY_TRACES_SAMPLE_RATE="1")
    headers: dict[str, Any] = {}
    existing = httpx2.Headers({"Sentry-Trace": "existing"})

    async def send() -> None:
        inject(headers)
        inject(existing)
        log.error("sending")

    get_status(app, send)
    outside = sentry_sdk.get_isolation_scope()
    record = extract(headers, "task-1").begin("tasks.work")
    log.info("begins")
    log.error("fails", exc_info=ValueError("in a task"))
    record.finish("tasks.work", "failure", failed=True)
    record.__exit__()
    of_request, of_task = sentry.of_type()
    assert of_request["tags"] == {"request_id": ID, "transaction_id": ID}
    assert of_task["tags"] == {"request_id": ID, "transaction_id": ID, "current_id": "task-1"}
    assert of_task["transaction"] == "tasks.work"
    assert "request" not in of_task
    assert [crumb["message"] for crumb in of_task["breadcrumbs"]["values"]] == ["begins"]
    first, second = sentry.of_type("transaction")
    assert [one["contexts"]["trace"]["op"] for one in (first, second)] == ["http.server", "queue.task"]
    assert second["contexts"]["trace"]["parent_span_id"] == first["contexts"]["trace"]["span_id"]
    assert second["contexts"]["trace"]["status"] == "internal_error"
    assert second["tags"]["current_id"] == "task-1"
    assert len({one["contexts"]["trace"]["trace_id"] for one in (of_request, of_task, first, second)}) == 1
    assert sentry_sdk.get_isolation_scope() is outside
    assert f"sentry-trace_id={first['contexts']['trace']['trace_id']}" in headers["baggage"]
    assert existing.get_list("sentry-trace") == ["existing"]


def test_task_without_trace_headers_starts_its_own_trace(start: Start) -> None:
    """Its events have its parent's ID. Code outside of a task has no IDs and sends no trace."""
    _, sentry = start()
    for number in range(2):
        headers = {"sentry-trace": b"\xff", "baggage": 5}
        record = TaskRecord(f"origin-{number}", f"task-{number}", "task-0", headers).begin("work")
        log.error("failed")
        record.finish("work", "success")
        record.__exit__()
    log.error("outside")
    *of_tasks, outside = sentry.of_type()
    assert [event["tags"]["parent_id"] for event in of_tasks] == ["task-0"] * 2
    assert len({event["contexts"]["trace"]["trace_id"] for event in of_tasks}) == 2
    assert "tags" not in outside
    assert sentry.of_type("transaction") == []
    carrier: dict[str, str] = {}
    inject(carrier)
    assert carrier.keys() == {"x-request-id"}


@pytest.mark.parametrize(("trust", "is_continued"), [("always", True), ("proxies", False), ("never", False)])
def test_trace_of_the_caller_is_continued_if_all_ids_are_trusted(start: Start, trust: str, is_continued: bool) -> None:
    app, sentry = start(REQUEST_ID_TRUST=trust)
    get_status(
        app, write_record, {"sentry-trace": f"{TRACE}-{CALLER}-1", "baggage": f"other=1,sentry-trace_id={TRACE}"}
    )
    trace = sentry.single()["contexts"]["trace"]
    assert (trace["trace_id"] == TRACE, trace["parent_span_id"] == CALLER) == (is_continued, is_continued)


PARENT = f"{TRACE}-{CALLER}"
RATES = [f"sentry-sample_rate={rate}" for rate in ("inf", "-inf", "1e999", "nan", "-1")]


@pytest.mark.parametrize(
    ("trace", "baggage"),
    [
        *[(trace, "") for trace in ("", "-", "x" * 9000, f"{PARENT}-7", f"{PARENT}-0", "\xc3\xbf\xc2")],
        *[(f"{PARENT}-1", baggage) for baggage in (",,,=", "sentry-=", "sentry-sample_rand=x", "=" * 9000, *RATES)],
    ],
)
def test_hostile_trace_headers_do_not_fail_the_request(start: Start, trace: str, baggage: str) -> None:
    app, sentry = start(SENTRY_TRACES_SAMPLE_RATE="0.5")
    headers = [(b"sentry-trace", trace.encode("latin-1")), (b"baggage", baggage.encode())]
    assert get_status(app, write_record, headers) == 200
    assert len(sentry.single()["contexts"]["trace"]["trace_id"]) == 32


def test_nested_request_restores_the_scope_of_the_outer_one(start: Start) -> None:
    app, sentry = start()

    @app.get("/outer")
    async def outer() -> None:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inner") as client:
            before = sentry_sdk.get_isolation_scope()
            with suppress(Exception):
                await client.get("/api/demo/fail")
            assert sentry_sdk.get_isolation_scope() is before
        log.error("after the inner request")

    assert connect(app).get("/outer", headers={HEADER: ID}).status_code == 200
    assert sentry.of_type()[-1]["tags"]["request_id"] == ID


def test_transaction_has_the_duration_of_the_access_line(start: Start, logs: Logs) -> None:
    """It ends with the last byte of the response, not with background tasks."""
    app, sentry = start(SENTRY_TRACES_SAMPLE_RATE="1", LOG_FORMAT="json")

    @app.get("/items/{number}", status_code=202)
    async def item(tasks: BackgroundTasks) -> None:
        tasks.add_task(asyncio.sleep, 0.2)

    connect(app).get("/items/5", headers={HEADER: ID})
    connect(app).get("/livez")
    connect(app).get("/nowhere")
    first, second = sentry.of_type("transaction")
    (line,) = [json.loads(line) for line in logs.access if ID in line]
    assert first["timestamp"] - first["start_timestamp"] == pytest.approx(line["duration"], abs=0.002)
    assert first["transaction"].endswith(".item")
    assert first["contexts"]["response"] == {"status_code": 202}
    assert first["tags"]["request_id"] == ID
    assert (second["transaction"], second["contexts"]["trace"]["status"]) == ("no route", "not_found")


def test_transaction_that_ends_before_the_access_line_has_an_end(start: Start) -> None:
    """This is so for a websocket, and for a response that fails after its first byte."""
    app, sentry = start(SENTRY_TRACES_SAMPLE_RATE="1")

    @app.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    @app.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError

        return StreamingResponse(body())

    with connect(app).websocket_connect("/socket"):
        pass
    connect(app).get("/breaks")
    ends = [one["timestamp"] - one["start_timestamp"] for one in sentry.of_type("transaction")]
    assert [0 < seconds < 30 for seconds in ends] == [True, True]


def test_release_and_environment(start: Start) -> None:
    project, chosen = project_metadata(), {"SENTRY_RELEASE": "shop@7", "SENTRY_ENVIRONMENT": "staging"}
    default = (f"{project['name']}@{project['version']}", "production")
    for variables, expected in (({}, default), (chosen, ("shop@7", "staging"))):
        _, sentry = start(**variables)
        log.error("failed")
        assert (sentry.single()["release"], sentry.single()["environment"]) == expected


def test_remaining_events_are_sent_when_the_lifespan_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a signal ends, as uvicorn's, runs no exit handlers. The flush waits up to a second."""
    app, _ = start()
    timeouts: list[float] = []
    monkeypatch.setattr(sentry_sdk, "flush", timeouts.append)
    with connect(app):
        assert timeouts == []
    assert timeouts == [1]


def test_error_sample_rate_zero_sends_no_events(start: Start) -> None:
    _, sentry = start(SENTRY_ERROR_SAMPLE_RATE="0")
    log.error("failed")
    assert sentry.of_type() == []


def test_without_dsn_nothing_is_patched_or_sent(
    start: Start, configure: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, threads = logging.Logger.callHandlers, threading.active_count()
    monkeypatch.setenv("SENTRY_DSN", "")
    app = configure(SENTRY_TRACES_SAMPLE_RATE="1")
    observe(get_settings())
    assert connect(app).get("/api/demo/fail").status_code == 500
    assert not sentry_sdk.get_client().is_active()
    assert logging.Logger.callHandlers is original
    assert threading.active_count() <= threads
    assert not [table for table in (injectors, task_observers, request_observers) if "sentry" in table]
    assert wrap(app, app.settings) is app
    assert wrap(app, start()[0].settings) is not app
    assert logging.Logger.callHandlers is not original


@pytest.mark.parametrize("value", ["nonsense", f"https://{SECRET}@host", f"https://{SECRET}@host/x", "https://host/1"])
def test_invalid_dsn_is_rejected_without_showing_its_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTRY_DSN", value)
    with pytest.raises(SystemExit, match="SENTRY_DSN is invalid") as rejected:
        read_settings(SETTINGS)
    assert SECRET not in str(rejected.value)
    assert SECRET not in repr(SETTINGS(dsn=f"https://{SECRET}@host/1"))
