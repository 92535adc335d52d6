"""The probe application with routes that cause faults.

It is copied into the baked project and served as `faults_probe:app`.
"""

from __future__ import annotations

import asyncio
import os
import time

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from probe import app

log = RequestLogHandler("faults")
api = APIRouter(prefix="/faults")


@api.get("/pid")
async def read_pid() -> Response[int]:
    """Return the PID of the worker."""
    return Response(result=os.getpid())


@api.get("/block")
async def read_block(seconds: float = 30.0) -> Response[str]:
    """Block the event loop."""
    time.sleep(seconds)  # noqa: ASYNC251
    return Response(result="unblocked")


@api.post("/lazy")
async def read_lazy(request: Request, seconds: float = 2.5) -> Response[int]:
    """Read the body late."""
    await asyncio.sleep(seconds)
    return Response(result=len(await request.body()))


@api.get("/large")
async def read_large() -> StreamingResponse:
    """Send a response that is larger than the socket buffers."""
    return StreamingResponse(("x" * 65536 for _ in range(250)), media_type="text/plain")


@api.get("/long/{letter}")
async def read_long(letter: str, size: int = 6000) -> Response[str]:
    """Log a long message."""
    log.info(letter * size)
    return Response(result=letter)


app.include_router(api)
