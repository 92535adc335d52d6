"""What integrations do in gunicorn itself: the functions of their server.py, which gun.py calls beside its own.

A server.py is run without the package around it, so that gunicorn's master never imports what only workers need.
"""

import logging
from collections.abc import Callable
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from gunicorn.util import get_arity

import app.integrations as package
from app.integrations import BOOT_ERROR, names, starting

Hook = Callable[..., None]

HOOKS: Final = {
    "on_starting": 1,
    "on_reload": 1,
    "when_ready": 1,
    "pre_fork": 2,
    "post_fork": 2,
    "post_worker_init": 1,
    "child_exit": 2,
    "worker_exit": 2,
    "nworkers_changed": 3,
    "pre_exec": 1,
    "on_exit": 1,
}
"""gunicorn's server hooks and how many arguments they get; without those that our worker never calls."""

MUST_WORK: Final = frozenset({"on_starting", "when_ready", "post_fork", "post_worker_init"})
"""Before these are done nothing is served: one that fails ends the start. Any other must not end what is served."""

log = logging.getLogger("gunicorn.error")


def with_hooks_of_integrations(**own: Hook) -> dict[str, Hook]:
    """Return gunicorn's server hooks: `own` first, then those of the integrations in their order."""
    calls = {name: [hook] for name, hook in own.items()}
    for integration in names():
        for name, hook in _hooks_of(integration).items():
            calls.setdefault(name, []).append(_guarded(integration, name, hook))
    return {name: _in_turn(hooks) for name, hooks in calls.items()}


def _hooks_of(integration: str) -> dict[str, Hook]:
    """Run the integration's server.py, if it has one, and return its hooks."""
    found: dict[str, Any] = {}
    for path in [Path(folder) / integration / "server.py" for folder in package.__path__]:
        spec = spec_from_file_location(f"server_hooks_of_{integration}", path)
        if path.is_file() and spec and spec.loader:
            module = module_from_spec(spec)
            with starting(integration):
                spec.loader.exec_module(module)
            found = vars(module)
    hooks = {name: value for name, value in found.items() if name in HOOKS or _is_public_function(name, value, found)}
    for name, hook in hooks.items():
        _check(integration, name, hook)
    return hooks


def _is_public_function(name: str, value: object, found: dict[str, Any]) -> bool:
    is_its_own = isinstance(value, FunctionType) and value.__module__ == found["__name__"]
    return is_its_own and not name.startswith("_")


def _check(integration: str, name: str, hook: Hook) -> None:
    """Raise SystemExit for a function that gunicorn would never call, or not like that."""
    where = f"app/integrations/{integration}/server.py"
    if name not in HOOKS:
        raise SystemExit(
            f"{where} has a function {name}, and gunicorn would never call it: it knows {', '.join(HOOKS)}. If it is a "
            "helper, begin its name with an underscore."
        )
    if get_arity(hook) != HOOKS[name]:
        raise SystemExit(f"In {where}, {name} takes {get_arity(hook)} arguments, and gunicorn gives it {HOOKS[name]}.")


def _guarded(integration: str, name: str, hook: Hook) -> Hook:
    """Return the hook, which logs its failure, and ends the start only where it must work."""

    @wraps(hook)
    def call(*arguments: object) -> None:
        try:
            hook(*arguments)
        except (Exception, SystemExit):  # gunicorn's main loop would end with either
            log.exception("The integration %s failed in %s", integration, name)
            if name in MUST_WORK:
                raise SystemExit(BOOT_ERROR) from None

    return call


def _in_turn(hooks: list[Hook]) -> Hook:
    @wraps(hooks[0])  # gunicorn looks at the number of arguments
    def call(*arguments: object) -> None:
        for hook in hooks:
            hook(*arguments)

    return call
