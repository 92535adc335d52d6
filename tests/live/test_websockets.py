"""WebSockets: the ID is in the handshake response and in every log line; one access log line after the close."""

import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.client import ID_HEADER, new_id
from tests.support.service import Service


def open_websocket(service: Service, path: str, request_id: str | None) -> ClientConnection:
    """Connect to a WebSocket route of the probe."""
    headers = {ID_HEADER: request_id} if request_id else {}
    return connect(f"ws://127.0.0.1:{service.port}/probe/ws/{path}", additional_headers=headers)


def header_of(websocket: ClientConnection) -> str:
    """Return the ID header of the handshake response; there must be exactly one."""
    assert websocket.response is not None
    (value,) = websocket.response.headers.get_all(ID_HEADER)
    return value


@pytest.mark.parametrize("sent", [True, False])
def test_websocket_has_one_access_line_with_101_after_the_client_closes(service: Service, sent: bool) -> None:
    """The endpoint and the client see the same ID; the server logs neither its own line nor a secret of the query."""
    secret = new_id("hunter2")
    with open_websocket(service, f"echo?room=1&token={secret}", new_id("echo") if sent else None) as websocket:
        request_id = header_of(websocket)
        websocket.send("hello")
        assert websocket.recv() == f"{request_id} hello"
        assert request_id not in service.access_text()
    line = service.access_line(request_id)
    assert (line.status, line.method, line.flags) == (101, "GET", ())
    assert line.target == "/probe/ws/echo?room=1&token=***"
    assert secret not in service.output()
    assert [record.message for record in service.app_lines(request_id)].count("in websocket") == 1
    lines = [text for text in service.output().split("\n") if request_id in text and "in websocket" not in text]
    assert lines == [line.raw]


def test_duration_of_a_websocket_lasts_until_the_server_closes(service: Service) -> None:
    request_id, began = new_id("close"), time.monotonic()
    with open_websocket(service, "close", request_id) as websocket:
        assert header_of(websocket) == request_id
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "enough")
    line = service.access_line(request_id)
    assert (line.status, line.flags) == (101, ())
    assert 0.3 <= line.duration <= time.monotonic() - began


@pytest.mark.parametrize(("path", "status"), [("refuse", 403), ("denial", 401)])
def test_refused_handshake_has_id_status_and_access_line(service: Service, path: str, status: int) -> None:
    request_id = new_id("refused")
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(service, path, request_id)
    response = refused.value.response
    assert response.status_code == status
    assert response.headers.get_all(ID_HEADER) == [request_id]
    if path == "denial":
        assert request_id.encode() in (response.body or b"")
    line = service.access_line(request_id)
    assert (line.status, line.target, line.flags) == (status, f"/probe/ws/{path}", ())


@pytest.mark.parametrize("accept", [True, False])
def test_error_in_a_websocket_is_logged_once(service: Service, accept: bool) -> None:
    """The access log line has 101 after the handshake, 500 before it; the traceback has the ID."""
    request_id = new_id("ws-fail")
    expected = pytest.raises(ConnectionClosed if accept else InvalidStatus)
    with expected as failed, open_websocket(service, f"fail?accept={accept}", request_id) as websocket:
        websocket.recv()
    if isinstance(failed.value, InvalidStatus):
        assert failed.value.response.status_code == 500
        assert failed.value.response.headers.get_all(ID_HEADER) == [request_id]
    line = service.access_line(request_id)
    assert (line.status, line.flags) == (101 if accept else 500, ("RuntimeError",))
    (record,) = [record for record in service.app_lines(request_id) if record.exception]
    assert "RuntimeError: probe websocket failure" in record.exception
