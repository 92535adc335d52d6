"""Fixtures of the live tests: the installed service, and one running service per log format."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.baked import bake
from tests.support.service import Service

from .cases import MAX_BODY


@pytest.fixture(scope="session")
def project(installed: Path) -> Path:
    """Return the installed service with every option; in other tests, `project` is one with the default answers."""
    return installed


@pytest.fixture(scope="session")
def connected(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate a project with integrations; it uses the environment of `project`."""
    copy = bake(tmp_path_factory.mktemp("connected"), integrations=True)
    (copy / ".venv").symlink_to(project / ".venv")
    return copy


@pytest.fixture(scope="session", params=["text", pytest.param("json", marks=pytest.mark.full)])
def service(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run the probe application under gunicorn with two workers; tests must leave it running."""
    env = {"LOG_FORMAT": request.param, "MAX_BODY_BYTES": str(MAX_BODY), "HEAD_TIMEOUT": "2", "BODY_TIMEOUT": "2"}
    with Service(project, tmp_path_factory.mktemp(f"service-{request.param}"), env=env) as running:
        yield running
        running.access()  # raises if the access log contains any other line
