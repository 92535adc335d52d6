"""Generates a service, by default with every default and below build/, and installs what its lock says."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.snapshot import ROOT, copy_repository

BUILD = ROOT / "build"


def clean_environment() -> dict[str, str]:
    """Give this process's environment without the variables that would lead uv to this process's own packages."""
    strangers = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in strangers}


def generate(build: Path = BUILD, root: Path = ROOT, /, **answers: bool) -> Path:
    """Bake the template with its defaults, or other answers, into the fresh folder `build`; give the project's folder.

    `root`: the repository, by default this one.

    Nothing of the user's is read or written: neither their cookiecutter settings nor their replay files. It is baked
    elsewhere and moved, as cookiecutter takes braces in the path of its output for a tag.
    Raises CalledProcessError when cookiecutter refuses, with its words in `stderr`.
    """
    shutil.rmtree(build, ignore_errors=True)
    with TemporaryDirectory() as name:
        work = Path(name)
        template, settings, output = copy_repository(work / "template", root), work / "settings.yaml", work / "output"
        folders = {key: str(work / key) for key in ("cookiecutters_dir", "replay_dir")}
        settings.write_text(json.dumps(folders), encoding="utf-8")  # JSON is YAML, and needs no package to write
        options = ["--no-input", "--config-file", settings, "--output-dir", output]
        given = [f"{name}={value}" for name, value in answers.items()]
        command = [sys.executable, "-m", "cookiecutter", *map(str, [template, *options, *given])]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return Path(shutil.copytree(output, build)) / next(output.iterdir()).name


def install(project: Path, uv: Path) -> None:
    """Make the project's own .venv as its lock says; raises CalledProcessError with uv's words in `stderr`."""
    command = [str(uv), "sync", "--quiet", "--locked", "--no-dev"]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=project, env=clean_environment())
