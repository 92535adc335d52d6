import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from uvicorn import Config

from app.common.server.lingering import stop_listening
from app.common.server.protocol import RequestHttpProtocol
from app.common.workers import DrainingServer
from app.main import create_app

REQUEST = b"POST /api/demo HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
LOOPS = pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])


def listen() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    listener.setblocking(False)
    return listener


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def connect(listener: socket.socket) -> socket.socket:
    """Send a request on a connection that only the kernel has accepted; the event loop does not run before shutdown."""
    client = socket.create_connection(listener.getsockname(), timeout=5)
    client.sendall(REQUEST)
    return client


async def stop_with_queued_connections(listener: socket.socket) -> list[socket.socket]:
    config = Config(create_app(), http=RequestHttpProtocol, lifespan="off", log_config=None)
    config.load()
    server = DrainingServer(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    clients = [connect(listener) for _ in range(30)]
    before = open_files()
    async with asyncio.timeout(10):
        await server.shutdown()
    # The listener and the duplicate that accepted the queued connections are closed; the clients' sockets are not.
    assert open_files() == before - 1
    return clients


@LOOPS
def test_queued_connections_are_served_before_shutdown(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with listen() as listener, asyncio.Runner(loop_factory=factory) as runner:
        for client in runner.run(stop_with_queued_connections(listener)):
            with client:
                response = client.recv(65536)
                assert response.startswith(b"HTTP/1.1 405 ")
                assert b"connection: close\r\n" in response.lower()


@LOOPS
def test_listener_without_queued_connections_stops(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def start_and_stop() -> list[socket.socket]:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, sock=listener)
        return stop_listening([server])

    with listen() as listener, asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(start_and_stop()) == []
