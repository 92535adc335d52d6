"""What the tests under Docker share: one generated service with an integration that tests may ask for anything."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.baking import bake

from .engine import fetch_images
from .stack import Stack


@pytest.fixture(scope="session")
def composed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service as it comes with every default, and an integration with endpoints to probe it by."""
    project = bake(repository, tmp_path_factory.mktemp("composed") / "output")
    probe = Path(__file__).with_name("probe")
    shutil.copytree(probe, project / "app/integrations/probe", ignore=shutil.ignore_patterns("__pycache__"))
    fetch_images(project)
    return project


@pytest.fixture(scope="session")
def stack(composed: Path) -> Iterator[Stack]:
    """The service under Compose with every default; for tests that leave it as it is."""
    with Stack(composed, "defaults") as running:
        yield running
