"""The work behind the demo routes; it logs as any code does and knows nothing of HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator

from app.common.exceptions import ServiceError

log = logging.getLogger(__name__)


async def wait(seconds: float) -> float:
    """Sleep and return the seconds."""
    log.info("waiting for %g seconds", seconds)
    await asyncio.sleep(seconds)
    return seconds


async def count(lines: int, pause: float) -> AsyncIterator[str]:
    """Yield numbered lines with a pause, in seconds, before each."""
    for number in range(1, lines + 1):
        await asyncio.sleep(pause)
        log.info("line %d of %d", number, lines)
        yield f"line {number}\n"


async def clean_up(pause: float) -> None:
    """Stand for work that goes on when the answer is out."""
    await asyncio.sleep(pause)
    log.info("cleaned up")


def refuse() -> str:
    """Stand for work that cannot be done now: raise ServiceError."""
    raise ServiceError("Somebody else is changing this; try again.", status=409, code=4091)


def fail() -> None:
    """Stand for a defect."""
    raise RuntimeError("this is a defect, shown on purpose")
