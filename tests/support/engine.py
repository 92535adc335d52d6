"""The Docker engine of the tests: a running one, or one that the program in DOCKER_ENGINE starts."""

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

from scripts.snapshot import ROOT
from tests.support.baking import must, run

# A program that starts an engine (`up`), and provides images without a registry (`images --from FOLDER`).
ENGINE_PROGRAM = Path(os.environ.get("DOCKER_ENGINE", "")).absolute()


@cache
def engine() -> str:
    """Return the version of the Docker engine; skip the calling test if no engine is running.

    In CI, if ENGINE_PROGRAM exists, it starts an engine first.
    """
    if not _is_running() and os.environ.get("CI") == "true" and ENGINE_PROGRAM.is_file():
        must(run([ENGINE_PROGRAM, "up"], ROOT, dict(os.environ), seconds=300))
    if not _is_running():
        pytest.skip("No Docker engine with Compose is running: start one to run this test.")
    return must(run(["docker", "version", "--format", "{{.Server.Version}}"], ROOT)).stdout.strip()


def _is_running() -> bool:
    commands = (["docker", "info"], ["docker", "compose", "version"])
    return shutil.which("docker") is not None and all(run(command, ROOT).returncode == 0 for command in commands)


def fetch_images(project: Path) -> None:
    """Let ENGINE_PROGRAM provide substitutes for the images that a project needs; without it, Docker pulls them."""
    engine()
    if ENGINE_PROGRAM.is_file():
        must(run([ENGINE_PROGRAM, "images", "--from", project], ROOT, dict(os.environ), seconds=500))


def image_exists(name: str) -> bool:
    return run(["docker", "image", "inspect", name], ROOT).returncode == 0
