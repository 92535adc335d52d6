# mypy: ignore-errors
"""Routes that are slow, that log, or that work in threads, in tasks or after the response."""

import asyncio
import logging
from collections.abc import AsyncIterator

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from fastapi import APIRouter, BackgroundTasks
from fastapi.responses import StreamingResponse

CHUNK = b"x" * 999 + b"\n"
log = RequestLogHandler("probe")
plain = logging.getLogger("plain")
library = logging.getLogger("third.party.library")
api = APIRouter(prefix="/probe")


async def parts(seconds: float, count: int, fail_at: int = -1) -> AsyncIterator[bytes]:
    """Yield `count` chunks, evenly spread over `seconds`."""
    for number in range(count):
        if number == fail_at:
            raise ArithmeticError("probe stream failure")
        await asyncio.sleep(seconds / count)
        yield CHUNK
    log.info("streamed")


@api.get("/stream")
async def read_stream(seconds: float = 1.2, count: int = 6) -> StreamingResponse:
    """Stream a response for `seconds`."""
    return StreamingResponse(parts(seconds, count), media_type="text/plain")


@api.get("/stream/broken")
async def read_broken_stream() -> StreamingResponse:
    """Raise an error in the middle of a stream."""
    return StreamingResponse(parts(0.05, 4, fail_at=2), media_type="text/plain")


@api.get("/wait")
async def read_wait(*, seconds: float = 0.6, log_start: bool = False) -> Response[str]:
    """Respond after `seconds`; with `log_start`, log before the wait too."""
    if log_start:
        log.info("waiting")
    await asyncio.sleep(seconds)
    log.info("waited")
    return Response(result="waited")


async def afterwards(seconds: float, message: str, *, fail: bool = False) -> None:
    """Work on after the response."""
    await asyncio.sleep(seconds)
    log.info(message)
    if fail:
        raise ValueError("probe background failure")


def afterwards_in_thread(message: str) -> None:
    """Work on after the response, in a thread."""
    log.info(message)


@api.get("/background")
async def read_background(background: BackgroundTasks, *, fail: bool = False) -> Response[str]:
    """Add two background tasks."""
    background.add_task(afterwards_in_thread, "in background thread")
    background.add_task(afterwards, 0.5, "in background", fail=fail)
    return Response(result="background")


@api.get("/logging")
async def read_logging() -> Response[str]:
    """Log through loggers that are not configured by the service."""
    plain.info("by plain logger")
    library.warning("by library logger")
    library.getChild("deep").error("by its child", exc_info=ValueError("raised by a library"))
    log.info("first line\nsecond line \x1b[31mred\x00")
    return Response(result="logging")
