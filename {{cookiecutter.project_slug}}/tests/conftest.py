"""Every test begins with the default settings, an empty log folder and a logging that nobody has set up."""

import logging
import os
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app import settings
from app.common import log_handler
from app.common.context import observers
from app.common.logs.access_fields import policy
from app.common.redaction import redact
from app.common.request_id import id_policy, set_logged_length
from app.environment import EnvironmentSettings
from app.integrations import names, settings_classes
from app.settings import Settings
from tests.support import Logs, connect

# Before the application is imported, which reads them: what a developer has exported or keeps in `.env` stays out.
for kind in (EnvironmentSettings, Settings):
    kind.model_config["env_file"] = None
prefixes = tuple(f"{name}_" for name in names())
for exported in list(os.environ):
    if exported.lower() in Settings.model_fields or exported.lower().startswith(prefixes):
        del os.environ[exported]
for integration in settings_classes().values():  # those whose names a standard gives
    for exported in [name for name in os.environ if name.startswith(integration.model_config["env_prefix"])]:
        del os.environ[exported]

from app.main import Application, create_app  # noqa: E402

made_at_import, policy_at_import = frozenset(log_handler.made), copy(id_policy)


def reset() -> None:
    """Forget the settings and every set-up of logging; only the root logger keeps what pytest has put there."""
    settings.current.clear()
    policy.configure((), ())
    redact.configure(())
    set_logged_length(0)
    id_policy.follow(policy_at_import)
    observers.clear()
    for made in set(log_handler.made) - made_at_import:
        del log_handler.made[made]
    known = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (logging.root, *known):
        for handler in logger.handlers[:]:
            is_pytest_s = type(handler).__module__.startswith("_pytest")
            if not is_pytest_s or logger is not logging.root:
                logger.removeHandler(handler)
            if not is_pytest_s:
                handler.close()
        logger.propagate, logger.disabled = True, False
        if logger.level and logger is not logging.root:  # setting a level costs time
            logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Logs]:
    """Return what the service writes into its log files; LOG_PATH is set for every test."""
    reset()
    monkeypatch.setenv("LOG_PATH", str(tmp_path / "log"))
    yield Logs(tmp_path / "log")
    reset()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Application]:
    """Return a function that makes an application with these environment variables."""

    def create(**variables: str) -> Application:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        reset()
        return create_app()

    return create


@pytest.fixture
def app() -> Application:
    return create_app()


@pytest.fixture
def client(app: Application) -> TestClient:
    return connect(app)
