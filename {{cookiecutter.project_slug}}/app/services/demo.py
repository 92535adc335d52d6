"""Business logic of the demo routes; it uses standard loggers and does not depend on HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator

from app.common.exceptions import ServiceError

log = logging.getLogger(__name__)


async def wait(seconds: float) -> float:
    """Sleep for `seconds` and return them."""
    log.info("waiting for %g seconds", seconds)
    await asyncio.sleep(seconds)
    return seconds


async def count(lines: int, pause: float) -> AsyncIterator[str]:
    """Yield numbered lines, each after a pause in seconds."""
    for number in range(1, lines + 1):
        await asyncio.sleep(pause)
        log.info("line %d of %d", number, lines)
        yield f"line {number}\n"


async def clean_up(pause: float) -> None:
    """Simulate work that continues for `pause` seconds after the response."""
    await asyncio.sleep(pause)
    log.info("cleaned up")


def refuse() -> str:
    """Simulate a conflict: raise ServiceError."""
    raise ServiceError("Another request is changing this resource; try again.", status=409, code=4091)


def fail() -> None:
    """Simulate a defect: raise RuntimeError."""
    raise RuntimeError("this is a defect, shown on purpose")
