"""Sentry: what is handed to its transport, whose it says it is, and what of it stays here."""

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


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.kept += [(str(item.headers["type"]), item.payload.json) for item in envelope.items]

    def of(self, kind: str = "event") -> list[Any]:
        return [content for its_kind, content in self.kept if its_kind == kind]

    def one(self, kind: str = "event") -> Any:  # noqa: ANN401
        (content,) = self.of(kind)
        return content


Begin = Callable[..., tuple[Application, Kept]]


@pytest.fixture
def begin(configure: Callable[..., Application], monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Return a function that begins to send, as it does in a process of its own, until the end of the test."""
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)
    monkeypatch.setattr(sentry_sdk.scope, "_global_scope", None)
    for known in ("_processed_integrations", "_installed_integrations"):
        monkeypatch.setattr(sentry_sdk.integrations, known, set())
    registry = multiprocessing.util._finalizer_registry  # type: ignore[attr-defined]
    finalizers = set(registry)

    def start(**variables: str) -> tuple[Application, Kept]:
        app = configure(**{"SENTRY_DSN": DSN, **variables})
        sentry_sdk.get_client().transport = kept = Kept()
        return app, kept

    yield start
    for made in set(registry) - finalizers:
        del registry[made]
    unignore_logger(ACCESS_LOGGER)
    logging.getLogger("urllib3.connectionpool").filters.clear()


def capture() -> None:
    sentry_sdk.capture_exception(LookupError("captured"))


async def capture_in_background(then: BackgroundTasks) -> None:
    then.add_task(capture)
    log.warning("before")


async def write_line() -> None:
    log.error("told by a logger")


async def send_message() -> None:
    sentry_sdk.capture_message("told by hand")


def fail(password: str = SECRET) -> None:
    log.info("a step before")
    raise RuntimeError(f"a defect of {len(password)} characters")


async def fail_in_background(then: BackgroundTasks) -> None:
    then.add_task(fail)


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


def ask(app: Application, endpoint: Callable[..., Any], headers: Any = None) -> int:  # noqa: ANN401
    """Add a route, send it a request, and return the status."""
    app.add_api_route("/work", endpoint, response_model=None)
    return connect(app).get("/work", headers=headers or {HEADER: ID}).status_code


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (write_line, "told by a logger"),
        (send_message, "told by hand"),
        (capture, "captured"),
        (capture_in_background, "captured"),
    ],
)
def test_an_event_has_the_ids_of_its_request(begin: Begin, endpoint: Callable[..., Any], words: str) -> None:
    app, kept = begin()
    assert ask(app, endpoint) == 200
    event = kept.one()
    assert event["tags"] == {"request_id": ID, "transaction_id": ID}
    assert words in json.dumps(event)
    assert event["request"] == {"method": "GET", "url": "/work", "query_string": ""}
    assert event["transaction"] == f"{__name__}.{endpoint.__name__}"


@pytest.mark.parametrize("endpoint", [fail, fail_in_background, fail_in_stream, fail_when_captured, fail_in_socket])
def test_an_error_that_nobody_caught_is_one_event(begin: Begin, logs: Logs, endpoint: Callable[..., Any]) -> None:
    app, kept = begin()
    if endpoint is fail_in_socket:
        app.add_api_websocket_route("/socket", fail_in_socket)
        with pytest.raises(RuntimeError), connect(app).websocket_connect("/socket", headers={HEADER: ID}) as socket:
            socket.receive()
    else:
        ask(app, endpoint)
    event = kept.one()
    assert event["tags"]["request_id"] == ID
    assert event["exception"]["values"][-1]["value"] == f"a defect of {len(SECRET)} characters"
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is (endpoint is fail_when_captured)
    crumbs = {crumb["category"]: crumb["message"] for crumb in event["breadcrumbs"]["values"]}
    assert endpoint is not fail or crumbs["work"] == "a step before"
    assert ACCESS_LOGGER not in crumbs
    assert sum("Unhandled RuntimeError" in line for line in logs.error) == 1


def test_what_is_no_defect_is_no_event(begin: Begin) -> None:
    app, kept = begin()

    @app.get("/raises/{status}")
    async def fail_with(status: int) -> None:
        raise HTTPException(status) if status else ClientDisconnect

    for path in ("/raises/503", "/raises/0", "/nowhere"):
        connect(app).get(path)
    assert kept.of() == []


def test_error_that_a_server_logs_again_is_no_second_event(begin: Begin) -> None:
    """As uvicorn and Granian do after us, in the context of the request; Granian as text."""
    app, kept = begin()
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
    assert kept.one()["logger"] == "app.error"


def test_concurrent_requests_share_no_ids_crumbs_or_traces(begin: Begin) -> None:
    """Each of 100 requests has two events and a transaction: IDs, crumbs and the trace are its own."""
    app, kept = begin(SENTRY_TRACES_SAMPLE_RATE="1")

    @app.get("/mixed/{number}")
    async def mixed(number: int) -> None:
        log.info("crumb %d", number)
        await asyncio.sleep(0.001 * (number % 7))
        log.error("told %d", number)
        await asyncio.sleep(0.001 * (number % 5))
        raise RuntimeError(str(number))

    async def ask_all() -> None:
        sentry_sdk.get_current_scope()  # from now on there is one that all of them find, as under some servers
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            sent = [client.get(f"/mixed/{one}", headers={HEADER: f"request-{one}"}) for one in range(100)]
            await asyncio.gather(*sent)

    asyncio.run(ask_all())
    traces: dict[str, list[str]] = {f"request-{number}": [] for number in range(100)}
    for event in kept.of():
        number = event["tags"]["request_id"].removeprefix("request-")
        is_error = "exception" in event
        said = event["exception"]["values"][-1]["value"] if is_error else event["logentry"]["formatted"]
        assert said == (number if is_error else f"told {number}")
        crumbs = {crumb["message"] for crumb in event["breadcrumbs"]["values"] if crumb["category"] == "work"}
        assert crumbs == {f"crumb {number}", f"told {number}"} if is_error else {f"crumb {number}"}
    for one in kept.of() + kept.of("transaction"):
        traces[one["tags"]["request_id"]].append(one["contexts"]["trace"]["trace_id"])
    assert [(len(found), len(set(found))) for found in traces.values()] == [(3, 1)] * 100
    assert len({found[0] for found in traces.values()}) == 100


def test_error_of_a_lost_task_is_not_another_request_s(begin: Begin) -> None:
    """What is told of a task that nobody has asked for its error comes at any time, in any context."""
    app, kept = begin()

    async def fail() -> None:
        raise LookupError

    @app.get("/loses")
    async def lose() -> None:
        made = asyncio.create_task(fail())
        await asyncio.sleep(0.01)
        assert made.done()

    @app.get("/collects")
    async def collect() -> None:
        gc.collect()

    client = connect(app)
    client.get("/loses", headers={HEADER: ID})
    client.get("/collects", headers={HEADER: "neighbour"})
    assert kept.one()["logger"] == "asyncio"
    assert kept.one().get("tags", {}).get("request_id") in (None, ID)


def add_secret(app: FastAPI) -> None:
    """Add a route in which secrets get everywhere; apart from the test, as source lines are sent."""

    @app.post("/secret")
    async def secret(body: dict[str, str]) -> None:
        password = body["password"]
        nested = {"deep": [{"api_key": password}]}
        log.info("password=%s, %d", password, 5, extra={"token": password, "nested": nested, "count": 3, "what": app})
        log.error("logged in with %s", {"password": password})
        sentry_sdk.set_extra("cookie", password)
        raise RuntimeError(f"Authorization: Bearer {password}")


def test_nothing_secret_or_personal_is_sent(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events, transactions and log records show what the service's own log would; the latter have the IDs as well."""
    monkeypatch.setattr("sys.argv", ["gunicorn", f"--{SECRET}"])
    app, kept = begin(SENTRY_TRACES_SAMPLE_RATE="1", SENTRY_LOGS="true")
    add_secret(app)
    connect(app, "203.0.113.9").post(
        f"/secret?token={SECRET}",
        json={"password": SECRET},
        headers={HEADER: ID, "cookie": f"a={SECRET}", "authorization": f"Bearer {SECRET}", "user-agent": "some-agent"},
    )
    sentry_sdk.flush()
    assert {kind for kind, _ in kept.kept} == {"event", "transaction", "log"}
    text = json.dumps(kept.kept)
    for kept_back in (SECRET, "203.0.113.9", "some-agent", socket.gethostname(), '"vars"'):
        assert kept_back not in text
    told, failed = kept.of()
    assert told["request"]["query_string"] == failed["request"]["query_string"] == "token=***"
    assert told["logentry"] == {"message": "logged in with %s", "formatted": "logged in with {'password': '***'}"}
    assert failed["exception"]["values"][-1]["value"] == "Authorization: ***"
    (line,) = [item for item in kept.one("log")["items"] if item["body"] == "password=***, 5"]
    values = {name: value["value"] for name, value in line["attributes"].items()}
    assert (values["request_id"], values["transaction_id"], values["count"]) == (ID, ID, 3)
    assert not [name for name in values if name.startswith("sentry.message") or name == "ids_suffix"]


def test_clean_keeps_what_is_no_secret() -> None:
    event = {"function": "get_token", "module": "app.token", "lineno": 3, "in_app": True, "x": [None, "a=1", 2.5]}
    assert clean(event) == event


def test_a_task_in_the_trace_of_its_request(begin: Begin) -> None:
    app, kept = begin(SENTRY_TRACES_SAMPLE_RATE="1")
    sent: dict[str, Any] = {}
    by_hand = httpx2.Headers({"Sentry-Trace": "by hand"})

    async def send() -> None:
        inject(sent)
        inject(by_hand)
        log.error("sending")

    ask(app, send)
    outside = sentry_sdk.get_isolation_scope()
    record = extract(sent, "task-1").begin("tasks.work")
    log.info("begins")
    log.error("fails", exc_info=ValueError("in a task"))
    record.finish("tasks.work", "failure", failed=True)
    record.__exit__()
    of_request, of_task = kept.of()
    assert of_request["tags"] == {"request_id": ID, "transaction_id": ID}
    assert of_task["tags"] == {"request_id": ID, "transaction_id": ID, "current_id": "task-1"}
    assert of_task["transaction"] == "tasks.work"
    assert "request" not in of_task
    assert [crumb["message"] for crumb in of_task["breadcrumbs"]["values"]] == ["begins"]
    first, second = kept.of("transaction")
    assert [one["contexts"]["trace"]["op"] for one in (first, second)] == ["http.server", "queue.task"]
    assert second["contexts"]["trace"]["parent_span_id"] == first["contexts"]["trace"]["span_id"]
    assert second["contexts"]["trace"]["status"] == "internal_error"
    assert second["tags"]["current_id"] == "task-1"
    assert len({one["contexts"]["trace"]["trace_id"] for one in (of_request, of_task, first, second)}) == 1
    assert sentry_sdk.get_isolation_scope() is outside
    assert f"sentry-trace_id={first['contexts']['trace']['trace_id']}" in sent["baggage"]
    assert by_hand.get_list("sentry-trace") == ["by hand"]


def test_task_without_a_sender_s_trace_begins_its_own(begin: Begin) -> None:
    """Its events have its parent; what is outside of tasks, such as a job of cron, has no IDs and sends no trace."""
    _, kept = begin()
    for number in range(2):
        headers = {"sentry-trace": b"\xff", "baggage": 5}
        record = TaskRecord(f"origin-{number}", f"task-{number}", "task-0", headers).begin("work")
        log.error("told")
        record.finish("work", "success")
        record.__exit__()
    log.error("outside")
    *of_tasks, outside = kept.of()
    assert [event["tags"]["parent_id"] for event in of_tasks] == ["task-0"] * 2
    assert len({event["contexts"]["trace"]["trace_id"] for event in of_tasks}) == 2
    assert "tags" not in outside
    assert kept.of("transaction") == []
    carrier: dict[str, str] = {}
    inject(carrier)
    assert carrier.keys() == {"x-request-id"}


@pytest.mark.parametrize(("trust", "is_same"), [("always", True), ("proxies", False), ("never", False)])
def test_trace_of_the_sender_is_taken_over_where_it_is_trusted(begin: Begin, trust: str, is_same: bool) -> None:
    app, kept = begin(REQUEST_ID_TRUST=trust)
    ask(app, write_line, {"sentry-trace": f"{TRACE}-{CALLER}-1", "baggage": f"other=1,sentry-trace_id={TRACE}"})
    trace = kept.one()["contexts"]["trace"]
    assert (trace["trace_id"] == TRACE, trace["parent_span_id"] == CALLER) == (is_same, is_same)


SENT = f"{TRACE}-{CALLER}"
RATES = [f"sentry-sample_rate={rate}" for rate in ("inf", "-inf", "1e999", "nan", "-1")]


@pytest.mark.parametrize(
    ("trace", "baggage"),
    [
        *[(trace, "") for trace in ("", "-", "x" * 9000, f"{SENT}-7", f"{SENT}-0", "\xc3\xbf\xc2")],
        *[(f"{SENT}-1", baggage) for baggage in (",,,=", "sentry-=", "sentry-sample_rand=x", "=" * 9000, *RATES)],
    ],
)
def test_hostile_traces_harm_nobody(begin: Begin, trace: str, baggage: str) -> None:
    app, kept = begin(SENTRY_TRACES_SAMPLE_RATE="0.5")
    headers = [(b"sentry-trace", trace.encode("latin-1")), (b"baggage", baggage.encode())]
    assert ask(app, write_line, headers) == 200
    assert len(kept.one()["contexts"]["trace"]["trace_id"]) == 32


def test_a_request_within_a_request_leaves_the_outer_one_its_own(begin: Begin) -> None:
    app, kept = begin()

    @app.get("/outer")
    async def outer() -> None:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inner") as client:
            before = sentry_sdk.get_isolation_scope()
            with suppress(Exception):
                await client.get("/api/demo/fail")
            assert sentry_sdk.get_isolation_scope() is before
        log.error("after it")

    assert connect(app).get("/outer", headers={HEADER: ID}).status_code == 200
    assert kept.of()[-1]["tags"]["request_id"] == ID


def test_a_transaction_takes_as_long_as_its_line_says(begin: Begin, logs: Logs) -> None:
    """From arrival to the last byte, and not to the end of what goes on afterwards."""
    app, kept = begin(SENTRY_TRACES_SAMPLE_RATE="1", LOG_FORMAT="json")

    @app.get("/items/{number}", status_code=202)
    async def item(then: BackgroundTasks) -> None:
        then.add_task(asyncio.sleep, 0.2)

    connect(app).get("/items/5", headers={HEADER: ID})
    connect(app).get("/livez")
    connect(app).get("/nowhere")
    first, second = kept.of("transaction")
    (line,) = [json.loads(line) for line in logs.access if ID in line]
    assert first["timestamp"] - first["start_timestamp"] == pytest.approx(line["duration"], abs=0.002)
    assert first["transaction"].endswith(".item")
    assert first["contexts"]["response"] == {"status_code": 202}
    assert first["tags"]["request_id"] == ID
    assert (second["transaction"], second["contexts"]["trace"]["status"]) == ("no route", "not_found")


def test_a_transaction_that_ends_before_its_line_has_an_end(begin: Begin) -> None:
    """A websocket, and a response that has broken off."""
    app, kept = begin(SENTRY_TRACES_SAMPLE_RATE="1")

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
    ends = [one["timestamp"] - one["start_timestamp"] for one in kept.of("transaction")]
    assert [0 < seconds < 30 for seconds in ends] == [True, True]


def test_release_and_environment(begin: Begin) -> None:
    project, chosen = project_metadata(), {"SENTRY_RELEASE": "shop@7", "SENTRY_ENVIRONMENT": "staging"}
    default = (f"{project['name']}@{project['version']}", "production")
    for variables, expected in (({}, default), (chosen, ("shop@7", "staging"))):
        _, kept = begin(**variables)
        log.error("told")
        assert (kept.one()["release"], kept.one()["environment"]) == expected


def test_what_is_left_is_sent_when_the_service_ends(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a signal ends, as uvicorn's, has no other end; it waits for a second."""
    app, _ = begin()
    waited: list[float] = []
    monkeypatch.setattr(sentry_sdk, "flush", waited.append)
    with connect(app):
        assert waited == []
    assert waited == [1]


def test_error_sample_rate_of_zero_sends_none(begin: Begin) -> None:
    _, kept = begin(SENTRY_ERROR_SAMPLE_RATE="0")
    log.error("told")
    assert kept.of() == []


def test_without_a_dsn_nothing_is_changed(
    begin: Begin, configure: Callable[..., Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, threads = logging.Logger.callHandlers, threading.active_count()
    monkeypatch.setenv("SENTRY_DSN", "")
    app = configure(SENTRY_TRACES_SAMPLE_RATE="1")
    observe(get_settings())
    assert connect(app).get("/api/demo/fail").status_code == 500
    assert not sentry_sdk.get_client().is_active()
    assert logging.Logger.callHandlers is before
    assert threading.active_count() <= threads
    assert not [table for table in (injectors, task_observers, request_observers) if "sentry" in table]
    assert wrap(app, app.settings) is app
    assert wrap(app, begin()[0].settings) is not app
    assert logging.Logger.callHandlers is not before


@pytest.mark.parametrize("value", ["nonsense", f"https://{SECRET}@host", f"https://{SECRET}@host/x", "https://host/1"])
def test_bad_dsn_is_refused_without_its_key(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTRY_DSN", value)
    with pytest.raises(SystemExit, match="SENTRY_DSN is not what it should be") as refused:
        read_settings(SETTINGS)
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(SETTINGS(dsn=f"https://{SECRET}@host/1"))
