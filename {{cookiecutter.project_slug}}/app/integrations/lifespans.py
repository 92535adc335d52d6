"""Run the lifespan of each integration in a separate task, so that one cannot affect another.

If they shared a task, a task group that fails in one lifespan would cancel the others.
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

START_WARNING_SECONDS = 10.0
"""Interval of the warnings about a lifespan that is still starting. Only the server limits the time of the start."""

CANCEL_SECONDS = 0.5
"""Time that a cancelled lifespan has for its `finally` blocks."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def run_lifespans(app: FastAPI, lifespans: Mapping[str, Lifespan], stop_seconds: float) -> AsyncIterator[None]:
    """Enter the lifespans in order, and leave them in reverse order; each gets an equal share of the remaining time."""
    checks, running, failed = app.state.readiness_checks, list[LifespanTask](), list[str]()
    try:
        for name, lifespan in lifespans.items():
            running.append(LifespanTask(name, lifespan, app))
            await running[-1].start()
        yield
    finally:
        end = asyncio.get_running_loop().time() + stop_seconds
        while running:
            share = max(0.0, end - asyncio.get_running_loop().time()) / len(running)
            if not await (last := running.pop()).stop(share):
                failed.append(last.name)
        app.state.readiness_checks = checks
    if failed:
        raise AlreadyLoggedError(f"The integration {failed[0]} did not stop.")


async def _fail_check() -> None:
    raise NotReady("Its background work ended unexpectedly: see the log and restart the service.")


class LifespanTask:
    """A task that enters one lifespan, and leaves it when `stop` is called."""

    def __init__(self, name: str, lifespan: Lifespan, app: FastAPI) -> None:
        self.name, self.lifespan, self.app = name, lifespan, app
        self.owner = asyncio.current_task()
        self.started, self.stopping = asyncio.get_running_loop().create_future(), asyncio.Event()
        self.error: BaseException | None = None
        # An empty context: if a request starts the application, the lifespan must not have the ID of that request.
        self.task = asyncio.create_task(self._run(), name=f"lifespan of {name}", context=Context())

    async def _run(self) -> None:
        try:
            async with self.lifespan(self.app):
                self.started.set_result(None)
                await self.stopping.wait()
        except BaseException as error:  # including SystemExit, which would end the server silently
            self.error = error
        if isinstance(self.error, asyncio.CancelledError) and self.owner and self.owner.cancelling():
            self.error = None  # the server was forced to exit (Ctrl-C twice), which cancels all tasks
        elif self.started.done() and not self.stopping.is_set():
            self.app.state.readiness_checks = {**self.app.state.readiness_checks, self.name: _fail_check}
            self._report("ended unexpectedly")

    async def start(self) -> None:
        """Wait until the lifespan has started; raise AlreadyLoggedError if it fails."""
        both, waited = (self.started, self.task), START_WARNING_SECONDS
        while not (await asyncio.wait(both, timeout=START_WARNING_SECONDS, return_when=asyncio.FIRST_COMPLETED))[0]:
            log.warning("The integration %s has not started after %.3g seconds; still waiting", self.name, waited)
            waited += START_WARNING_SECONDS
        if not self.started.done():
            self._report("did not start")
            raise AlreadyLoggedError(f"The integration {self.name} did not start.")

    async def stop(self, seconds: float) -> bool:
        """Leave the lifespan, or cancel it after `seconds`; return whether it ended without an error."""
        self.stopping.set()
        await asyncio.wait({self.task}, timeout=seconds)
        if late := not self.task.done():
            self.task.cancel()
            await asyncio.wait({self.task}, timeout=CANCEL_SECONDS)
        well = not late and self.error is None
        if not well:
            self._report(f"did not stop within {seconds:.3g} seconds and was cancelled" if late else "did not stop")
        return well

    def _report(self, what: str) -> None:
        log.error("The integration %s %s", self.name, what, exc_info=self.error)
        self.error = None  # an error is logged once
