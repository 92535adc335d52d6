"""Whether what the service needs is ready: all are asked at once, and none is waited for longer than the others."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from app.common.exceptions import ServiceError

Check = Callable[[], Awaitable[None]]
"""Returns when all is well, raises NotReady with a sentence otherwise."""

# Below the one second that orchestrators give a probe unless told otherwise: it shall get the answer with the cause.
CHECK_SECONDS = 0.9

LATE = "It did not answer within {:g} seconds."

log = logging.getLogger(__name__)


async def ask(checks: Mapping[str, Check]) -> list[str]:
    """Return a sentence for each that is not ready, its name in front; none: all are."""
    tasks = {name: asyncio.create_task(_ask(name, check)) for name, check in checks.items()}
    try:
        # Not a timeout around each, which would wait for a check that does not heed its cancellation.
        _, late = await asyncio.wait(tasks.values(), timeout=CHECK_SECONDS)
    finally:
        for task in tasks.values():
            task.cancel()
    for task in late:
        _let_go(task)
    causes = {name: LATE.format(CHECK_SECONDS) if task in late else _cause(task) for name, task in tasks.items()}
    found = [f"{name}: {cause}" for name, cause in causes.items() if cause]
    if found:
        log.warning("Not ready: %s", " ".join(found))
    return found


def _let_go(task: asyncio.Task[str]) -> None:
    """Leave a check alone that may not heed its cancellation: the loop's end waits for every task that it knows."""
    asyncio._unregister_task(task)  # noqa: SLF001 - documented
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - what gather() does


async def _ask(name: str, check: Check) -> str:
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


def _cause(task: asyncio.Task[str]) -> str:
    return "Its check was cancelled, and not by us." if task.cancelled() else task.result()
