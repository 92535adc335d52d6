"""Every test starts with the default settings, an empty log folder and unconfigured logging."""

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
from app.integrations import integration_names, settings_classes
from app.settings import Settings
from tests.support import Logs, connect

# Exported variables and `.env` must not affect the tests. Importing the application, below, reads them.
for model in (EnvironmentSettings, Settings):
    model.model_config["env_file"] = None
prefixes = tuple(f"{name}_" for name in integration_names())
for exported in list(os.environ):
    if exported.lower() in Settings.model_fields or exported.lower().startswith(prefixes):
        del os.environ[exported]
for integration in settings_classes().values():  # prefixes other than the integration's name
    for exported in [name for name in os.environ if name.startswith(integration.model_config["env_prefix"])]:
        del os.environ[exported]

from app.main import Application, create_app  # noqa: E402

instances_at_import, policy_at_import = frozenset(log_handler.instances), copy(id_policy)


def reset() -> None:
    """Reset the settings and the logging configuration; the root logger keeps pytest's handlers."""
    settings.current.clear()
    policy.configure((), ())
    redact.configure(())
    set_logged_length(0)
    id_policy.copy_from(policy_at_import)
    observers.clear()
    for instance in set(log_handler.instances) - instances_at_import:
        del log_handler.instances[instance]
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (logging.root, *loggers):
        for handler in logger.handlers[:]:
            is_from_pytest = type(handler).__module__.startswith("_pytest")
            if not is_from_pytest or logger is not logging.root:
                logger.removeHandler(handler)
            if not is_from_pytest:
                handler.close()
        logger.propagate, logger.disabled = True, False
        if logger.level and logger is not logging.root:  # setting a level is slow
            logger.setLevel(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Logs]:
    """Return the log files of the service; LOG_PATH is set for every test."""
    reset()
    monkeypatch.setenv("LOG_PATH", str(tmp_path / "log"))
    yield Logs(tmp_path / "log")
    reset()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Application]:
    """Return a function that creates an application with the given environment variables."""

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
