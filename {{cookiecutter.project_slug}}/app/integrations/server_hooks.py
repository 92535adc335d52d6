"""What integrations do in gunicorn itself: the functions of their server.py, called after what gun.py does.

A server.py is run without the package around it, so that gunicorn's master never imports what only workers need.
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
from app.integrations import BOOT_ERROR, names, starting

Hook = Callable[..., None]

MUST_WORK: Final = frozenset({"on_starting", "when_ready", "post_fork", "post_worker_init"})
"""Before these are done nothing is served: one that fails ends the start. Any other must not end what is served."""

log = logging.getLogger("gunicorn.error")

_loaded: list[dict[str, dict[str, Any]]] = []
"""The content of each integration's server.py, as it was loaded last without a fault."""


def load_hooks() -> None:
    """Run each server.py; where that worked before (SIGHUP), a fault is logged, and the hooks stay as they were."""
    try:
        _loaded[:] = [{name: _content_of(name) for name in names()}]
    except SystemExit:
        if not _loaded:
            raise
        log.error("The hooks of the integrations stay as they were.")  # noqa: TRY400 - the log says why


def _content_of(integration: str) -> dict[str, Any]:
    path = Path(package.__path__[0]) / integration / "server.py"
    spec = spec_from_file_location(f"server_hooks_of_{integration}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        return {}
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks for its module there
    with starting(integration):
        spec.loader.exec_module(module)
    return vars(module)


def in_turn(name: str, *own: Hook) -> Hook:
    """Return gunicorn's server hook `name`: `own` first, then those of the integrations in their order."""
    theirs = [partial(_call, one, name, content[name]) for one, content in _loaded[0].items() if name in content]
    hooks: list[Hook] = [*own, *theirs]
    default: Any = make_settings()[name].default

    @wraps(default)  # gunicorn asks for the number of its arguments
    def call(*arguments: object) -> None:
        for hook in hooks:
            hook(*arguments)

    return call


def _call(integration: str, name: str, hook: Hook, *arguments: Any) -> None:  # noqa: ANN401 - gunicorn's
    """Call a hook; log its failure, and end the start only where it must work."""
    try:
        hook(*arguments)
    except (Exception, SystemExit) as error:  # gunicorn's main loop would end with either
        if isinstance(error, SystemExit) and not error.code:
            raise  # a worker that was told to leave in the midst of its hook
        log.exception("The integration %s failed in %s", integration, name)
        if name in MUST_WORK:
            if hasattr(arguments[-1], "handle_boot_failure"):  # a worker, which may only replace another one
                arguments[-1].handle_boot_failure()
            raise SystemExit(BOOT_ERROR) from None
