"""Shared fixtures of the Docker tests: a generated service with probe endpoints, its image, and a running stack."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.baking import bake, must
from tests.support.engine import fetch_images
from tests.support.stack import Stack, docker, image_of, write_override

from .edge import PLAIN, PRIVATE, Nginx, newer_image


@pytest.fixture(scope="session")
def built_project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A generated service with all defaults and the probe integration; its image is built."""
    project = bake(repository, tmp_path_factory.mktemp("composed") / "output")
    probe = Path(__file__).with_name("probe")
    shutil.copytree(probe, project / "app/integrations/probe", ignore=shutil.ignore_patterns("__pycache__"))
    fetch_images(project)
    must(Stack(project, "build").compose("build", "--quiet"))
    yield project
    docker("image", "rm", "--force", image_of(project))


@pytest.fixture(scope="session")
def stack(built_project: Path) -> Iterator[Stack]:
    """The service under Compose with all defaults. A test that stops a container must start it again."""
    with Stack(built_project, "defaults", COMPOSE_FILE=write_override(built_project)) as running:
        yield running


@pytest.fixture(scope="session")
def images(built_project: Path) -> list[str]:  # noqa: ARG001 - it pulls the images
    """An nginx image for each way in which start.sh lets nginx find the service; the first is that of compose.yaml."""
    return list(dict.fromkeys([newer_image(), PLAIN]))


@pytest.fixture(scope="session")
def nginx_variants(stack: Stack, images: list[str]) -> Iterator[list[Nginx]]:
    """For each image, an nginx with all defaults in front of the stack's service."""
    with ExitStack() as running:
        yield [running.enter_context(Nginx(stack, image)) for image in images]


@pytest.fixture(scope="session")
def nginx(nginx_variants: list[Nginx]) -> Nginx:
    return nginx_variants[0]


@pytest.fixture(scope="session")
def proxied_nginx(stack: Stack, images: list[str]) -> Iterator[Nginx]:
    """An nginx that accepts request IDs from trusted proxies only; LOG_FORMAT=text."""
    variables = {"TRUSTED_PROXIES": PRIVATE, "REQUEST_ID_TRUST": "proxies", "LOG_FORMAT": "text", "MASKED_QUERY": "a.b"}
    with Nginx(stack, images[0], **variables) as running:
        yield running


@pytest.fixture(scope="session")
def nginx_alone(built_project: Path, images: list[str]) -> Iterator[Nginx]:
    """An nginx that has no service and does not wait for one; two origins may read its error responses (CORS)."""
    variables = {"WAIT_FOR_SERVICE": "false", "CORS_ORIGINS": "https://b.example, https://app.example.org"}
    with Nginx(built_project, images[0], **variables) as running:
        yield running
