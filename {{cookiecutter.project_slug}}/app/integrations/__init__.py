"""Optional integrations: every package in this folder is active. README.md here says what an integration provides.

The workers of task queues import this module too, so it imports neither the web framework nor the application.
"""

from __future__ import annotations

import logging
import pkgutil
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from app.environment import read_settings
from app.integrations.lifespans import run_lifespans

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from fastapi import FastAPI
    from pydantic_settings import BaseSettings
    from starlette.types import ASGIApp

    from app.settings import Settings

    Integrations = Mapping[str, ModuleType]
    """The imported integrations by name."""

BOOT_ERROR = 3
"""Exit status of a worker that makes gunicorn exit instead of replacing the worker (Arbiter.WORKER_BOOT_ERROR)."""

log = logging.getLogger(__name__)


class CannotStart(SystemExit):
    """Ends the process, and gunicorn with it. The reason has been logged."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.code = BOOT_ERROR


def integration_names() -> list[str]:
    """Return the names of all integrations (the packages in this folder) in alphabetical order."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if found.ispkg)


def collect(integrations: Integrations, attribute: str) -> dict[str, Any]:
    """Return `attribute` of each integration that defines it, by the integration's name."""
    return {name: getattr(module, attribute) for name, module in integrations.items() if hasattr(module, attribute)}


def import_integrations() -> Integrations:
    """Import every integration; raise CannotStart if an import fails. Settings are read only if a module does so."""
    modules = {}
    for name in integration_names():
        with log_start_failure(name):
            modules[name] = import_module(f"{__name__}.{name}")
    return modules


def load_integrations() -> Integrations:
    """Import every integration and check its settings; raise CannotStart if one fails."""
    integrations = import_integrations()
    for name, kind in collect(integrations, "SETTINGS").items():
        with log_start_failure(name):
            read_settings(kind)
    return integrations


def settings_classes() -> dict[str, type[BaseSettings]]:
    """Return the settings classes by the name of the integration."""
    return collect(import_integrations(), "SETTINGS")


def install_integrations(app: FastAPI, settings: Settings, integrations: Integrations) -> None:
    """Call `install` of every integration and register its readiness check; raise CannotStart if one fails."""
    for name, module in integrations.items():
        with log_start_failure(name):
            module.install(app, settings)
    app.state.readiness_checks = collect(integrations, "ready")


def wrap_app(app: ASGIApp, settings: Settings, integrations: Integrations) -> ASGIApp:
    """Wrap the application in the ASGI middlewares of the integrations; the first integration is the outermost."""
    for name, wrap in reversed(collect(integrations, "wrap").items()):
        with log_start_failure(name):
            app = wrap(app, settings)
    return app


def make_lifespan(
    integrations: Integrations, settings: Settings
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return a lifespan that enters the lifespans of the integrations in order and leaves them in reverse order."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.info("Integrations: %s.", ", ".join(integrations) or "none")
        # The other half of the timeout is for the requests in flight, which finish first.
        async with run_lifespans(app, collect(integrations, "lifespan"), settings.graceful_timeout / 2):
            yield

    return lifespan


@contextmanager
def log_start_failure(name: str) -> Iterator[None]:
    """Log why an integration cannot start, with a traceback only if no sentence can state it, and raise CannotStart."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not error.code:
            raise  # the worker was stopped during its start
        sentence, reason = f"The integration {name} does not start.", _reason(name, error)
        explanation = reason or "The traceback shows the reason."
        log.exception("%s %s", sentence, explanation, exc_info=None if reason else error)
        raise CannotStart(f"{sentence} {reason}".rstrip()) from None


def _reason(name: str, error: BaseException) -> str:
    """Return the reason as a sentence, or "" if only the traceback can show it."""
    if isinstance(error, SystemExit):
        return str(error).replace("\n", " ")
    missing = (isinstance(error, ModuleNotFoundError) and error.name) or "app"
    if missing.partition(".")[0] == "app":
        return ""
    return (
        f"The module {missing} is not installed: run `uv sync`; if pyproject.toml does not list its package, run "
        f"`uv add`; or remove the folder app/integrations/{name}."
    )
