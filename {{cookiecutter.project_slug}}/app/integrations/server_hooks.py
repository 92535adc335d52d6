"""gunicorn's server hooks: calls those of gun.py, then the functions in the server.py of each integration.

A server.py runs without its package, so that gunicorn's master does not import what only workers need.
"""

import logging
import sys
from collections.abc import Callable
from functools import partial, wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Final

from gunicorn.config import make_settings

import app.integrations as package
from app.integrations import BOOT_ERROR, integration_names, log_start_failure

Hook = Callable[..., None]

STARTUP_HOOKS: Final = frozenset({"on_starting", "when_ready", "post_fork", "post_worker_init"})
"""Hooks that run before requests are served: a failure aborts the start. A failure in any other is only logged."""

log = logging.getLogger("gunicorn.error")

_loaded: list[dict[str, dict[str, Any]]] = []
"""The names that each server.py defines, from the last time when all were loaded without an error."""


def load_hooks() -> None:
    """Load every server.py; if that fails in a reload (SIGHUP), log the error and keep the previous hooks."""
    try:
        _loaded[:] = [{name: _load(name) for name in integration_names()}]
    except SystemExit:
        if not _loaded:
            raise
        log.error("The previous hooks of the integrations stay in effect.")  # noqa: TRY400 - the reason is logged


def _load(integration: str) -> dict[str, Any]:
    path = Path(package.__path__[0]) / integration / "server.py"
    spec = spec_from_file_location(f"server_hooks_of_{integration}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        return {}
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    with log_start_failure(integration):
        spec.loader.exec_module(module)
    return vars(module)


def chain_hooks(name: str, *own: Hook) -> Hook:
    """Return gunicorn's server hook `name`: it calls `own`, then the integrations' hooks in alphabetical order."""
    theirs = [partial(_call, one, name, content[name]) for one, content in _loaded[0].items() if name in content]
    hooks: list[Hook] = [*own, *theirs]
    default: Any = make_settings()[name].default

    @wraps(default)  # gunicorn checks the number of parameters
    def call(*arguments: object) -> None:
        for hook in hooks:
            hook(*arguments)

    return call


def _call(integration: str, name: str, hook: Hook, *arguments: Any) -> None:  # noqa: ANN401 - gunicorn's
    """Call a hook and log its failure; exit only if it is one of `STARTUP_HOOKS`."""
    try:
        hook(*arguments)
    except (Exception, SystemExit) as error:  # either would end gunicorn's main loop
        if isinstance(error, SystemExit) and not error.code:
            raise  # the worker was stopped during the hook
        log.exception("The integration %s failed in %s", integration, name)
        if name in STARTUP_HOOKS:
            if hasattr(arguments[-1], "handle_boot_failure"):  # in a worker: gunicorn may try again
                arguments[-1].handle_boot_failure()
            raise SystemExit(BOOT_ERROR) from None
