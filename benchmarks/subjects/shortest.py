"""Minimal version of the same features: FastAPI, a random ID in a header, one `os.write` per access log line.

It ignores the client's ID, escapes nothing, enforces no limits, and does not pass the line through `logging`.
"""

import os
import time
from contextvars import ContextVar

from envelope import Envelope
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

request_id: ContextVar[str] = ContextVar("request_id")
log = os.open(os.environ["ACCESS_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


class Clock:
    """The current time as text; formatted once per second."""

    second = 0
    text = ""

    def now(self) -> str:
        """Return the time, e.g. `2026-11-25 14:00:00,123`."""
        moment = time.time()
        second = int(moment)
        if second != self.second:
            self.second, self.text = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self.text},{int((moment - second) * 1000):03d}"


clock = Clock()


class Shortest:
    """Creates the ID, adds the response header and writes the access log line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, own, status = time.perf_counter(), os.urandom(16).hex(), 0
        request_id.set(own)

        async def with_header(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", own.encode()))
            await send(message)

        await self.app(scope, receive, with_header)
        host, port = scope["client"]
        line = (
            f"[{clock.now()}] {own} {status} {time.perf_counter() - began:.3f}s {host}:{port} - "
            f'"{scope["method"]} {scope["path"]} HTTP/{scope["http_version"]}"\n'
        )
        os.write(log, line.encode())


app = FastAPI(openapi_url=None)  # without the routes of the API documentation before `/api/bench`


@app.get("/api/bench")
async def bench() -> Envelope:
    """Return the envelope with the ID."""
    return Envelope(request_id=request_id.get(), result="demo")


app.add_middleware(Shortest)
