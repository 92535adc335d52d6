"""One access log line in the same format under every server; no server adds its own."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from websockets.sync.client import connect

from tests.support.client import ID_HEADER, build_request, new_id
from tests.support.lines import AppLine
from tests.support.service import Service
from tests.support.waiting import wait_for

SERVERS = (
    "gunicorn",
    "gunicorn-asgi",
    "uvicorn",
    "uvicorn-json",
    "uvicorn-yaml",
    "uvicorn-protocol",
    "hypercorn",
    "hypercorn-json",
    "granian",
)

# Limitations of these servers, which the application cannot change
DROPS_HANDSHAKE_HEADERS = {"granian"}
REPORTS_EVERY_CLOSE_AS_BROKEN = {"hypercorn", "hypercorn-json"}
HIDES_AN_EARLY_DISCONNECT = {"gunicorn-asgi", "hypercorn", "hypercorn-json", "granian"}
CANCELS_ON_DISCONNECT = {"gunicorn-asgi"}

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Return the name of a server."""
    return str(request.param)


@pytest.fixture(scope="module")
def service(server: str, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the application under the server."""
    if server == "uvicorn-yaml":
        config = json.loads((project / "log_config.json").read_text("utf-8"))
        (project / "log_config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    with Service(project, tmp_path_factory.mktemp(server), server=server, workers=1) as running:
        yield running


def test_request_has_one_access_line_in_our_format(service: Service) -> None:
    """With the full duration; no other line contains the target."""
    for path, status, flags, at_least in (
        ("/probe/async?n=1", 200, (), 0.0),
        ("/nothing/here?n=1", 404, (), 0.0),
        ("/probe/fail?n=1", 500, ("RuntimeError",), 0.0),
        ("/probe/stream?seconds=0.3", 200, (), 0.3),
    ):
        request_id, began = new_id("server"), time.monotonic()
        target = f"{path}&mark={request_id}"
        response = service.request("GET", target, request_id=request_id)
        assert (response.status, response.header()) == (status, request_id)
        line = service.access_line(request_id)
        assert (line.status, line.target, line.flags, line.method) == (status, target, flags, "GET")
        assert at_least <= line.duration <= time.monotonic() - began + 0.001
        assert [text for text in service.output().split("\n") if f"mark={request_id}" in text] == [line.raw]


def traces_of(service: Service, request_id: str) -> list[AppLine]:
    """Wait for a log record with a traceback; return all such records of the ID."""

    def look() -> list[AppLine]:
        return [record for record in service.app_records(request_id) if record.exception]

    wait_for(look, f"a traceback of {request_id}")
    service.settle()
    return look()


def test_error_is_logged_with_one_traceback_and_the_id(service: Service) -> None:
    for path, status, error in (
        ("/probe/fail", 500, "RuntimeError: probe failure"),
        ("/probe/stream/broken", 200, "ArithmeticError: probe stream failure"),
        ("/probe/background?fail=true", 200, "ValueError: probe background failure"),
    ):
        request_id, before = new_id("trace"), service.output().count(error)
        assert service.request("GET", path, request_id=request_id).status == status
        service.access_line(request_id)
        (trace,) = traces_of(service, request_id)
        assert trace.exception.count("Traceback (most recent call last):") == 1
        assert trace.exception.endswith(error)
        assert service.output().count(error) == before + 1


def test_websocket_has_the_id_and_one_access_line_after_it_closes(service: Service, server: str) -> None:
    request_id, secret = new_id("server-ws"), new_id("hunter2")
    url = f"ws://127.0.0.1:{service.port}/probe/ws/echo?token={secret}"
    with connect(url, additional_headers={ID_HEADER: request_id}) as websocket:
        assert websocket.response is not None
        expected = [] if server in DROPS_HANDSHAKE_HEADERS else [request_id]
        assert websocket.response.headers.get_all(ID_HEADER) == expected
        websocket.send("hello")
        assert websocket.recv() == f"{request_id} hello"
    line = service.access_line(request_id)
    flags = ("client_disconnect",) if server in REPORTS_EVERY_CLOSE_AS_BROKEN else ()
    assert (line.status, line.method, line.flags) == (101, "GET", flags)
    assert secret not in service.output()
    lines = [text for text in service.output().split("\n") if request_id in text and "in websocket" not in text]
    assert lines == [line.raw]


@pytest.mark.parametrize("path", ["/probe/wait?seconds=0.3&log_start=true", "/probe/stream?seconds=8&count=160"])
def test_client_disconnect_has_one_flagged_access_line(service: Service, server: str, path: str) -> None:
    request_id = new_id("server-disconnect")
    with service.connect() as connection:
        connection.send(build_request("GET", path, request_id=request_id))
        if "stream" in path:
            connection.socket.recv(1)
        else:
            service.app_lines(request_id)
        connection.abort()
    line = service.access_line(request_id, 30)
    expected = () if "wait" in path and server in HIDES_AN_EARLY_DISCONNECT else ("client_disconnect",)
    if "stream" in path and server in CANCELS_ON_DISCONNECT:
        expected = ("CancelledError",)
    assert line.flags[:1] == expected
    assert not [record for record in service.app_records(request_id) if record.exception]


def test_log_records_have_the_id_and_our_format(service: Service) -> None:
    request_id = new_id("format")
    service.request("GET", "/probe/logging", request_id=request_id)
    messages = [record.message for record in service.app_lines(request_id, 4)]
    assert sorted(messages)[:3] == ["by its child", "by library logger", "by plain logger"]
    assert len(messages) == 4
