"""Readiness checks: all run concurrently, with one timeout for all of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from app.common.exceptions import ServiceError

Check = Callable[[], Awaitable[None]]
"""A check returns if the dependency is ready, and raises `NotReady` with a sentence if not."""

CHECK_SECONDS: Final = 0.9
"""Below the default probe timeout of orchestrators (one second), so that the probe receives the cause."""

log = logging.getLogger(__name__)


async def failed_checks(checks: Mapping[str, Check]) -> list[str]:
    """Run all checks; return a sentence for each one that failed, starting with its name."""
    tasks = {name: asyncio.create_task(_run_check(name, check)) for name, check in checks.items()}
    try:
        # No asyncio.timeout() around each check: it would wait forever for a check that ignores its cancellation.
        _, late = await asyncio.wait(tasks.values(), timeout=CHECK_SECONDS)
    finally:
        for task in tasks.values():
            task.cancel()
    causes = [f"{name}: {cause}" for name, task in tasks.items() if (cause := _cause_of(task, late))]
    if causes:
        log.warning("Not ready: %s", " ".join(causes))
    return causes


def _cause_of(task: asyncio.Task[str], late: set[asyncio.Task[str]]) -> str:
    if task in late:
        return f"The check timed out after {CHECK_SECONDS:g} seconds."
    return "The check was cancelled before the timeout." if task.cancelled() else task.result()


async def _run_check(name: str, check: Check) -> str:
    try:
        await check()
    except ServiceError as error:
        return error.cause
    except (Exception, SystemExit) as error:  # an invalid setting raises SystemExit, which would end the worker
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            return error.code.replace("\n", " ")
        log.exception("The readiness check of %s failed", name)
        return "The check failed; the log has the traceback."
    return ""
