"""What a worker does. A function gets SAQ's context, and by name what it was enqueued with."""

import logging
from typing import Any, Final

log = logging.getLogger(__name__)
AGAIN: Final = {"retries": 3, "timeout": 30}  # a worker may die: three attempts, each of 30 seconds


async def demo(ctx: dict[str, Any], *, tree: bool = False) -> None:
    """Enqueue two more, whose parent this one is."""
    log.info("demo")
    for name in ("demo", "demo_in_thread") if tree else ():
        await ctx["worker"].queue.enqueue(name, **AGAIN)


def demo_in_thread(_: dict[str, Any]) -> None:
    """Do what would block the others; the IDs are the same there."""
    log.info("demo in a thread")


WORK: Final[dict[str, Any]] = {"functions": (demo, demo_in_thread), "cron_jobs": ()}
