"""Calls an ASGI application as uvicorn would, without sockets, so that nothing but the application is measured.

It runs in the service's environment: `in_process.py APPLICATION REQUESTS` makes the requests one after the other, each
in a task of its own as uvicorn does (`RequestResponseCycle` of its httptools protocol). What the service does, the
environment decides: LOG_FORMAT, LOG_PATH.
"""

import asyncio
import sys
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

OK = 200  # a number, since looking up a member of HTTPStatus takes more instructions than all else here
PATH = "/livez"  # the service's first route, a plain answer; ACCESS_LOG_EXCLUDE lets it have its line
HEADERS = [(b"host", b"localhost:8000"), (b"user-agent", b"benchmark"), (b"accept", b"*/*")]
START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-length", b"2"), (b"content-type", b"application/json")],
}
BODY: Message = {"type": "http.response.body", "body": b"{}"}


def new_scope() -> Scope:
    """Give the scope of one request, as new as the server's."""
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
    """What the server holds of one request; the application gets its `receive` and `send`."""

    def __init__(self) -> None:
        self.disconnected = False
        self.status = 0
        self.complete = False

    async def receive(self) -> Message:
        """Give the empty body."""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        """Take a message of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.complete = not message.get("more_body", False)


async def trivial(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer with two messages that are made already: an application that costs next to nothing."""
    await send(START)
    await send(BODY)


def door() -> ASGIApp:
    """Give the service's middleware, around the trivial application, with its lines where the settings say."""
    from app.common.log_handler import configure_logging
    from app.common.middlewares import ContextMiddleware
    from app.settings import get_settings

    configure_logging(get_settings())
    return ContextMiddleware(trivial)


def fastapi() -> ASGIApp:
    """Give a bare FastAPI with the same answer; as in the service, the first route is the one that is asked for."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Answer(BaseModel):
        code: int = 0
        message: str = "success"
        cause: str = ""
        request_id: str = "5f0c1d9e-6c2f-4a53-9d0a-1f2e3d4c5b6a"
        result: str | None = None

    app = FastAPI(openapi_url=None)

    @app.get(PATH)
    async def livez() -> Answer:
        return Answer(result="alive")

    return app


def service() -> ASGIApp:
    """Give the whole application as the server imports it."""
    from app.main import create_app

    return create_app()


APPLICATIONS: dict[str, Any] = {"trivial": lambda: trivial, "door": door, "fastapi": fastapi, "service": service}


async def ask(app: ASGIApp, count: int) -> None:
    """Make requests one after the other; raises RuntimeError when one is not answered with 200."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        cycle = Cycle()
        await loop.create_task(app(new_scope(), cycle.receive, cycle.send))  # type: ignore[arg-type]
        if cycle.status != OK or not cycle.complete:
            raise RuntimeError(f"The application answered {cycle.status}, complete: {cycle.complete}.")


def run(app: ASGIApp, count: int) -> None:
    """Make the requests on the event loop that the service runs on."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask(app, count))


if __name__ == "__main__":
    run(APPLICATIONS[sys.argv[1]](), int(sys.argv[2]))
