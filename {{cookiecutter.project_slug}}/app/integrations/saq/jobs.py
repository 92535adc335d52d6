"""The jobs of a worker. A job function receives SAQ's context, and its arguments by keyword."""

import logging
from typing import Any, Final

log = logging.getLogger(__name__)
RETRY_OPTIONS: Final = {"retries": 3, "timeout": 30}  # three attempts of at most 30 s each: a worker may be killed


async def demo(ctx: dict[str, Any], *, tree: bool = False) -> None:
    """Enqueue two more jobs if this is the `tree`; this job is their parent."""
    log.info("demo")
    for name in ("demo", "demo_in_thread") if tree else ():
        await ctx["worker"].queue.enqueue(name, **RETRY_OPTIONS)


def demo_in_thread(_: dict[str, Any]) -> None:
    """Run in a thread, since the function is not async; its log lines have the IDs of the job, too."""
    log.info("demo in a thread")


JOBS: Final[dict[str, Any]] = {"functions": (demo, demo_in_thread), "cron_jobs": ()}
