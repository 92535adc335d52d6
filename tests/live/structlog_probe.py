"""The service with an endpoint that binds a value; copied into the baked project, served as `structlog_probe:app`."""

import asyncio
import logging

import structlog
from app.common.response import Response
from app.main import app
from structlog.contextvars import bind_contextvars, get_contextvars

__all__ = ["app"]

log = structlog.get_logger("bound")


@app.get("/bound/{number}")
async def bind(number: int) -> Response[int]:
    """Bind a number, and write a line by each of the two."""
    found = len(get_contextvars())
    bind_contextvars(number=number)
    await asyncio.sleep(0.001)
    log.info("by structlog", found=found)
    await asyncio.to_thread(logging.getLogger("plain").info, "by logging")
    return Response(result=number)
