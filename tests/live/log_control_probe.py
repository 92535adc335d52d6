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
async def write() -> Response[int]:
    """Write two lines, and return which worker it was."""
    log.info("on the loop")
    await asyncio.to_thread(own.info, "in a thread")
    return Response(result=os.getpid())


@app.get("/flood")
def flood(count: int = 1000, kinds: int = 1) -> Response[int]:
    """Write so many errors, of so many kinds in turn."""
    for number in range(count):
        kind = number % kinds
        own.error(f"{chr(97 + kind % 26)}{chr(97 + kind // 26)} %d failed", number)
    return Response(result=os.getpid())
