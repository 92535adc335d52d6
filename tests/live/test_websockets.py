"""Websockets: the ID in the handshake's response and in every log line, one access line when it is over."""

import time
from socket import SHUT_RDWR

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.client import ID_HEADER, new_id
from tests.support.service import Service


def dial(service: Service, path: str, request_id: str | None) -> ClientConnection:
    """Open a websocket."""
    headers = {ID_HEADER: request_id} if request_id else {}
    return connect(f"ws://127.0.0.1:{service.port}/probe/ws/{path}", additional_headers=headers)


def header_of(websocket: ClientConnection) -> str:
    """Return the ID in the handshake's response, which must be there once."""
    assert websocket.response is not None
    (value,) = websocket.response.headers.get_all(ID_HEADER)
    return value


@pytest.mark.parametrize("sent", [True, False])
def test_conversation_has_one_line_with_101_when_the_client_has_ended_it(service: Service, sent: bool) -> None:
    """The ID is the same inside and outside."""
    with dial(service, "echo?room=1", new_id("echo") if sent else None) as websocket:
        request_id = header_of(websocket)
        websocket.send("hello")
        assert websocket.recv() == f"{request_id} hello"
        assert request_id not in service.access_text()
    line = service.access_line(request_id)
    assert (line.status, line.method, line.target, line.flags) == (101, "GET", "/probe/ws/echo?room=1", ())
    assert [record.message for record in service.app_lines(request_id)].count("in websocket") == 1


def test_duration_of_the_line_counts_until_the_server_closes(service: Service) -> None:
    request_id, began = new_id("close"), time.monotonic()
    with dial(service, "close", request_id) as websocket:
        assert header_of(websocket) == request_id
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "enough")
    line = service.access_line(request_id)
    assert (line.status, line.flags) == (101, ())
    assert 0.3 <= line.duration <= time.monotonic() - began


def test_line_of_a_broken_connection_is_flagged(service: Service) -> None:
    request_id = new_id("vanish")
    with dial(service, "echo", request_id) as websocket:
        websocket.send("hello")
        websocket.recv()
        websocket.socket.shutdown(SHUT_RDWR)
    line = service.access_line(request_id)
    assert (line.status, line.flags) == (101, ("client_disconnect",))
    assert not any(record.exception for record in service.app_records(request_id))


@pytest.mark.parametrize(("path", "status"), [("refuse", 403), ("denial", 401), ("nothing", 403)])
def test_refused_handshake_has_its_id_status_and_line(service: Service, path: str, status: int) -> None:
    request_id = new_id("refused")
    with pytest.raises(InvalidStatus) as refused:
        dial(service, path, request_id)
    response = refused.value.response
    assert response.status_code == status
    assert response.headers.get_all(ID_HEADER) == [request_id]
    if path == "denial":
        assert request_id.encode() in (response.body or b"")
    line = service.access_line(request_id)
    assert (line.status, line.target, line.flags) == (status, f"/probe/ws/{path}", ())


def test_server_logs_nothing_of_its_own_about_a_websocket(service: Service) -> None:
    """No second line, and no secret from the query."""
    request_id, secret = new_id("ws-secret"), new_id("hunter2")
    with dial(service, f"echo?token={secret}", request_id) as websocket:
        websocket.send("hello")
        websocket.recv()
    line = service.access_line(request_id)
    assert line.target.startswith("/probe/ws/echo?token=")
    assert secret not in service.output()
    lines = [text for text in service.output().split("\n") if request_id in text and "in websocket" not in text]
    assert lines == [line.raw]


def test_error_after_the_handshake_is_logged_once(service: Service) -> None:
    """The line has 101 and the error's name; the traceback has the ID."""
    request_id = new_id("ws-fail")
    with dial(service, "fail", request_id) as websocket, pytest.raises(ConnectionClosed):
        websocket.recv()
    line = service.access_line(request_id)
    assert (line.status, line.flags) == (101, ("RuntimeError",))
    (record,) = [record for record in service.app_lines(request_id) if record.exception]
    assert "RuntimeError: probe websocket failure" in record.exception


def test_error_before_the_handshake_is_answered_with_500(service: Service) -> None:
    """The traceback is there once, with the ID."""
    request_id = new_id("ws-early")
    with pytest.raises(InvalidStatus) as refused:
        dial(service, "fail?accept=false", request_id)
    assert refused.value.response.status_code == 500
    assert refused.value.response.headers.get_all(ID_HEADER) == [request_id]
    line = service.access_line(request_id)
    assert (line.status, line.flags) == (500, ("RuntimeError",))
    (record,) = [record for record in service.app_lines(request_id) if record.exception]
    assert "RuntimeError: probe websocket failure" in record.exception
