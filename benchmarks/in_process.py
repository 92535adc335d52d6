"""Calls an ASGI application as uvicorn would, but without sockets, so that only the application is measured.

`in_process.py APPLICATION REQUESTS` runs in the service's environment. It sends the requests one after the other, each
in a separate task, as uvicorn's httptools protocol does (`RequestResponseCycle`). The environment variables LOG_FORMAT
and LOG_PATH configure the service.
"""

import asyncio
import sys
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OK = 200  # a number: looking up a member of HTTPStatus takes more instructions than the rest of this module
PATH = "/livez"  # the service's first route; ACCESS_LOG_EXCLUDE is set so that its requests are logged
HEADERS = [(b"host", b"localhost:8000"), (b"user-agent", b"benchmark"), (b"accept", b"*/*")]
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"2"), (b"content-type", b"application/json")],
}
BODY: Message = {"type": "http.response.body", "body": b"{}"}


def new_scope() -> Scope:
    """Return a new scope for one request, as the server creates it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "root_path": "",
        "headers": list(HEADERS),
        "state": {},
        "method": "GET",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
    }


class Cycle:
    """The server's state of one request; the application gets its `receive` and `send`."""

    def __init__(self) -> None:
        self.disconnected = False
        self.status = 0
        self.complete = False

    async def receive(self) -> Message:
        """Return an empty request body."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Record the status, and whether the response is complete."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.complete = not message.get("more_body", False)


async def trivial(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Send two prepared messages: an application that costs almost nothing."""
    await send(START)
    await send(BODY)


def middleware() -> ASGIApp:
    """Return the service's middleware around the trivial application, with logging set up from the settings."""
    from app.common.log_handler import configure_logging
    from app.common.middlewares import ContextMiddleware
    from app.settings import get_settings

    configure_logging(get_settings())
    return ContextMiddleware(trivial)


def fastapi() -> ASGIApp:
    """Return a bare FastAPI application with the same response; as in the service, the first route is requested."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Envelope(BaseModel):
        code: int = 0
        message: str = "success"
        cause: str = ""
        request_id: str = "5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a"
        result: str | None = None

    app = FastAPI(openapi_url=None)

    @app.get(PATH)
    async def livez() -> Envelope:
        return Envelope(result="alive")

    return app


def service() -> ASGIApp:
    """Return the whole application as the server imports it."""
    from app.main import create_app

    return create_app()


APPLICATIONS: dict[str, Any] = {
    "trivial": lambda: trivial,
    "middleware": middleware,
    "fastapi": fastapi,
    "service": service,
}


async def send_requests(app: ASGIApp, count: int) -> None:
    """Send requests one after the other; raise RuntimeError if a response is incomplete or not 200."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        cycle = Cycle()
        await loop.create_task(app(new_scope(), cycle.receive, cycle.send))  # type: ignore[arg-type]
        if cycle.status != OK or not cycle.complete:
            raise RuntimeError(f"Expected a complete 200 response, got {cycle.status}, complete: {cycle.complete}.")


def run(app: ASGIApp, count: int) -> None:
    """Send the requests on uvloop, the event loop of the service."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send_requests(app, count))


if __name__ == "__main__":
    run(APPLICATIONS[sys.argv[1]](), int(sys.argv[2]))
