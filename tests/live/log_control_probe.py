"""The service with endpoints that log. Tests copy it into the baked project and serve `log_control_probe:app`."""

import asyncio
import logging
import os

from app.common.log_handler import RequestLogHandler
from app.common.response import Response
from app.main import app

__all__ = ["app"]

log = logging.getLogger("probe")
own = RequestLogHandler("own")


@app.get("/lines")
async def write() -> Response[int]:
    """Write two log records; return the PID of the worker."""
    log.info("on the loop")
    await asyncio.to_thread(own.info, "in a thread")
    return Response(result=os.getpid())


@app.get("/flood")
def flood(count: int = 1000, groups: int = 1) -> Response[int]:
    """Write `count` errors, spread over `groups` groups."""
    for number in range(count):
        group = number % groups
        own.error(f"{chr(97 + group % 26)}{chr(97 + group // 26)} %d failed", number)
    return Response(result=os.getpid())
