"""Optional parts, one folder each, found by presence; README.md beside this file says what a folder offers.

Light on purpose: the worker of a task queue imports this package on the way to its own folder, and needs no web
framework and no application.
"""

from __future__ import annotations

import inspect
import logging
import pkgutil
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from app.common.lifespans import kept
from app.settings import read_settings, variable_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from fastapi import FastAPI
    from pydantic_settings import BaseSettings
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp

    from app.settings import Settings

BOOT_ERROR = 3
"""The exit status with which gunicorn gives up (Arbiter.WORKER_BOOT_ERROR); it would replace a worker for ever else."""

log = logging.getLogger(__name__)


class Integration(NamedTuple):
    """What a folder offers."""

    name: str
    install: Callable[[FastAPI, Settings], None]
    wrap: Callable[[ASGIApp, Settings], ASGIApp] | None
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
    integrations = [_load(name) for name in names()]
    for one in integrations:
        if one.settings is not None:
            with starting(one.name):
                read_settings(one.settings)
    return integrations


def settings_classes() -> dict[str, type[BaseSettings]]:
    """Return the classes of settings by the integrations' names; the environment is not read."""
    return {one.name: one.settings for one in map(_load, names()) if one.settings is not None}


def install_integrations(app: FastAPI, settings: Settings, integrations: Sequence[Integration]) -> None:
    """Let every integration add to the application what it has; raise CannotStart where that fails."""
    for integration in integrations:
        known = len(app.routes)
        with starting(integration.name):
            integration.install(app, settings)
            _check_routes(app.routes[known:])
    app.state.readiness_checks = {one.name: one.ready for one in integrations if one.ready is not None}


def _check_routes(routes: Sequence[BaseRoute]) -> None:
    """Raise SystemExit for something mounted at /; told by its attributes, since no web framework is imported here."""
    if any(hasattr(route, "routes") and getattr(route, "path", None) == "" for route in routes):
        raise SystemExit(
            "It mounts something at /, which would answer for the integrations after it and for every path that does "
            "not exist: mount it at a path of its own."
        )


def wrapped(app: ASGIApp, settings: Settings, integrations: Sequence[Integration]) -> ASGIApp | None:
    """Return the application inside of what integrations put around it, the first outermost; None: nobody does."""
    wraps = [(one.name, one.wrap) for one in integrations if one.wrap is not None]
    for name, wrap in reversed(wraps):
        with starting(name):
            app = wrap(app, settings)
            if not callable(app):
                raise SystemExit("Its `wrap` returns no application.")
    return app if wraps else None


def lifespan_of(
    integrations: Sequence[Integration], settings: Settings
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application: that of each integration, entered in order and left in reverse."""
    lifespans = {one.name: one.lifespan for one in integrations if one.lifespan is not None}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log.info("Integrations: %s.", ", ".join(one.name for one in integrations) or "none")
        # Half of it is left for the requests in flight, which end before.
        async with kept(app, lifespans, settings.graceful_timeout / 2):
            yield

    return lifespan


def observe_work(settings: Settings) -> None:
    """Let the integrations watch what a worker of tasks does: each of its processes calls this once, after its fork.

    Only those are imported that define `observe`: a worker needs neither the packages nor the settings of the others.
    """
    for name in names():
        found = find_spec(f"{__name__}.{name}")
        if found and found.origin and "\ndef observe(" in Path(found.origin).read_text("utf-8"):
            with starting(name):
                import_module(found.name).observe(settings)


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


def _load(name: str) -> Integration:
    with starting(name):
        _check_name(name)
        module = import_module(f"{__name__}.{name}")
        _check(module, f"app/integrations/{name}/__init__.py")
        offers = (getattr(module, offer, None) for offer in ("wrap", "lifespan", "ready", "SETTINGS"))
        return Integration(name, module.install, *offers)


def _check_name(name: str) -> None:
    """Raise SystemExit for a folder which, once imported, would stand in the place of what this package is made of."""
    if name in OWN_NAMES:
        raise SystemExit(f"app/integrations needs the name {name} itself: rename the folder app/integrations/{name}.")


def _check(module: ModuleType, where: str) -> None:
    """Raise SystemExit for what is not as README.md beside this file says."""
    wrap, lifespan, ready = (getattr(module, offer, None) for offer in ("wrap", "lifespan", "ready"))
    if not callable(getattr(module, "install", None)):
        raise SystemExit(f"{where} has no `install(app, settings)`: add it, or remove the folder.")
    if wrap is not None and not callable(wrap):
        raise SystemExit(f"{where} has a `wrap` that is no function of an application and the settings.")
    if lifespan is not None and not callable(lifespan):
        raise SystemExit(f"{where} has a `lifespan` that is no function of the application.")
    if ready is not None and not inspect.iscoroutinefunction(ready):
        raise SystemExit(f"{where} has a `ready` that is no `async def ready()`.")
    if (settings := getattr(module, "SETTINGS", None)) is not None:
        _check_defaults(settings, where)


def _check_defaults(settings: type[BaseSettings], where: str) -> None:
    """Raise SystemExit if a start needs a variable: the tests, `make docs` and the very first start have none."""
    needed = [variable_of(settings, name) for name, field in settings.model_fields.items() if field.is_required()]
    if needed:
        raise SystemExit(
            f"{where} has SETTINGS without a default: {', '.join(needed)}. Give each one, None for example, and let "
            "`ready()` tell that it is missing."
        )


OWN_NAMES: Final = frozenset(globals()) | {"server_hooks"}
"""What the import of a folder with this name would replace."""

for _name in names():  # before anything else imports such a folder in the belief that it is ours
    _check_name(_name)
