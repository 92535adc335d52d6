"""Optional parts, one folder each, found by presence; README.md beside this file says what a folder offers.

Light on purpose: the worker of a task queue imports this package on the way to its own folder, and needs no web
framework and no application.
"""

from __future__ import annotations

import logging
import pkgutil
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from app.environment import read_settings
from app.integrations.lifespans import kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from fastapi import FastAPI
    from pydantic_settings import BaseSettings
    from starlette.types import ASGIApp

    from app.settings import Settings

    Integrations = Mapping[str, ModuleType]
    """The modules of the folders by their names."""

BOOT_ERROR = 3
"""The exit status with which gunicorn gives up (Arbiter.WORKER_BOOT_ERROR); after any other it replaces the worker."""

log = logging.getLogger(__name__)


class CannotStart(SystemExit):
    """Ends the process, and gunicorn with it; the log says why already."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = BOOT_ERROR


def names() -> list[str]:
    """Return the names of the integrations in their order: of the folders here that are packages."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)


def offers(integrations: Integrations, what: str) -> dict[str, Any]:
    """Return what the integrations offer under the name `what`, by their own names."""
    return {name: getattr(module, what) for name, module in integrations.items() if hasattr(module, what)}


def import_integrations() -> Integrations:
    """Import every integration; raise CannotStart where that fails. Nothing but the import reads the environment."""
    modules = {}
    for name in names():
        with starting(name):
            modules[name] = import_module(f"{__name__}.{name}")
    return modules


def load_integrations() -> Integrations:
    """Import every integration and check its settings; raise CannotStart where that fails."""
    integrations = import_integrations()
    for name, kind in offers(integrations, "SETTINGS").items():
        with starting(name):
            read_settings(kind)
    return integrations


def settings_classes() -> dict[str, type[BaseSettings]]:
    """Return the classes of settings by the integrations' names."""
    return offers(import_integrations(), "SETTINGS")


def install_integrations(app: FastAPI, settings: Settings, integrations: Integrations) -> None:
    """Let every integration add to the application what it has; raise CannotStart where that fails."""
    for name, module in integrations.items():
        with starting(name):
            module.install(app, settings)
    app.state.readiness_checks = offers(integrations, "ready")


def wrapped(app: ASGIApp, settings: Settings, integrations: Integrations) -> ASGIApp:
    """Return the application inside of what integrations put around it, the first outermost."""
    for name, wrap in reversed(offers(integrations, "wrap").items()):
        with starting(name):
            app = wrap(app, settings)
    return app


def lifespan_of(
    integrations: Integrations, settings: Settings
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application: that of each integration, entered in order and left in reverse."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.info("Integrations: %s.", ", ".join(integrations) or "none")
        # Half of it is left for the requests in flight, which end before.
        async with kept(app, offers(integrations, "lifespan"), settings.graceful_timeout / 2):
            yield

    return lifespan


@contextmanager
def starting(name: str) -> Iterator[None]:
    """Log what keeps an integration from its start, once and in a sentence where there is one; raise CannotStart."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:
            raise  # a worker that is told to end while it starts
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
