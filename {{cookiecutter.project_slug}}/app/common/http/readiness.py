"""Whether what the service needs is ready: all checks run at once, none longer than the others."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from app.common.exceptions import ServiceError

Check = Callable[[], Awaitable[None]]
"""Returns when all is well, raises NotReady with a sentence otherwise."""

CHECK_SECONDS: Final = 0.9
"""Below the one second that orchestrators give a probe by default, so that it gets the answer with the cause."""

log = logging.getLogger(__name__)


async def failed_checks(checks: Mapping[str, Check]) -> list[str]:
    """Return a sentence for each that is not ready, its name in front; none: all are."""
    tasks = {name: asyncio.create_task(_cause(name, check)) for name, check in checks.items()}
    try:
        # Not a timeout around each, which would wait for ever for a check that swallows its cancellation.
        _, late = await asyncio.wait(tasks.values(), timeout=CHECK_SECONDS)
    finally:
        for task in tasks.values():
            task.cancel()
    found = [f"{name}: {cause}" for name, task in tasks.items() if (cause := _outcome(task, late))]
    if found:
        log.warning("Not ready: %s", " ".join(found))
    return found


def _outcome(task: asyncio.Task[str], late: set[asyncio.Task[str]]) -> str:
    if task in late:
        return f"It did not answer within {CHECK_SECONDS:g} seconds."
    return "Its check was cancelled, and not by us." if task.cancelled() else task.result()


async def _cause(name: str, check: Check) -> str:
    try:
        await check()
    except ServiceError as error:
        return error.cause
    except (Exception, SystemExit) as error:  # a bad setting raises SystemExit, which would end the worker
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            return error.code.replace("\n", " ")
        log.exception("The readiness check of %s failed", name)
        return "Its check failed; the log says how."
    return ""
