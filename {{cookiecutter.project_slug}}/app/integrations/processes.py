"""Set up a process that handles tasks, messages or tools instead of requests: its logging and its observers."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from app.common.log_handler import configure_logging, prepare_log_files
from app.integrations import integration_names, log_start_failure
from app.settings import get_settings


def set_up_process() -> None:
    """Configure logging as in the service, and start the observers; raise SystemExit if one of them fails."""
    set_up_logging()
    observe_work()


def set_up_logging() -> None:
    """Configure logging as in the service; raise SystemExit with the reason if the log folder is not writable."""
    prepare_log_files(get_settings())
    configure_logging(get_settings())


def observe_work() -> None:
    """Call `observe` of the integrations; call this once in each process, after its fork.

    Only integrations that define `observe` are imported: the packages or settings of others may be missing here.
    """
    for name in integration_names():
        found = find_spec(f"app.integrations.{name}")
        if found and found.origin and "\ndef observe(" in Path(found.origin).read_text("utf-8"):
            with log_start_failure(name):
                import_module(found.name).observe(get_settings())
