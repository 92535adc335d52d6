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
    causes = await asyncio.gather(*(_cause(name, check) for name, check in checks.items()))
    found = [f"{name}: {cause}" for name, cause in zip(checks, causes, strict=True) if cause]
    if found:
        log.warning("Not ready: %s", " ".join(found))
    return found


async def _cause(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except ServiceError as error:
        return error.cause
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            raise  # the request is over
        return "Its check was cancelled, and not by us."
    except TimeoutError:
        return f"It did not answer within {CHECK_SECONDS:g} seconds."
    except (Exception, SystemExit) as error:  # a bad setting raises SystemExit, which would end the worker
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            return error.code.replace("\n", " ")
        log.exception("The readiness check of %s failed", name)
        return "Its check failed; the log says how."
    return ""
