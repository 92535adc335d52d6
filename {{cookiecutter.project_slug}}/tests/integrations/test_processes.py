"""A process that handles tasks configures logging as the service does, and starts the observers."""

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import app.integrations as package
from app.integrations import CannotStart
from app.integrations.processes import set_up_process
from app.settings import get_settings
from tests.support import Logs

Add = Callable[..., None]
events: list[object] = []


@pytest.fixture(autouse=True)
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Add]:
    """Return a function that adds integrations with the given code; the project's integrations are disabled."""
    monkeypatch.setattr(package, "__path__", [str(tmp_path)])
    monkeypatch.setattr(logging, "events", events, raising=False)

    def create(**codes: str) -> None:
        for name, code in codes.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(code)
        importlib.invalidate_caches()

    yield create
    events.clear()
    for name in ("alpha", "beta"):
        sys.modules.pop(f"app.integrations.{name}", None)
        vars(package).pop(name, None)


OBSERVE = "import logging\ndef observe(settings):\n    logging.events.append((__name__[-5:], settings))\n"


def test_only_integrations_with_observe_are_imported_and_called(add: Add, logs: Logs) -> None:
    add(beta=OBSERVE, alpha=OBSERVE, gamma="1 / 0  # without `observe`, it must not be imported")
    set_up_process()
    assert events == [("alpha", get_settings()), (".beta", get_settings())]
    logging.getLogger("app.work").info("set up")
    assert [line.endswith("[-] set up") for line in logs.error] == [True]


def test_failing_observer_ends_the_process_with_the_reason(add: Add, logs: Logs) -> None:
    add(alpha="\ndef observe(settings): raise SystemExit('ALPHA_SIZE is invalid.')")
    with pytest.raises(CannotStart, match=r"^The integration alpha does not start\. ALPHA_SIZE is invalid\.$"):
        set_up_process()
    assert len(logs.error) == 1
