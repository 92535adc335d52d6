"""ContextMiddleware: header, context and access log line of every outcome; the IDs of requests do not mix."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, StreamingResponse
from fastapi.responses import Response as RawResponse
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from starlette_context import context
from starlette_context.errors import MiddleWareValidationError
from starlette_context.middleware import RawContextMiddleware
from starlette_context.plugins import Plugin, UserAgentPlugin

from app.common.middlewares import ContextMiddleware
from app.common.request_id import RequestIdPlugin, current_request_id
from app.common.request_time import RequestTimePlugin
from app.main import Application, create_app
from tests.core.support import drive, http_scope
from tests.support import HEADER, ID, Logs, connect

WITH_ID = {HEADER: ID}
log = logging.getLogger("tests.middlewares")


async def texts() -> AsyncIterator[str]:
    yield current_request_id()
    await asyncio.sleep(0)
    yield current_request_id()


@pytest.fixture
def every_outcome(app: Application, client: TestClient) -> TestClient:
    responses: dict[str, Callable[[], object]] = {
        "/empty": lambda: RawResponse(status_code=204),
        "/moved": lambda: RedirectResponse("/livez"),
        "/stream": lambda: StreamingResponse(texts()),
        "/file": lambda: FileResponse(Path(__file__)),
        "/text": lambda: PlainTextResponse(current_request_id()),
        "/defect": lambda: 1 / 0,
    }
    for path, respond in responses.items():
        app.add_api_route(path, respond, methods=["GET", "HEAD", "OPTIONS"])

    @app.middleware("http")
    async def middleware(request: Request, call_next: Callable[[Request], object]) -> object:
        if request.url.path == "/defect-in-middleware":
            raise RuntimeError
        return await call_next(request)  # type: ignore[misc]

    return client


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/demo", 200),
        ("GET", "/empty", 204),
        ("GET", "/moved", 307),
        ("GET", "/stream", 200),
        ("GET", "/file", 200),
        ("GET", "/text", 200),
        ("HEAD", "/text", 200),
        ("OPTIONS", "/text", 200),
        ("GET", "/nothing-here", 404),
        ("DELETE", "/api/demo", 405),
        ("GET", "/api/demo/wait?seconds=x", 422),
        ("GET", "/defect", 500),
        ("GET", "/defect-in-middleware", 500),
    ],
)
def test_every_outcome_has_the_header_once_and_one_access_log_line(
    method: str, path: str, status: int, every_outcome: TestClient, logs: Logs
) -> None:
    response = every_outcome.request(method, path, headers=WITH_ID, follow_redirects=False)
    assert (response.status_code, response.headers.get_list(HEADER)) == (status, [ID])
    (line,) = logs.access
    assert f" {ID} {status} " in line
    assert f'"{method} {path} HTTP/1.1"' in line


def test_a_header_that_the_endpoint_sets_is_replaced(app: Application, client: TestClient) -> None:
    @app.get("/own")
    async def own() -> PlainTextResponse:
        response = PlainTextResponse("text", headers={"x-request-id": "mine", "X-Other": "stays"})
        response.raw_headers.append((b"X-Request-Id", b"mine again"))
        return response

    headers = client.get("/own", headers=WITH_ID).headers
    assert (headers.get_list(HEADER), headers["X-Other"]) == ([ID], "stays")


def test_response_object_shared_by_requests_is_not_changed(app: Application, client: TestClient) -> None:
    shared = PlainTextResponse("text")
    app.add_api_route("/shared", lambda: shared)
    for request_id in ("first-id", "second-id"):
        assert client.get("/shared", headers={HEADER: request_id}).headers.get_list(HEADER) == [request_id]
    assert HEADER not in shared.headers


def test_endpoints_can_use_starlette_context(app: Application, client: TestClient) -> None:
    @app.get("/context")
    async def show() -> dict[str, object]:
        context["own"] = "value"
        return dict(context)

    content = client.get("/context", headers=WITH_ID).json()
    assert content.keys() == {"X-Request-ID", "X-Request-Start-Time", "own"}
    assert content["X-Request-ID"] == ID
    assert not context.exists()


async def show_context(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(",".join(f"{key}={value}" for key, value in context.items()))(scope, receive, send)


class OrderIdPlugin(RequestIdPlugin):
    key = "X-Order-ID"


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ([UserAgentPlugin(), RequestIdPlugin(), RequestTimePlugin()], ["User-Agent=tester", f"X-Request-ID={ID}"]),
        ([OrderIdPlugin()], [f"X-Order-ID={ID}"]),
    ],
)
def test_context_has_the_values_of_every_plugin(plugins: list[Plugin], expected: list[str]) -> None:
    outermost = ContextMiddleware(show_context, plugins=plugins)
    text = connect(outermost).get("/", headers={"User-Agent": "tester", **WITH_ID}).text
    assert all(value in text for value in expected)


def test_plugin_can_enrich_the_response() -> None:
    class Enriching(Plugin):
        key = "X-Extra"

        async def enrich_response(self, arg: RawResponse | Message) -> None:
            if not isinstance(arg, RawResponse) and arg["type"] == "http.response.start":
                arg["headers"] = [*arg["headers"], (b"x-extra", str(context["X-Request-ID"]).encode())]

    headers = connect(ContextMiddleware(show_context, plugins=[Enriching()])).get("/", headers=WITH_ID).headers
    assert (headers["X-Extra"], headers.get_list(HEADER)) == (ID, [ID])


@pytest.mark.usefixtures("app")  # sets up logging
@pytest.mark.parametrize(("custom", "status"), [(None, 400), (PlainTextResponse("go away", status_code=418), 418)])
def test_plugin_can_refuse_the_request(custom: RawResponse | None, status: int, logs: Logs) -> None:
    class Refusing(Plugin):
        key = "X-Wrong"

        async def process_request(self, request: object) -> None:  # noqa: ARG002
            raise MiddleWareValidationError("wrong", error_response=custom)

    response = connect(ContextMiddleware(show_context, plugins=[Refusing()])).get("/", headers=WITH_ID)
    assert (response.status_code, response.headers[HEADER]) == (status, ID)
    assert response.text == "go away" if custom else response.json()["request_id"] == ID
    assert len(logs.access) == 1


def test_inner_middleware_of_starlette_context_does_not_change_the_id(app: Application, logs: Logs) -> None:
    app.add_middleware(RawContextMiddleware, plugins=(UserAgentPlugin(), RequestIdPlugin(), RequestTimePlugin()))

    @app.get("/inside")
    async def inside() -> list[str]:
        return [current_request_id(), context["X-Request-ID"], context["User-Agent"]]

    response = connect(app).get("/inside", headers={"User-Agent": "tester", **WITH_ID})
    assert response.json() == [ID, ID, "tester"]
    assert response.headers.get_list(HEADER) == [ID]
    assert len(logs.access) == 1


def test_mounted_application_shares_the_record(app: Application, client: TestClient, logs: Logs) -> None:
    inner = create_app()
    app.mount("/inner", inner)
    response = client.get("/inner/api/demo", headers={HEADER: "invalid id"})
    assert response.headers.get_list(HEADER) == [response.json()["request_id"]]
    (line,) = logs.access
    assert response.headers[HEADER] in line
    assert client.get("/inner/none").json()["request_id"] != response.headers[HEADER]


def test_id_is_available_in_every_place(app: Application, client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    def log_id(place: str) -> None:
        log.warning("%s %s", place, current_request_id())

    async def log_id_later(place: str) -> None:
        await asyncio.sleep(0)
        log_id(place)

    def dependency() -> None:
        log_id("dependency")

    @app.get("/async")
    async def endpoint(tasks: BackgroundTasks, _: Annotated[None, Depends(dependency)]) -> None:
        log_id("endpoint")
        await asyncio.create_task(log_id_later("task"))
        await asyncio.to_thread(log_id, "thread")
        tasks.add_task(log_id, "sync background")
        tasks.add_task(log_id_later, "background")

    @app.get("/sync")
    def sync() -> None:
        log_id("sync endpoint")

    for path in ("/async", "/sync"):
        client.get(path, headers=WITH_ID)
    places = ["dependency", "endpoint", "task", "thread", "sync background", "background"]
    logged = [record.getMessage() for record in caplog.records if record.name == log.name]
    assert logged == [f"{place} {ID}" for place in [*places, "sync endpoint"]]


def test_ids_do_not_mix_under_concurrency(app: Application, logs: Logs) -> None:
    @app.get("/mixed")
    async def mixed() -> list[str]:
        before = current_request_id()
        await asyncio.sleep(0.001)
        return [before, await asyncio.to_thread(current_request_id), str(context["X-Request-ID"])]

    async def call(client: httpx2.AsyncClient, number: int) -> None:
        request_id = f"request-{number}"
        response = await client.get("/mixed", headers={HEADER: request_id})
        assert (response.json(), response.headers[HEADER]) == ([request_id] * 3, request_id)

    async def go() -> None:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            await asyncio.gather(*(call(client, number) for number in range(60)))

    asyncio.run(go())
    assert Counter(line.split()[2] for line in logs.access) == Counter(f"request-{number}" for number in range(60))


Step = Callable[[Receive, Send], Awaitable[None]]


async def start(_: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def end(_: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"12345", "more_body": False})


async def receive_disconnect(receive: Receive, _: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel_itself(_: Receive, __: Send) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def fail(error: type[BaseException] = RuntimeError) -> Step:
    async def step(_: Receive, __: Send) -> None:
        raise error

    return step


def run(*steps: Step) -> tuple[list[Message], BaseException | None]:
    """Run an application with these steps for a client that disconnects; return its messages and its exception."""
    sent: list[Message] = []

    async def inner(_: Scope, receive: Receive, send: Send) -> None:
        for step in steps:
            await step(receive, send)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def go() -> BaseException | None:
        try:
            await ContextMiddleware(inner)(http_scope("/x", [(b"x-request-id", ID.encode())]), receive, send)
        except BaseException as error:
            return error
        return None

    return sent, asyncio.run(go())


@pytest.mark.parametrize(
    ("steps", "status", "raised", "flags"),
    [
        ([start, end], 200, None, ""),
        ([], 500, None, " no_response"),
        ([start], 200, None, " incomplete"),
        ([fail()], 500, RuntimeError, " RuntimeError"),
        ([start, fail()], 200, RuntimeError, " RuntimeError,incomplete"),
        ([start, end, fail()], 200, RuntimeError, ""),
        ([receive_disconnect, start, end], 200, None, " client_disconnect"),
        ([start, end, receive_disconnect], 200, None, ""),
        ([receive_disconnect, start, fail(ClientDisconnect)], 200, ClientDisconnect, " client_disconnect,incomplete"),
        ([receive_disconnect, fail(TimeoutError)], 500, TimeoutError, " client_disconnect,TimeoutError"),
        ([fail(asyncio.CancelledError)], 500, asyncio.CancelledError, " CancelledError"),
        ([cancel_itself], 503, asyncio.CancelledError, " CancelledError"),
        ([start, cancel_itself], 200, asyncio.CancelledError, " CancelledError,incomplete"),
    ],
)
@pytest.mark.usefixtures("app")  # sets up logging
def test_each_outcome_has_one_access_log_line_and_each_error_a_traceback(
    steps: list[Step], status: int, raised: type[BaseException] | None, flags: str, logs: Logs
) -> None:
    sent, error = run(*steps)
    assert (type(error) if error else None) is raised
    (line,) = logs.access
    assert f" {ID} {status} " in line
    assert line.endswith(f'"GET /x HTTP/1.1"{flags}')
    tracebacks = raised is RuntimeError or (raised is not None and status == 500)  # none if the client has disconnected
    for text in (f"[{ID}] Unhandled", "Traceback"):
        assert sum(text in line for line in logs.error) == tracebacks
    for message in sent:
        assert message["type"] != "http.response.start" or (b"x-request-id", ID.encode()) in message["headers"]


@pytest.mark.usefixtures("app")  # sets up logging
def test_background_work_cancelled_at_shutdown_is_logged(logs: Logs) -> None:
    run(start, end, cancel_itself)
    assert [f"WARNING [{ID}] Cancelled after the response" in line for line in logs.error] == [True]
    assert len(logs.access) == 1


@pytest.mark.parametrize(("status", "headers"), [(600, {}), (200, {"location": "/a\nb"})])
def test_unsendable_response_is_a_500(status: int, headers: dict[str, str], app: Application, logs: Logs) -> None:
    app.add_api_route("/unsendable", lambda: RawResponse(status_code=status, headers=headers))
    response = connect(app).get("/unsendable", headers=WITH_ID)
    assert (response.status_code, response.headers[HEADER], response.json()["request_id"]) == (500, ID, ID)
    assert [line.endswith(" ValueError") for line in logs.access] == [True]


def test_in_process_call_does_not_change_the_id_of_the_caller(app: Application) -> None:
    @app.get("/outer")
    async def outer() -> list[str]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://inner") as client:
            inner = await client.get("/livez")
        return [inner.headers[HEADER], current_request_id(), context["X-Request-ID"]]

    inner, after, in_context = connect(app).get("/outer", headers=WITH_ID).json()
    assert (after, in_context) == (ID, ID)
    assert inner != ID


def test_request_leaves_no_reference_cycles(app: Application) -> None:
    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError

    async def go() -> None:
        for path in ("/livez", "/defect"):
            with suppress(RuntimeError):
                await drive(app, http_scope(path))

    asyncio.run(go())
    gc.collect()
    gc.disable()
    logging.disable()  # pytest keeps every log record, and an access record keeps its request
    try:
        asyncio.run(go())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = {type(thing).__name__ for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        logging.disable(logging.NOTSET)
    assert kinds.isdisjoint({"RequestRecord", "Exchange", "traceback", "frame"})


def test_lifespan_scope_is_passed_on_unchanged() -> None:
    seen: list[Scope] = []

    async def inner(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(dict(scope))

    asyncio.run(drive(ContextMiddleware(inner), {"type": "lifespan"}))
    assert seen == [{"type": "lifespan"}]
