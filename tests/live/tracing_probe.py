"""An integration for the live tests: an endpoint that calls where it is told to, as the W3C's own suite asks for.

It is copied into the baked project as `app/integrations/tracing_probe/__init__.py`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

from app.common.outbound import outbound_async_client
from app.settings import Settings, get_settings
from fastapi import APIRouter, FastAPI, WebSocket
from opentelemetry import trace
from starlette.responses import StreamingResponse

log = logging.getLogger(__name__)
router = APIRouter(prefix="/probe")


@router.post("/test")
async def call(calls: list[dict[str, Any]]) -> str:
    """Send each of the calls, one after the other: `url`, and `arguments` as its body."""
    async with outbound_async_client(get_settings()) as client:
        for one in calls:
            await client.post(one["url"], json=one["arguments"])
    return "called"


@router.get("/item/{number}")
async def item(number: int) -> int:
    """Have a span of one's own."""
    with trace.get_tracer("probe").start_as_current_span("own"):
        log.info("item")
    return number


@router.get("/stream")
async def stream() -> StreamingResponse:
    """Send the last byte inside of a span of one's own, half a second after the first."""

    async def chunks() -> AsyncIterator[bytes]:
        with trace.get_tracer("probe").start_as_current_span("own"):
            yield b"first"
            await asyncio.sleep(0.5)
            log.info("streaming")
            yield b"last"

    return StreamingResponse(chunks())


@router.get("/slow")
async def slow() -> None:
    """Take longer than a server that stops waits."""
    await asyncio.sleep(30)


@router.get("/fails")
async def fails(token: str = "") -> None:
    """Fail with a secret at hand."""
    log.info("about to fail with %d characters", len(token))
    raise ValueError("password=hunter2")


@router.websocket("/echo/{name}")
async def echo(socket: WebSocket, name: str) -> None:
    """Answer one message."""
    await socket.accept()
    log.info("socket of %s", name)
    await socket.send_text(await socket.receive_text())
    await socket.close()


def install(service: FastAPI, _settings: Settings) -> None:
    """Add the endpoints."""
    service.include_router(router)
