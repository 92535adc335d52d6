"""What the live tests share: the installed service, and one running service per log format."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.baked import bake
from tests.support.service import Service

from .cases import MAX_BODY


@pytest.fixture(scope="session")
def project(installed: Path) -> Path:
    """Return the service as it lies in the template, where other tests want a project as a user gets it."""
    return installed


@pytest.fixture(scope="session")
def connected(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bake the same with its integrations, in the environment that it has."""
    copy = bake(tmp_path_factory.mktemp("connected"), integrations=True)
    (copy / ".venv").symlink_to(project / ".venv")
    return copy


@pytest.fixture(scope="session", params=["text", pytest.param("json", marks=pytest.mark.full)])
def service(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """Run gunicorn with two workers and the probe application; for tests that leave it running."""
    env = {"LOG_FORMAT": request.param, "MAX_BODY_BYTES": str(MAX_BODY), "HEAD_TIMEOUT": "2", "BODY_TIMEOUT": "2"}
    with Service(project, tmp_path_factory.mktemp(f"service-{request.param}"), env=env) as running:
        yield running
        running.access()  # whatever the access log holds is an access line
