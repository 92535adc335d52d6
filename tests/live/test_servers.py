"""The same single access line under every server that runs the application; none adds one of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from websockets.sync.client import connect

from tests.support.client import ID_HEADER, build_request, new_id
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

# What these servers keep from the application, or from the client, whatever the application does
DROPS_HANDSHAKE_HEADERS = {"granian"}
TELLS_EVERY_CLOSE_AS_BROKEN = {"hypercorn", "hypercorn-json"}
HIDES_A_CLIENT_THAT_LEFT_EARLY = {"gunicorn-asgi", "hypercorn", "hypercorn-json", "granian"}
CANCELS_WHEN_THE_CLIENT_LEFT = {"gunicorn-asgi"}


class Served(Service):
    """A running service that knows the name of its server."""

    name = ""


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run the application under one of the servers."""
    if request.param == "uvicorn-yaml":
        config = json.loads((project / "log_config.json").read_text("utf-8"))
        (project / "log_config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    with Served(project, tmp_path_factory.mktemp(request.param), server=request.param, workers=1) as service:
        service.name = request.param
        yield service


@pytest.mark.parametrize(
    ("path", "status", "flags", "at_least"),
    [
        ("/probe/async", 200, (), 0.0),
        ("/nothing/here", 404, (), 0.0),
        ("/probe/fail", 500, ("RuntimeError",), 0.0),
        ("/probe/stream?seconds=0.6", 200, (), 0.6),
    ],
)
def test_one_line(served: Served, path: str, status: int, flags: tuple[str, ...], at_least: float) -> None:
    """One line in our form with the full duration, and no other line anywhere that tells of the request."""
    request_id = new_id("server")
    target = f"{path}{'&' if '?' in path else '?'}mark={request_id}"
    answer = served.request("GET", target, request_id=request_id)
    assert (answer.status, answer.one()) == (status, request_id)
    line = served.access_line(request_id)
    assert (line.status, line.target, line.flags, line.method) == (status, target, flags, "GET")
    assert at_least <= line.duration < at_least + 3
    telling = [text for text in served.output().split("\n") if f"mark={request_id}" in text]
    assert telling == [line.raw]


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/probe/fail", 500, "RuntimeError: probe failure"),
        ("/probe/stream/broken", 200, "ArithmeticError: probe stream failure"),
        ("/probe/background?fail=true", 200, "ValueError: probe background failure"),
    ],
)
def test_one_traceback(served: Served, path: str, status: int, told: str) -> None:
    """An unhandled error leaves one traceback, whose record has the ID, whatever the server logs itself."""
    request_id = new_id("trace")
    before = served.output().count(told)
    assert served.request("GET", path, request_id=request_id).status == status
    wait_for(lambda: told in served.output(), "TODO-WHAT")
    served.access_line(request_id)
    traces = wait_for(lambda: [record for record in served.app_lines(request_id) if record.exception], "TODO-WHAT")
    assert len(traces) == 1, traces
    assert traces[0].exception.count("Traceback (most recent call last):") == 1
    assert traces[0].exception.endswith(told)
    assert served.output().count(told) == before + 1


def test_websocket(served: Served) -> None:
    """A websocket has the ID in its handshake, one line when it is over, and no line of the server's own."""
    request_id, secret = new_id("server-ws"), new_id("hunter2")
    url = f"ws://127.0.0.1:{served.port}/probe/ws/echo?token={secret}"
    with connect(url, additional_headers={ID_HEADER: request_id}) as websocket:
        assert websocket.response is not None
        expected = [] if served.name in DROPS_HANDSHAKE_HEADERS else [request_id]
        assert websocket.response.headers.get_all(ID_HEADER) == expected
        websocket.send("hello")
        assert websocket.recv() == f"{request_id} hello"
    line = served.access_line(request_id)
    flags = ("client_disconnect",) if served.name in TELLS_EVERY_CLOSE_AS_BROKEN else ()
    assert (line.status, line.method, line.flags) == (101, "GET", flags)
    assert secret not in served.output()
    telling = [text for text in served.output().split("\n") if request_id in text and "in websocket" not in text]
    assert telling == [line.raw]


@pytest.mark.parametrize("path", ["/probe/wait?seconds=0.5&tell=true", "/probe/stream?seconds=8&count=160"])
def test_client_gone(served: Served, path: str) -> None:
    """A client that leaves does not take its line with it."""
    request_id = new_id("server-gone")
    with served.connect() as connection:
        connection.send(build_request("GET", path, request_id=request_id))
        if "stream" in path:
            connection.socket.recv(1)
        else:
            served.app_lines(request_id)
        connection.abort()
    line = served.access_line(request_id, 12)
    expected = () if "wait" in path and served.name in HIDES_A_CLIENT_THAT_LEFT_EARLY else ("client_disconnect",)
    if "stream" in path and served.name in CANCELS_WHEN_THE_CLIENT_LEFT:
        expected = ("CancelledError",)
    assert line.flags[:1] == expected
    assert not [record for record in served.app_records(request_id) if record.exception]


def test_log_line_in_our_form(served: Served) -> None:
    """Log lines of the application have the ID and our form under every server."""
    request_id = new_id("form")
    served.request("GET", "/probe/logging", request_id=request_id)
    messages = [record.message for record in served.app_lines(request_id, 4)]
    assert sorted(messages)[:3] == ["by its child", "by library logger", "by plain logger"]
    assert len(messages) == 4


def test_stops_when_asked(project: Path, tmp_path: Path) -> None:
    """The service's own way ends with exit code 0 while a connection idles."""
    with Service(project, tmp_path) as service, service.connect() as connection:
        assert connection.request("GET", "/probe/async").status == 200
        assert service.stop(timeout=8) == 0
