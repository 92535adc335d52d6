"""The Docker engine that these tests use: the one that answers, or one that a program beside the checkout brings."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

from scripts.snapshot import ROOT
from tests.support.baking import must, run

# A program that starts an engine (`up`), and that brings images where no registry is reached (`images --from FOLDER`).
BRINGER = Path(os.environ.get("DOCKER_ENGINE", "")).absolute()


@cache
def engine() -> str:
    """Give the version of the engine; skip the test that asks, with a sentence, where none answers."""
    if not _answers() and os.environ.get("CI") == "true" and BRINGER.is_file():
        must(run([BRINGER, "up"], ROOT, dict(os.environ), seconds=300))
    if not _answers():
        pytest.skip("No Docker engine with Compose answers here: start one to run this test.")
    return must(run(["docker", "version", "--format", "{{.Server.Version}}"], ROOT)).stdout.strip()


def _answers() -> bool:
    commands = (["docker", "info"], ["docker", "compose", "version"])
    return shutil.which("docker") is not None and all(run(command, ROOT).returncode == 0 for command in commands)


def fetch_images(project: Path) -> None:
    """Bring the images that a project names: from a registry by the build itself, or as stand-ins."""
    engine()
    if BRINGER.is_file():
        must(run([BRINGER, "images", "--from", project], ROOT, dict(os.environ), seconds=500))


def image_exists(name: str) -> bool:
    return run(["docker", "image", "inspect", name], ROOT).returncode == 0
