"""What each process sets up that works on tasks, messages or tools instead of requests."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from app.common.log_handler import configure_logging, prepare_log_files
from app.integrations import names, starting
from app.settings import get_settings


def set_up_process() -> None:
    """Write lines as the service does, and let the integrations observe; raise SystemExit where that cannot work."""
    set_up_logging()
    observe_work()


def set_up_logging() -> None:
    """Write lines as the service does; raise SystemExit with a sentence for a folder that cannot be written."""
    prepare_log_files(get_settings())
    configure_logging(get_settings())


def observe_work() -> None:
    """Let the integrations observe what this process does: once in each process, after its fork.

    Only those are imported that define `observe`: a worker needs neither the packages nor the settings of the others.
    """
    for name in names():
        found = find_spec(f"app.integrations.{name}")
        if found and found.origin and "\ndef observe(" in Path(found.origin).read_text("utf-8"):
            with starting(name):
                import_module(found.name).observe(get_settings())
