"""The service of the template, with every option, copied to a folder with a virtual environment of its own."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from scripts.snapshot import ROOT, TEMPLATE, known_files
from tests.support.baking import UV, must, run

OTHER_SERVERS = ("hypercorn", "granian", "pyyaml")


def bake(target: Path, *, integrations: bool = False) -> Path:
    """Copy the files of the template's service that git does not ignore, and the probe application, to a folder.

    Without `integrations` their modules are left out, as they need brokers; `install` always installs their packages.
    """
    for file in known_files():
        if file.parts[0] == TEMPLATE:
            path = file.relative_to(TEMPLATE)
            if path.match("app/integrations/*/*") and not integrations:
                continue
            copy = target / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy)
    shutil.copytree(ROOT / "tests/live/probe", target / "probe", ignore=shutil.ignore_patterns("__pycache__"))
    return target


def bake_with(installed: Path, target: Path, *names: str) -> Path:
    """Copy the service with only the named integrations, as imports of the others take seconds.

    It uses the virtual environment of the service in `installed`.
    """
    bake(target, integrations=True)
    for folder in (target / "app/integrations").iterdir():
        if folder.is_dir() and folder.name not in names:
            shutil.rmtree(folder)
    (target / ".venv").symlink_to(installed / ".venv")
    return target


def install(project: Path) -> Path:
    """Install the service's locked packages without those for development, and other ASGI servers for the tests."""
    must(run([UV, "sync", "--quiet", "--locked", "--no-dev", "--python", sys.executable], project))
    others = [f"{name}=={version(name)}" for name in OTHER_SERVERS]
    must(run([UV, "pip", "install", "--quiet", "--python", project / ".venv", *others], project))
    return project
