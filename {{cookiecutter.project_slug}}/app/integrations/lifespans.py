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
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI

    Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

START_SECONDS = 10.0
"""So often a start that is not done is logged; how long it may take is for the server to decide."""

LAST_SECONDS = 0.5
"""What a lifespan has left for its own `finally` when it is cancelled."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def kept(app: FastAPI, lifespans: Mapping[str, Lifespan], stop_seconds: float) -> AsyncIterator[None]:
    """Enter the lifespans one after the other, and leave them in reverse order, each in its share of the time left."""
    checks, keepers, failed = app.state.readiness_checks, list[Keeper](), list[str]()
    try:
        for name, lifespan in lifespans.items():
            keepers.append(Keeper(name, lifespan, app))
            await keepers[-1].start()
        yield
    finally:
        end = asyncio.get_running_loop().time() + stop_seconds
        while keepers:
            share = max(0.0, end - asyncio.get_running_loop().time()) / len(keepers)
            if not await (keeper := keepers.pop()).stop(share):
                failed.append(keeper.name)
        app.state.readiness_checks = checks
    if failed:
        raise AlreadyLoggedError(f"The integration {failed[0]} did not stop.")


async def _ended() -> None:
    raise NotReady("It has ended; the log says why.")


class Keeper:
    """Holds one lifespan open."""

    def __init__(self, name: str, lifespan: Lifespan, app: FastAPI) -> None:
        self.name, self.lifespan, self.app = name, lifespan, app
        self.owner = asyncio.current_task()
        self.up, self.stopping = asyncio.get_running_loop().create_future(), asyncio.Event()
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
            self._report("has ended before its time")

    async def start(self) -> None:
        """Wait until the lifespan is entered; raise AlreadyLoggedError if it fails."""
        both, waited = (self.up, self.task), START_SECONDS
        while not (await asyncio.wait(both, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
            log.warning("The integration %s has not started after %.3g seconds; it is waited for", self.name, waited)
            waited += START_SECONDS
        if not self.up.done():
            self._report("did not start")
            raise AlreadyLoggedError(f"The integration {self.name} did not start.")

    async def stop(self, seconds: float) -> bool:
        """Leave the lifespan, or cancel it after so many seconds; tell whether it ended well."""
        self.stopping.set()
        await asyncio.wait({self.task}, timeout=seconds)
        if late := not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=LAST_SECONDS)
        well = not late and self.error is None
        if not well:
            self._report(f"did not stop within {seconds:.3g} seconds, and is cut off" if late else "did not stop")
        return well

    def _report(self, what: str) -> None:
        log.error("The integration %s %s", self.name, what, exc_info=self.error)
        self.error = None  # it is logged once
