"""The service as it lies in the template, every option on, in an environment of its own."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from scripts.snapshot import ROOT, TEMPLATE, known_files
from tests.support.baking import UV, must, run

OTHER_SERVERS = ("hypercorn", "granian", "pyyaml")


def bake(target: Path, *, integrations: bool = False) -> Path:
    """Copy what git tracks, or would, of the template's service, and the probe application, to a folder.

    Integrations, which need brokers, come along only where they are asked for; their packages are always there.
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
    """Copy the same with these integrations alone, in an environment that there is: imports of others take seconds."""
    bake(target, integrations=True)
    for folder in (target / "app/integrations").iterdir():
        if folder.is_dir() and folder.name not in names:
            shutil.rmtree(folder)
    (target / ".venv").symlink_to(installed / ".venv")
    return target


def install(project: Path) -> Path:
    """Install what the service's lock says, as in production, and the servers that it does not ask for itself."""
    must(run([UV, "sync", "--quiet", "--locked", "--no-dev", "--python", sys.executable], project))
    others = [f"{name}=={version(name)}" for name in OTHER_SERVERS]
    must(run([UV, "pip", "install", "--quiet", "--python", project / ".venv", *others], project))
    return project
