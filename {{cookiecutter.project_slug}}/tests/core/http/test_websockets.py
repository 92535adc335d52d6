"""WebSockets: ID and access log line after a normal close, a refusal, a broken connection and an error."""

import asyncio
import json
from contextlib import suppress

import pytest
from fastapi import WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from app.common.request_id import current_request_id
from app.main import Application
from tests.core.support import http_scope
from tests.support import HEADER, ID, Logs, connect

WITH_ID = {HEADER: ID}


@pytest.fixture
def sockets(app: Application) -> TestClient:
    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x-request-id", b"mine")])
        await websocket.send_text(current_request_id())
        await websocket.send_bytes(b"1234")
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            pass

    @app.websocket("/refuse")
    async def refuse(websocket: WebSocket) -> None:
        await websocket.close(reason="no room")

    @app.websocket("/late-error")
    async def late_error(websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("on purpose")

    return connect(app)


def test_websocket_has_the_id_in_header_and_context_and_one_access_line(sockets: TestClient, logs: Logs) -> None:
    with sockets.websocket_connect("/echo?token=abc", headers=WITH_ID) as session:
        headers: object = session.extra_headers
        assert headers == [(b"x-request-id", ID.encode())]
        assert session.receive_text() == ID
        assert session.receive_bytes() == b"1234"
        session.send_text("more")
        assert session.receive_text() == "more"
        assert logs.access == []
    (line,) = logs.access
    assert f" {ID} 101 " in line
    assert line.endswith('"GET /echo?token=*** HTTP/1.1"')


def test_broken_websocket_connection_is_flagged(sockets: TestClient, logs: Logs) -> None:
    with sockets.websocket_connect("/echo", headers=WITH_ID) as session:
        session.receive_text()
        session.send({"type": "websocket.disconnect", "code": 1006})
    assert [line.endswith('HTTP/1.1" client_disconnect') for line in logs.access] == [True]


@pytest.mark.parametrize(("path", "cause"), [("/refuse", "no room"), ("/nothing-here", "Forbidden.")])
def test_refused_websocket_gets_the_envelope(path: str, cause: str, sockets: TestClient, logs: Logs) -> None:
    with pytest.raises(WebSocketDenialResponse) as denied, sockets.websocket_connect(path, headers=WITH_ID):
        pass
    assert (denied.value.status_code, denied.value.headers.get_list(HEADER)) == (403, [ID])
    content = {"code": 403, "message": "failed", "cause": cause, "request_id": ID, "result": None}
    assert denied.value.json() == content
    (line,) = logs.access
    assert f" {ID} 403 " in line
    assert line.endswith(f'"GET {path} HTTP/1.1"')


def send_handshake(app: Application, path: str, extensions: dict[str, object]) -> list[Message]:
    scope = http_scope(path, [(b"x-request-id", ID.encode())], type="websocket", extensions=extensions)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    with suppress(RuntimeError):
        asyncio.run(app(scope, receive, send))
    return sent


def test_error_before_the_handshake_gets_the_envelope(app: Application, logs: Logs) -> None:
    @app.websocket("/error")
    async def fail(_: WebSocket) -> None:
        raise RuntimeError("on purpose")

    start, body = send_handshake(app, "/error", {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 500)
    assert (b"x-request-id", ID.encode()) in start["headers"]
    assert json.loads(body["body"])["request_id"] == ID
    (line,) = logs.access
    assert f" {ID} 500 " in line
    assert line.endswith(" RuntimeError")


def test_websocket_is_closed_if_the_server_does_not_support_denial_responses(
    sockets: TestClient, app: Application, logs: Logs
) -> None:
    assert sockets  # adds the routes
    assert [message["type"] for message in send_handshake(app, "/refuse", {})] == ["websocket.close"]
    (line,) = logs.access
    assert f" {ID} 403 " in line


def test_error_in_an_open_websocket_is_logged_with_the_id(sockets: TestClient, logs: Logs) -> None:
    with pytest.raises(RuntimeError), sockets.websocket_connect("/late-error", headers=WITH_ID) as session:
        session.receive_text()
    assert sum(f"[{ID}] Unhandled RuntimeError" in line for line in logs.error) == 1
    (line,) = logs.access
    assert line.endswith('HTTP/1.1" RuntimeError')


def test_each_websocket_has_its_own_id(sockets: TestClient) -> None:
    ids = []
    for _ in range(2):
        with sockets.websocket_connect("/echo") as session:
            ids.append(session.receive_text())
    assert len(set(ids)) == 2
