"""What the tests under Docker share: one generated service with an integration that tests may ask for anything."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.baking import bake
from tests.support.engine import fetch_images, image_exists
from tests.support.stack import Stack, docker, image_of

from .edge import FOLLOWS_NAMES, PLAIN, Edge, newer_image, version_of


@pytest.fixture(scope="session")
def composed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service as it comes with every default, and an integration with endpoints to probe it by."""
    project = bake(repository, tmp_path_factory.mktemp("composed") / "output")
    probe = Path(__file__).with_name("probe")
    shutil.copytree(probe, project / "app/integrations/probe", ignore=shutil.ignore_patterns("__pycache__"))
    fetch_images(project)
    yield project
    docker("image", "rm", "--force", image_of(project))


@pytest.fixture(scope="session")
def stack(composed: Path) -> Iterator[Stack]:
    """The service under Compose with every default; for tests that leave it as it is."""
    with Stack(composed, "defaults") as running:
        yield running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of the edge with both of its ways to find the service, where the images at hand allow it."""
    if "edge_image" in metafunc.fixturenames:
        is_new = shutil.which("docker") and image_exists(PLAIN) and version_of(PLAIN) >= FOLLOWS_NAMES
        metafunc.parametrize("edge_image", ["plain"] if is_new else ["plain", "newer"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def edge_image(composed: Path, request: pytest.FixtureRequest) -> str:  # noqa: ARG001 - it brings the images
    """An image with nginx."""
    return PLAIN if request.param == "plain" else newer_image()


@pytest.fixture(scope="session")
def served(composed: Path) -> Iterator[Stack]:
    """The service for the tests of the edge, which may stop it as long as they start it again."""
    with Stack(composed, "edges") as running:
        yield running


@pytest.fixture(scope="session")
def edge(served: Stack, edge_image: str) -> Iterator[Edge]:
    """An nginx with every default in front of it."""
    with Edge(served.project, edge_image, f"{served.name}_default") as running:
        yield running


@pytest.fixture(scope="session")
def lonely(composed: Path, edge_image: str) -> Iterator[Edge]:
    """An nginx with every default and nobody behind it."""
    with Edge(composed, edge_image, None) as running:
        yield running
