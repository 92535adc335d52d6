"""Generate a service, by default in build/ and with the default answers, and install its locked packages."""

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
    """Return the environment variables without those that would make uv use this process's virtual environment."""
    removed = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in removed}


def generate(build: Path = BUILD, root: Path = ROOT, /, **answers: bool) -> Path:
    """Render the template in the repository `root` into the new folder `build`, and return the project's folder.

    `answers` override the defaults. Cookiecutter's settings and replay files in the user's home are neither read nor
    written. The project is rendered into a temporary folder and copied, as cookiecutter would render braces in the
    output path as a Jinja tag.
    Raises CalledProcessError, with the error messages in `stderr`, if cookiecutter fails.
    """
    shutil.rmtree(build, ignore_errors=True)
    with TemporaryDirectory() as name:
        work = Path(name)
        template, settings, output = copy_repository(work / "template", root), work / "settings.yaml", work / "output"
        folders = {key: str(work / key) for key in ("cookiecutters_dir", "replay_dir")}
        settings.write_text(json.dumps(folders), encoding="utf-8")  # JSON is valid YAML
        options = ["--no-input", "--config-file", settings, "--output-dir", output]
        overrides = [f"{name}={value}" for name, value in answers.items()]
        command = [sys.executable, "-m", "cookiecutter", *map(str, [template, *options, *overrides])]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return Path(shutil.copytree(output, build)) / next(output.iterdir()).name


def install(project: Path, uv: Path) -> None:
    """Create the project's .venv from its lock file; raises CalledProcessError with the messages of uv in `stderr`."""
    command = [str(uv), "sync", "--quiet", "--locked", "--no-dev"]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=project, env=clean_environment())
