"""HTTP/1.1 protocol: malformed, too large and too slow requests are refused with an ID and one access log line."""

import asyncio
import json
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from http.client import HTTPResponse
from typing import Any

import pytest
from starlette.requests import Request
from starlette.websockets import WebSocket
from uvicorn import Config, Server
from websockets.sync.client import connect as open_websocket

from app import settings
from app.common.workers import RequestUvicornWorker
from app.main import create_app
from tests.support import HEADER, ID, UUID4, Logs

pytestmark = pytest.mark.usefixtures("app")  # the fixture configures logging

Open = Callable[..., socket.socket]
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
user: ContextVar[str] = ContextVar("user", default="unset")


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[tuple[str, int], Server]]:
    """Serve as a worker does; the settings are read again for each connection."""
    app = create_app()

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.get("/user")
    async def set_user(name: str) -> str:
        before = user.get()
        user.set(name)
        return f"<{before}>"

    @app.websocket("/close-by/{side}")
    async def close_by(websocket: WebSocket, side: str) -> None:
        await websocket.accept()
        if side == "client":
            await websocket.receive()
        else:
            await websocket.close()
        await asyncio.sleep(0.1)  # until the connection is closed

    options: dict[str, Any] = RequestUvicornWorker.CONFIG_KWARGS
    server = Server(Config(app, log_config=None, lifespan="off", **options))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listening.getsockname(), server
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(serving: tuple[tuple[str, int], Server]) -> tuple[str, int]:
    return serving[0]


@pytest.fixture
def connect(serving: tuple[tuple[str, int], Server]) -> Iterator[Open]:
    """Return a function that opens a connection and sends the given bytes; at the end, wait for the requests."""
    address, server = serving
    connections: list[socket.socket] = []

    def create(sent: bytes = b"") -> socket.socket:
        connections.append(socket.create_connection(address, timeout=30))
        connections[-1].sendall(sent)
        return connections[-1]

    yield create
    for connection in connections:
        connection.close()
    while server.server_state.tasks:
        time.sleep(0.01)


def set_limits(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings.current.clear()


def read(connection: socket.socket) -> tuple[HTTPResponse, Any]:
    """Read one response and its JSON."""
    response = HTTPResponse(connection)
    response.begin()
    return response, json.loads(response.read())


def read_all(connection: socket.socket) -> str:
    """Read until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def get(path: str = "/api/demo", *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode("latin-1")


def post(*lines: str, body: str = "") -> bytes:
    return "\r\n".join(["POST /size HTTP/1.1", "Host: test", *lines, "", body]).encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")


@pytest.mark.parametrize(
    ("raw", "status", "line"),
    [
        (b"NONSENSE\r\n\r\n", 400, '"- - HTTP/1.1"'),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, '"- - HTTP/1.1"'),
        (b"GET /api/demo HTTP/1.1\r\n\r\n", 400, '"GET /api/demo HTTP/1.1"'),
        (get("/api/demo", "Host: other"), 400, '"GET /api/demo HTTP/1.1"'),
        (get("/api/demo", "Bad\x01Name: a"), 400, '"GET /api/demo HTTP/1.1"'),
        (get("/" + "a" * 9000), 414, '"GET /aaa'),
        (get("/x?" + "a" * 9000), 414, '"GET /x?aaa'),
        (get("/api/demo", *["A: b"] * 100), 431, '"GET /api/demo HTTP/1.1"'),
        (get("/api/demo", "A: " + "b" * 40_000), 431, '"GET /api/demo HTTP/1.1"'),
        (post("Content-Length: 1", "Content-Length: 2", body="ab"), 400, '"POST /size HTTP/1.1"'),
        (post("Content-Length: 1", CHUNKED, body="a"), 400, '"POST /size HTTP/1.1"'),
        (post("Content-Length: -1"), 400, '"POST /size HTTP/1.1"'),
        (post(CHUNKED, body="zz\r\nabc\r\n"), 400, '"POST /size HTTP/1.1"'),
        (get("/", *UPGRADE, "Sec-WebSocket-Version: 12"), 426, '"GET / HTTP/1.1"'),
        (get("/", *UPGRADE, "Sec-WebSocket-Version: 13"), 400, '"GET / HTTP/1.1"'),
    ],
    ids=["nonsense", "tls", "no host", "two hosts", "control character", "long path", "long query", "many headers",
         "large header", "two lengths", "length and chunked", "negative length", "bad chunk", "old websocket",
         "websocket without key"],
)  # fmt: skip
def test_malformed_or_too_large_request_is_refused_with_an_id(
    raw: bytes, status: int, line: str, connect: Open, logs: Logs
) -> None:
    connection = connect(raw + get("/api/demo?smuggled=1"))
    response, content = read(connection)
    assert (response.status, content["code"], response.getheader("Connection")) == (status, status, "close")
    assert response.headers.get_all(HEADER) == [content["request_id"]]
    assert connection.recv(1) == b""
    (written,) = logs.wait("access.log", content["request_id"])
    assert line in written
    assert logs.access == [written]


def test_refusal_keeps_the_id_of_the_caller(connect: Open) -> None:
    assert read(connect(get("/api/demo", f"{HEADER}: {ID}", "Host: other")))[1]["request_id"] == ID


def test_http_1_0_request_needs_no_host_header(connect: Open) -> None:
    assert read(connect(b"GET /api/demo HTTP/1.0\r\n\r\n"))[0].status == 200


def test_pipelined_requests_have_their_own_ids(connect: Open, logs: Logs) -> None:
    received = read_all(connect(get() + get("/none") + get("/api/demo", "Connection: close")))
    ids = re.findall(rf"(?im)^{HEADER}: (.*)\r$", received)
    assert re.findall(r'"request_id":"(.*?)"', received) == ids
    assert len(set(ids)) == 3
    assert all(map(UUID4.fullmatch, ids))
    assert [line.split()[2] for line in logs.wait("access.log", "", 3)] == ids
    assert [
        ids.index(line.split("[")[2].split("]")[0]) for line in logs.lines("demo.log") if line.endswith("demo")
    ] == [0, 2]


def test_context_variable_of_an_earlier_request_is_reset(connect: Open) -> None:
    received = read_all(connect(get("/user?name=first") + get("/user?name=second", "Connection: close")))
    assert received.count('"<unset>"') == 2


def test_refusal_is_sent_after_earlier_responses(connect: Open, logs: Logs) -> None:
    received = read_all(connect(get("/api/demo/wait?seconds=0.05") + b"NONSENSE\r\n\r\n"))
    assert [part[:3] for part in received.split("HTTP/1.1 ")[1:]] == ["200", "400"]
    assert [line.split()[3] for line in logs.wait("access.log", "", 2)] == ["200", "400"]


def test_header_line_that_never_ends_is_refused(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch, LIMIT_REQUEST_HEAD="1024", LIMIT_REQUEST_LINE="1024")
    connection = connect(b"GET / HTTP/1.1\r\nA: ")
    while not select.select([connection], [], [], 0.01)[0]:
        connection.sendall(b"b" * 1000)
    assert read(connection)[0].status == 431


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\nHost: te", post("Content-Length: 10", body="abc")])
def test_slow_request_is_408(raw: bytes, connect: Open, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch, HEAD_TIMEOUT="0.05", BODY_TIMEOUT="0.05")
    response, content = read(connect(raw))
    assert (response.status, content["code"], response.getheader(HEADER)) == (408, 408, content["request_id"])
    assert [" 408 " in line for line in logs.wait("access.log", content["request_id"])] == [True]


def test_silent_connection_is_closed_without_a_line(connect: Open, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch, HEAD_TIMEOUT="0.05")
    assert connect().recv(1) == b""
    assert logs.access == []


def test_request_above_limit_concurrency_is_503(connect: Open, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch, LIMIT_CONCURRENCY="1")
    first, second = connect(), connect()
    first.sendall(post("Content-Length: 1", "Expect: 100-continue"))
    assert first.recv(100).startswith(b"HTTP/1.1 100 ")  # the application runs, and waits for the body
    second.sendall(get())
    assert read(second)[0].status == 503
    first.sendall(b"x")
    assert read(first)[0].status == 200
    assert [line.split()[3] for line in logs.wait("access.log", "", 2)] == ["503", "200"]


def test_client_disconnect_has_one_flagged_access_line(connect: Open, logs: Logs) -> None:
    connection = connect(get("/api/demo/wait?seconds=0.5"))
    assert logs.wait("error.log", "waiting for")
    connection.close()
    (line,) = logs.wait("access.log", "/api/demo/wait")
    assert line.endswith(' HTTP/1.1" client_disconnect')


@pytest.mark.parametrize(
    ("more", "status"),
    [((), 403), (("Expect: 100-continue",), 403), (("Content-Length: 3",), 400), ((CHUNKED,), 400)],
)
def test_websocket_handshake_reaches_the_application_or_is_refused(
    connect: Open, more: tuple[str, ...], status: int
) -> None:
    connection = connect()
    handshake = (*more, "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY.decode()}", f"{HEADER}: {ID}")
    connection.sendall(get("/none", *UPGRADE, *handshake))
    response, content = read(connection)
    assert (response.status, response.getheader(HEADER), content["request_id"]) == (status, ID, ID)


@pytest.mark.parametrize(("side", "broken"), [("client", False), ("server", False), ("client", True)])
def test_only_a_broken_websocket_connection_is_flagged(
    address: tuple[str, int], logs: Logs, side: str, broken: bool
) -> None:
    with open_websocket(f"ws://127.0.0.1:{address[1]}/close-by/{side}") as websocket:
        if broken:
            websocket.socket.shutdown(socket.SHUT_RDWR)
    (line,) = logs.wait("access.log", "/close-by/")
    assert line.endswith(" client_disconnect") is broken
