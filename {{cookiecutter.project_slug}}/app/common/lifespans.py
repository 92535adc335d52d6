"""What lives as long as the application does: each lifespan in a task of its own, none in the way of another.

In one task for all, a task group that fails in one lifespan would cancel what the others do.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from contextvars import Context
from typing import TYPE_CHECKING

from app.common.exceptions import AlreadyLoggedError, NotReady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

START_SECONDS = 10.0
"""As often a start that is not done is told; how long it may take is for the server to decide."""

LAST_SECONDS = 0.5
"""What a lifespan has left for its own `finally` when it is cut off."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def kept(app: FastAPI, lifespans: Mapping[str, Lifespan], stop_seconds: float) -> AsyncIterator[None]:
    """Enter the lifespans one after the other, and leave them in reverse order, all within `stop_seconds`."""
    checks = app.state.readiness_checks
    keepers: list[Keeper] = []
    try:
        for name, lifespan in lifespans.items():
            keepers.append(Keeper(name, lifespan, app))
            await keepers[-1].start()
        yield
    finally:
        failed = await _stop(keepers, stop_seconds)
        app.state.readiness_checks = checks
    if failed:
        raise AlreadyLoggedError(f"The integration {failed[0]} did not stop.")


async def _stop(keepers: Sequence[Keeper], seconds: float) -> list[str]:
    """Stop them in reverse order, each within its share of the time that is left; return who did not end well."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    shares = range(len(keepers), 0, -1)
    return [one.name for one, n in zip(reversed(keepers), shares, strict=True) if not await one.stop(end, n)]


async def _ended() -> None:
    raise NotReady("It has ended; the log says why.")


class Keeper:
    """Holds one lifespan open."""

    def __init__(self, name: str, lifespan: Lifespan, app: FastAPI) -> None:
        self.name = name
        self.lifespan = lifespan
        self.app = app
        self.owner = asyncio.current_task()
        self.up = asyncio.get_running_loop().create_future()
        self.stopping = asyncio.Event()
        self.error: BaseException | None = None
        # A context that is empty, since a request may be what has started the application.
        self.task = asyncio.create_task(self._keep(), name=f"lifespan of {name}", context=Context())

    async def _keep(self) -> None:
        try:
            async with self.lifespan(self.app):
                self.up.set_result(None)
                await self.stopping.wait()
        except BaseException as error:  # SystemExit as well, which would end the server without a word
            self.error = error
        if isinstance(self.error, asyncio.CancelledError) and self.owner and self.owner.cancelling():
            self.error = None  # the loop is closed by force (Ctrl-C twice), which cancels us all
        elif self.up.done() and not self.stopping.is_set():
            self.app.state.readiness_checks = {**self.app.state.readiness_checks, self.name: _ended}
            self._tell("has ended before its time")

    async def start(self) -> None:
        """Wait until the lifespan is entered; raise AlreadyLoggedError if it fails."""
        began = asyncio.get_running_loop().time()
        both = (self.up, self.task)
        while not (await asyncio.wait(both, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
            seconds = asyncio.get_running_loop().time() - began
            log.warning("The integration %s has not started after %.3g seconds; it is waited for", self.name, seconds)
        if not self.up.done():
            self._tell("did not start")
            raise AlreadyLoggedError(f"The integration {self.name} did not start.")

    async def stop(self, end: float, shares: int) -> bool:
        """Leave the lifespan within its share of the time until `end`, or cut it off; tell whether it ended well."""
        seconds = max(0.0, end - asyncio.get_running_loop().time()) / shares
        self.stopping.set()
        await asyncio.wait({self.task}, timeout=seconds)
        late = not self.task.done()
        if late:
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=LAST_SECONDS)
        well = not late and self.error is None
        if not well:
            self._tell(f"did not stop within {seconds:.3g} seconds, and is cut off" if late else "did not stop")
        return well

    def _tell(self, what: str) -> None:
        log.error("The integration %s %s", self.name, what, exc_info=self.error)
        self.error = None  # it is told once
