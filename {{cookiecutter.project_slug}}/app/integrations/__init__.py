"""Optional parts, one folder each, found by presence; README.md beside this file says what a folder offers.

Light on purpose: the worker of a task queue imports this package on the way to its own folder, and needs no web
framework and no application.
"""

from __future__ import annotations

import inspect
import logging
import pkgutil
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from app.common.exceptions import AlreadyLoggedError
from app.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI
    from pydantic_settings import BaseSettings

    from app.settings import Settings

BOOT_ERROR = 3
"""The exit status with which gunicorn gives up (Arbiter.WORKER_BOOT_ERROR); it would replace a worker for ever else."""

log = logging.getLogger(__name__)


class Integration(NamedTuple):
    """What a folder offers."""

    name: str
    install: Callable[[FastAPI, Settings], None]
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None
    ready: Callable[[], Awaitable[None]] | None
    settings: type[BaseSettings] | None


class CannotStart(SystemExit):
    """Ends the process, and gunicorn with it; the log says why already."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = BOOT_ERROR


def names() -> list[str]:
    """Return the names of the integrations in their order: of the folders here that are packages."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)


def load_integrations() -> list[Integration]:
    """Import every integration and check its settings; raise CannotStart where that fails."""
    return [_load(name) for name in names()]


def install_integrations(app: FastAPI, settings: Settings, integrations: Sequence[Integration]) -> None:
    """Let every integration add to the application what it has; raise CannotStart where that fails."""
    for integration in integrations:
        with starting(integration.name):
            integration.install(app, settings)
    app.state.readiness_checks = {one.name: one.ready for one in integrations if one.ready is not None}


def lifespan_of(integrations: Sequence[Integration]) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application: that of each integration, entered in order and left in reverse."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.info("Integrations: %s.", ", ".join(one.name for one in integrations) or "none")
        async with AsyncExitStack() as stack:
            for one in integrations:
                if one.lifespan is not None:
                    with _named(one.name, "start"):
                        manager = one.lifespan(app)
                        await manager.__aenter__()
                    stack.push_async_callback(_leave, one.name, manager)
            yield

    return lifespan


async def _leave(name: str, manager: AbstractAsyncContextManager[None]) -> None:
    with _named(name, "stop"):
        await manager.__aexit__(None, None, None)  # in order, even if another has failed: they do not know each other


@contextmanager
def _named(name: str, step: str) -> Iterator[None]:
    """Log the error of a lifespan, once and under the integration's name."""
    try:
        yield
    except Exception:
        log.exception("The integration %s did not %s", name, step)
        raise AlreadyLoggedError(f"The integration {name} did not {step}.") from None


@contextmanager
def starting(name: str) -> Iterator[None]:
    """Log what keeps an integration from its start, once and in a sentence where there is one; raise CannotStart."""
    try:
        yield
    except (Exception, SystemExit) as error:
        sentence, reason = f"The integration {name} does not start.", _reason(name, error)
        log.exception("%s %s", sentence, reason or "This is why:", exc_info=None if reason else error)
        raise CannotStart(f"{sentence} {reason}".rstrip()) from None


def _reason(name: str, error: BaseException) -> str:
    """Return what an error says in a sentence; nothing where only the traceback tells it."""
    if isinstance(error, SystemExit):
        return str(error).replace("\n", " ")
    missing = (isinstance(error, ModuleNotFoundError) and error.name) or "app"
    if missing.partition(".")[0] == "app":
        return ""
    return (
        f"It needs {missing}, which is not installed: run `uv sync`, or `uv add` its package where pyproject.toml does "
        f"not name it, or remove the folder app/integrations/{name}."
    )


def _load(name: str) -> Integration:
    with starting(name):
        module = import_module(f"{__name__}.{name}")
        install, lifespan, ready, settings = (
            getattr(module, offer, None) for offer in ("install", "lifespan", "ready", "SETTINGS")
        )
        where = f"app/integrations/{name}/__init__.py"
        if not callable(install):
            raise SystemExit(f"{where} has no `install(app, settings)`: add it, or remove the folder.")
        if lifespan is not None and not callable(lifespan):
            raise SystemExit(f"{where} has a `lifespan` that is no function of the application.")
        if ready is not None and not inspect.iscoroutinefunction(ready):
            raise SystemExit(f"{where} has a `ready` that is no `async def ready()`.")
        if settings is not None:
            read_settings(settings)
        return Integration(name, install, lifespan, ready, settings)
