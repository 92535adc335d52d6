"""Body limit: a large body is refused by its Content-Length, or once the received bytes exceed the limit."""

import asyncio
import json
from collections.abc import Callable

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.common.http.refusals import RefusalMiddleware
from app.common.middlewares import ContextMiddleware
from app.main import Application
from tests.core.support import drive, http_scope
from tests.support import HEADER, ID, Logs, connect

LIMIT = 100


@pytest.fixture
def limited(configure: Callable[..., Application]) -> TestClient:
    app = configure(MAX_BODY_BYTES=str(LIMIT))

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    async def numbers(numbers: list[int]) -> int:
        return len(numbers)

    return connect(app)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_body_within_the_limit_is_read(size: int, limited: TestClient) -> None:
    assert limited.post("/size", content=b"x" * size).json() == size


@pytest.mark.parametrize("path", ["/size", "/json", "/nothing-here"])
def test_body_above_the_limit_is_413_with_the_envelope(path: str, limited: TestClient, logs: Logs) -> None:
    response = limited.post(path, content=b"x" * (LIMIT + 1), headers={HEADER: ID})
    assert (response.status_code, response.headers[HEADER]) == (413, ID)
    cause = f"The request body is larger than {LIMIT} bytes."
    assert response.json() == {"code": 413, "message": "failed", "cause": cause, "request_id": ID, "result": None}
    assert [f" {ID} 413 " in line for line in logs.access] == [True]


def send_chunks(app: ASGIApp, number: int) -> list[Message]:
    """Send a body in chunks of ten bytes; the application receives each as one message."""
    headers = [(b"transfer-encoding", b"chunked"), (b"x-request-id", ID.encode())]
    chunks = [{"type": "http.request", "body": b"x" * 10, "more_body": left > 0} for left in reversed(range(number))]
    return asyncio.run(drive(app, http_scope("/size", headers, method="POST"), *chunks))


@pytest.mark.parametrize(("number", "status"), [(10, 200), (11, 413), (20, 413)])
def test_bytes_of_a_chunked_body_are_counted(number: int, status: int, limited: TestClient) -> None:
    start, body = send_chunks(limited.app, number)
    assert (start["status"], (b"x-request-id", ID.encode()) in start["headers"]) == (status, True)
    content = json.loads(body["body"])
    assert content == number * 10 if status == 200 else content["cause"].endswith(f"larger than {LIMIT} bytes.")


async def accept(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


def limit_body(app: ASGIApp) -> ContextMiddleware:
    return ContextMiddleware(RefusalMiddleware(app), max_body_bytes=LIMIT)


@pytest.mark.parametrize("length", [b"0", b"100", b"0000000000000000000000000000100"])
def test_content_length_within_the_limit_is_accepted(length: bytes) -> None:
    scope = http_scope(method="POST", headers=[(b"content-length", length)])
    assert asyncio.run(drive(limit_body(accept), scope))[0]["status"] == 200


@pytest.mark.parametrize("length", [b"101", b"0000000000000000000000000000101", b"9" * 30, b"9" * 10_000])
def test_content_length_above_the_limit_is_refused_before_the_body_is_read(length: bytes) -> None:
    scope = http_scope(method="POST", headers=[(b"content-length", length)])
    start, body = asyncio.run(drive(limit_body(accept), scope))
    assert (start["status"], json.loads(body["body"])["code"]) == (413, 413)
    assert b"connection" not in dict(start["headers"])


def test_websocket_has_no_body_limit() -> None:
    seen: list[Message] = []

    async def inner(_: Scope, receive: Receive, __: Send) -> None:
        seen.append(await receive())

    message = {"type": "websocket.receive", "bytes": b"x" * 1000}
    asyncio.run(drive(limit_body(inner), http_scope(type="websocket"), message))
    assert seen == [message]


def test_http_2_body_without_content_length_is_limited() -> None:
    async def read(_scope: Scope, receive: Receive, _send: Send) -> None:
        with pytest.raises(HTTPException, match="413"):
            await receive()

    asyncio.run(drive(limit_body(read), http_scope(http_version="2"), {"type": "http.request", "body": b"x" * 101}))
