# mypy: ignore-errors
"""Routes that are slow, work in other threads, tasks or after the response, or log."""

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
    """Yield chunks evenly over a time."""
    for number in range(count):
        if number == fail_at:
            raise ArithmeticError("probe stream failure")
        await asyncio.sleep(seconds / count)
        yield CHUNK
    log.info("streamed")


@api.get("/stream")
async def read_stream(seconds: float = 1.2, count: int = 6) -> StreamingResponse:
    """Stream for a while."""
    return StreamingResponse(parts(seconds, count), media_type="text/plain")


@api.get("/stream/broken")
async def read_broken_stream() -> StreamingResponse:
    """Break off in the middle of a stream."""
    return StreamingResponse(parts(0.05, 4, fail_at=2), media_type="text/plain")


@api.get("/wait")
async def read_wait(*, seconds: float = 0.6, tell: bool = False) -> Response[str]:
    """Answer late, and log the beginning if asked to."""
    if tell:
        log.info("waiting")
    await asyncio.sleep(seconds)
    log.info("waited")
    return Response(result="waited")


async def afterwards(seconds: float, message: str, *, fail: bool = False) -> None:
    """Work on after the answer."""
    await asyncio.sleep(seconds)
    log.info(message)
    if fail:
        raise ValueError("probe background failure")


def afterwards_in_thread(message: str) -> None:
    """Work on after the answer, in a thread."""
    log.info(message)


@api.get("/background")
async def read_background(background: BackgroundTasks, *, fail: bool = False) -> Response[str]:
    """Leave two tasks for afterwards."""
    background.add_task(afterwards_in_thread, "in background thread")
    background.add_task(afterwards, 0.5, "in background", fail=fail)
    return Response(result="background")


@api.get("/logging")
async def read_logging() -> Response[str]:
    """Log through loggers without any set-up."""
    plain.info("by plain logger")
    library.warning("by library logger")
    library.getChild("deep").error("by its child", exc_info=ValueError("told by a library"))
    log.info("first line\nsecond line \x1b[31mred\x00")
    return Response(result="logging")
