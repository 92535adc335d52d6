"""The service with endpoints that log; copied into the baked project, served as `log_control_probe:app`."""

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
async def write(fail: bool = False) -> Response[int]:
    """Write two lines, and an error if that is wanted; tell which worker it was."""
    log.info("on the loop")
    await asyncio.to_thread(own.info, "in a thread")
    if fail:
        own.error("an error")
    return Response(result=os.getpid())


@app.get("/flood")
def flood(count: int = 1000, kind: str = "order") -> Response[int]:
    """Write so many errors of one kind."""
    for number in range(count):
        own.error(f"{kind} %d failed", number)
    return Response(result=os.getpid())
