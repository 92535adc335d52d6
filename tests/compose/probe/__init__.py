"""An integration with endpoints for what the demo does not do: slow responses, streams, echoes, crashes."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

from app.common.log_handler import RequestLogHandler
from app.common.request_id import current_request_id
from app.common.response import Response
from app.settings import Settings
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse, StreamingResponse

logger = RequestLogHandler("probe")


async def slow(seconds: float = 1.0) -> Response[float]:
    logger.info("slow begins")
    await asyncio.sleep(seconds)
    return Response(result=seconds)


def hang() -> Response[str]:
    """Respond after ten minutes; if the same request ID arrives again, respond immediately."""
    logger.info("hangs")
    marker = Path("/tmp", current_request_id())
    if not marker.exists():
        marker.touch()
        time.sleep(600)
    return Response(result="")


async def echo(request: Request) -> Response[list[tuple[str, str]]]:
    """Return the received header lines, and the client and scheme that the application sees."""
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    client = request.client.host if request.client else "-"
    return Response(result=[*pairs, (":client", client), (":scheme", request.url.scheme)])


async def upload(request: Request) -> Response[int]:
    """Return the number of received bytes."""
    return Response(result=sum([len(chunk) async for chunk in request.stream()]))


async def stream(seconds: float) -> StreamingResponse:
    """Stream events, and turn off the proxy's buffering (X-Accel-Buffering)."""

    async def pieces() -> AsyncIterator[str]:
        yield "data: 0\n\n"
        await asyncio.sleep(seconds)

    return StreamingResponse(pieces(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def large() -> PlainTextResponse:
    return PlainTextResponse("x" * 100_000)


async def headers() -> PlainTextResponse:
    """Send a long header, headers that nginx sets as well, and one that nginx would obey (X-Accel-Redirect)."""
    ours = {"X-Long": "x" * 12_000, "X-Frame-Options": "SAMEORIGIN", "Referrer-Policy": "origin", "Retry-After": "7"}
    hidden = {"X-Accel-Redirect": "/livez", "X-Content-Type-Options": "nosniff"}
    return PlainTextResponse("as it was sent", status_code=503, headers=ours | hidden)


async def die() -> None:
    """Kill the worker during a request."""
    logger.info("dies")
    os.kill(os.getpid(), signal.SIGKILL)


async def socket(websocket: WebSocket) -> None:
    """Send the request ID, then echo each text message."""
    await websocket.accept()
    await websocket.send_text(current_request_id())
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def install(app: FastAPI, settings: Settings) -> None:  # noqa: ARG001 - the contract of integrations
    app.get("/probe/slow")(slow)
    app.post("/probe/slow")(slow)
    app.get("/probe/hang")(hang)
    app.post("/probe/hang")(hang)
    app.get("/probe/echo")(echo)
    app.post("/probe/upload")(upload)
    app.get("/probe/stream")(stream)
    app.get("/probe/large")(large)
    app.get("/probe/headers")(headers)
    app.get("/probe/die")(die)
    app.websocket("/probe/socket")(socket)
