"""What the tests under Docker share: one generated service with probe endpoints, its image, and one running stack."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.baking import bake, must
from tests.support.engine import fetch_images
from tests.support.stack import Stack, docker, image_of, write_override

from .edge import PLAIN, PRIVATE, Edge, newer_image


@pytest.fixture(scope="session")
def composed(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A service with every default and an integration with endpoints to probe it by; its image is built."""
    project = bake(repository, tmp_path_factory.mktemp("composed") / "output")
    probe = Path(__file__).with_name("probe")
    shutil.copytree(probe, project / "app/integrations/probe", ignore=shutil.ignore_patterns("__pycache__"))
    fetch_images(project)
    must(Stack(project, "build").compose("build", "--quiet"))
    yield project
    docker("image", "rm", "--force", image_of(project))


@pytest.fixture(scope="session")
def stack(composed: Path) -> Iterator[Stack]:
    """The service under Compose with every default; a test that stops a part of it starts that again."""
    with Stack(composed, "defaults", COMPOSE_FILE=write_override(composed)) as running:
        yield running


@pytest.fixture(scope="session")
def images(composed: Path) -> list[str]:  # noqa: ARG001 - it brings the images
    """Images with an nginx for each way in which start.sh lets it find the service; the first is the default's."""
    return list(dict.fromkeys([newer_image(), PLAIN]))


@pytest.fixture(scope="session")
def edges(stack: Stack, images: list[str]) -> Iterator[list[Edge]]:
    """An nginx with every default of each image in front of the stack's service."""
    with ExitStack() as running:
        yield [running.enter_context(Edge(stack, image)) for image in images]


@pytest.fixture(scope="session")
def edge(edges: list[Edge]) -> Edge:
    return edges[0]


@pytest.fixture(scope="session")
def proxied(stack: Stack, images: list[str]) -> Iterator[Edge]:
    """An nginx behind proxies, which alone may send IDs, with lines of text."""
    variables = {"TRUSTED_PROXIES": PRIVATE, "REQUEST_ID_TRUST": "proxies", "LOG_FORMAT": "text", "MASKED_QUERY": "a.b"}
    with Edge(stack, images[0], **variables) as running:
        yield running


@pytest.fixture(scope="session")
def lonely(composed: Path, images: list[str]) -> Iterator[Edge]:
    """An nginx without a service, and without patience for one, whose errors pages of two origins may read."""
    variables = {"WAIT_FOR_SERVICE": "false", "CORS_ORIGINS": "https://b.example, https://app.example.org"}
    with Edge(composed, images[0], **variables) as running:
        yield running
