"""What integrations do in gunicorn itself: the functions of their server.py, which gun.py calls beside its own.

A server.py is run without the package around it, so that gunicorn's master never imports what only workers need.
"""

import inspect
import logging
import sys
from collections.abc import Callable
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from inspect import Parameter, Signature
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from gunicorn.util import get_arity

import app.integrations as package
from app import settings
from app.integrations import BOOT_ERROR, CannotStart, names, starting

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

_last_good: list[dict[str, dict[str, Hook]]] = []
"""The hooks of each integration, as they were loaded last without a fault."""


def with_hooks_of_integrations(**own: Hook) -> dict[str, Hook]:
    """Return gunicorn's server hooks: `own` first, then those of the integrations in their order."""
    calls = {name: [hook] for name, hook in own.items()}
    for integration, hooks in _load().items():
        for name, hook in hooks.items():
            calls.setdefault(name, []).append(_guarded(integration, name, hook))
    return {name: _in_turn(name, hooks) for name, hooks in calls.items()}


def _load() -> dict[str, dict[str, Hook]]:
    """Return the hooks of each integration; where a server runs already (SIGHUP), a fault is told, and they stay."""
    try:
        _last_good[:] = [{integration: _hooks_of(integration) for integration in names()}]
    except SystemExit as error:
        if not (settings._in_force and _last_good):  # noqa: SLF001 - held since the server runs
            raise
        reason = "" if isinstance(error, CannotStart) else f" {error}"  # the log has it already
        log.error("The hooks of the integrations stay as they were.%s", reason)  # noqa: TRY400
    return _last_good[0]


def _hooks_of(integration: str) -> dict[str, Hook]:
    """Run the integration's server.py, if it has one, and return its hooks."""
    found: dict[str, Any] = {}
    for path in [Path(folder) / integration / "server.py" for folder in package.__path__]:
        spec = spec_from_file_location(f"server_hooks_of_{integration}", path)
        if path.is_file() and spec and spec.loader:
            module = module_from_spec(spec)
            sys.modules[spec.name] = module  # a dataclass looks for its module there
            with starting(integration):
                spec.loader.exec_module(module)
            found = vars(module)
    hooks = {name: value for name, value in found.items() if name in HOOKS or _is_public_function(name, value, found)}
    for name, hook in hooks.items():
        _check(f"app/integrations/{integration}/server.py", name, hook)
    return hooks


def _is_public_function(name: str, value: object, found: dict[str, Any]) -> bool:
    is_its_own = isinstance(value, FunctionType) and value.__module__ == found["__name__"]
    return is_its_own and not name.startswith("_")


def _check(where: str, name: str, hook: Hook) -> None:
    """Raise SystemExit for a function that gunicorn would never call, or not like that."""
    if name not in HOOKS:
        raise SystemExit(
            f"{where} has a function {name}, and gunicorn would never call it: it knows {', '.join(HOOKS)}. If it is a "
            "helper, begin its name with an underscore."
        )
    if not callable(hook):
        raise SystemExit(f"In {where}, {name} is no function, and gunicorn would call it.")
    if inspect.iscoroutinefunction(hook):
        raise SystemExit(f"In {where}, {name} is an `async def`, and gunicorn would not await it: write `def {name}`.")
    try:
        inspect.signature(hook).bind(*range(HOOKS[name]))
    except TypeError:
        takes = f"{name} takes {get_arity(hook)} arguments"
        raise SystemExit(f"In {where}, {takes}, and gunicorn gives it {HOOKS[name]}.") from None


def _guarded(integration: str, name: str, hook: Hook) -> Hook:
    """Return the hook, which logs its failure, and ends the start only where it must work."""

    @wraps(hook)
    def call(*arguments: object) -> None:
        try:
            hook(*arguments)
        except (Exception, SystemExit) as error:  # gunicorn's main loop would end with either
            if isinstance(error, SystemExit) and not error.code:
                raise  # a worker that was told to leave in the midst of its hook
            log.exception("The integration %s failed in %s", integration, name)
            if name in MUST_WORK:
                _give_up(arguments[-1])

    return call


def _give_up(server_or_worker: object) -> None:
    """End the start: of the service, or of a worker that only replaces another (app/common/workers.py)."""
    if hasattr(server_or_worker, "give_up"):
        server_or_worker.give_up()
    raise SystemExit(BOOT_ERROR) from None


def _in_turn(name: str, hooks: list[Hook]) -> Hook:
    def call(*arguments: object) -> None:
        for hook in hooks:
            hook(*arguments)

    # gunicorn looks at the number of arguments.
    parameters = [Parameter(f"argument_{number}", Parameter.POSITIONAL_ONLY) for number in range(HOOKS[name])]
    call.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return call
