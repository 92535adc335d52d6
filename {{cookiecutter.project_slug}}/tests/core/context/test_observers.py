"""Observers: what they receive for each log line, request and outgoing call."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from app.common.context.observers import call_observers, injectors, log_fields, request_observers
from app.common.context.request_record import RequestRecord
from app.common.outbound import OutboundAsyncClient, OutboundCall
from app.main import Application
from tests.support import HEADER, ID, Logs, connect

number: ContextVar[int] = ContextVar("number", default=0)


def fields() -> dict[str, object]:
    return {"trace": f"t{number.get()}", "note": "two\nlines"}


def stamp(carrier: MutableMapping[Any, Any]) -> None:
    carrier.setdefault("x-trace", f"t{number.get()}")


@pytest.fixture
def observed() -> list[tuple[object, ...]]:
    """Register observers; return what they observe, in order."""
    observed: list[tuple[object, ...]] = []

    @contextmanager
    def observe(call: OutboundCall) -> Iterator[None]:
        number.set(7)
        try:
            yield
        except Exception as error:
            observed.append((call.request.url.path, type(error).__name__))
            raise
        observed.append((call.request.headers.get("x-trace"), call.response and call.response.status_code))

    call_observers["test"] = observe
    log_fields["test"], injectors["test"] = fields, stamp
    return observed


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_log_line_has_the_additional_fields(
    configure: Callable[..., Application], logs: Logs, log_format: str
) -> None:
    app = configure(LOG_FORMAT=log_format)
    log_fields["test"] = fields

    @app.get("/count/{value}")
    async def count(value: int) -> None:
        number.set(value)
        raise RuntimeError

    client = connect(app)
    for value in (3, 4):
        client.get(f"/count/{value}", headers={HEADER: f"{ID}-{value}"})
        (own,) = [line for line in logs.error if f"{ID}-{value}" in line and "Unhandled" in line]
        (access,) = [line for line in logs.access if f"{ID}-{value}" in line]
        for line in (own, access):
            assert (f'"trace":"t{value}","note":"two\\nlines"' in line) is (log_format == "json")
            assert (f" trace=t{value} note=two\\nlines" in line) is (log_format == "text")
    if log_format == "text":
        assert f"[{ID}-4] trace=t4 note=two\\nlines Unhandled" in own
        assert access.endswith('HTTP/1.1" RuntimeError trace=t4 note=two\\nlines')


def test_additional_field_does_not_replace_a_standard_field(configure: Callable[..., Application], logs: Logs) -> None:
    app = configure(LOG_FORMAT="json")
    standard = ("request_id", "name", "levelname", "status", "path", "timestamp")
    log_fields["test"] = lambda: dict.fromkeys(standard, "forged") | {"own": 1}
    logging.getLogger("app.work").info("done")
    (line,) = logs.error
    connect(app).get("/nowhere", headers={HEADER: ID})
    (access,) = (json.loads(line) for line in logs.access)
    assert (access["status"], access["path"], access["request_id"]) == (404, "/nowhere", ID)
    assert next(iter(access)) == "timestamp"
    assert (access["status_"], access["path_"], access["request_id_"]) == ("forged",) * 3
    content = json.loads(line)
    assert (content["request_id"], content["logger"], content["level"]) == ("-", "app.work", "INFO")
    assert access["own"] == content["own"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/demo", 200),
        ("HEAD", "/api/demo", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/api/demo/fail", 500),
        ("GET", "/livez", 200),
        ("GET", "/api/demo/stream?lines=2", 200),
        ("WEBSOCKET", "/nowhere", 403),
    ],
)
def test_request_observer_is_called_once_for_each_finished_request(
    app: Application, method: str, path: str, status: int
) -> None:
    records: list[RequestRecord] = []
    request_observers["test"] = records.append
    if method == "WEBSOCKET":
        with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect(path, headers={HEADER: ID}):
            pass
    else:
        connect(app).request(method, path, headers={HEADER: ID})
    (record,) = records
    assert (record.request_id, record.status) == (ID, status)
    assert record.is_over


def test_calls_are_observed_and_carry_injected_headers(observed: list[tuple[object, ...]]) -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/broken":
            raise httpx2.ConnectError("no")
        return httpx2.Response(204, request=request)

    async def calls() -> None:
        transport = httpx2.MockTransport(respond)
        async with OutboundAsyncClient(allowed_hosts=["ours"], transport=transport) as client:
            await client.get("http://ours/one")
            await client.get("http://ours/two", headers={"x-trace": "by hand"})
            await client.get("http://theirs/three")
            with pytest.raises(httpx2.ConnectError):
                await client.get("http://ours/broken")

    asyncio.run(calls())
    assert observed == [("t7", 204), ("by hand", 204), (None, 204), ("/broken", "ConnectError")]
