"""Bakes projects as a user does, but from what git tracks, and with nothing of this machine's settings."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cookiecutter.main import cookiecutter

from scripts.combinations import options
from scripts.generate import clean_environment
from scripts.snapshot import ROOT, TEMPLATE

TEMPLATE_DIR = ROOT / TEMPLATE
TOOLS = Path(sys.executable).parent
UV = TOOLS / "uv"
# The start of a reason that may stay a skip in CI: a machine need not have every Python.
NO_INTERPRETER = "No interpreter here"
VERSIONS = ["3.11", "3.12", "3.13"]
"""The Python versions that a generated service promises to run on, oldest first."""
MAKE_TEST_SECONDS = 600
"""When a service's own tests have hung; they take 90 s on two fast cores with every option."""
LEFT_BEHIND = {".venv", ".uv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache"}
"""What tools leave in a folder in which they ran."""
GOOD: dict[str, Any] = {
    "project_name": "Trail Service",
    "project_slug": "trail-service",
    "description": "Follows requests.",
    "full_name": "Ada Lovelace",
    "email": "ada@example.com",
    "license": "MIT",
    "year": "2026",
    **dict.fromkeys(options(), True),
}
"""Answers that the hooks accept."""

Result = subprocess.CompletedProcess[str]


def settings_beside(output: Path) -> Path:
    """Write settings for cookiecutter that keep it out of the user's home, next to the folder `output`."""
    output.mkdir(exist_ok=True)
    settings = output.parent / "cookiecutter.yaml"
    settings.write_text(json.dumps({"replay_dir": str(output.parent / "replay_dir")}))  # JSON is YAML
    return settings


def bake(repository: Path, output: Path, **answers: str | bool | int) -> Path:
    """Bake within this process into `output`, and give the project's folder.

    Jinja in an answer is executed, as cookiecutter does with answers that are not typed; see `literal`.
    Raises FailedHookException when a hook refuses.
    """
    settings = str(settings_beside(output))
    project = cookiecutter(
        str(repository), no_input=True, extra_context=answers, output_dir=str(output), config_file=settings
    )
    return Path(project)


def literal(value: str) -> str:
    """Write an answer so that it arrives as it is, braces included."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '{{ "' + escaped + '" }}'


def bake_by_command(repository: Path | str, output: Path, *words: str, typed: str | None = None) -> Result:
    """Bake by the command line, with options and `key=value` answers, or the lines that a user types at the prompts."""
    settings = settings_beside(output)
    command: list[str | Path] = [TOOLS / "cookiecutter", repository, "--config-file", settings, "-o", output]
    asks = typed is not None or "--replay" in words
    return run([*command, *([] if asks else ["--no-input"]), *words], output, typed=typed)


def named(answers: Mapping[str, bool]) -> str:
    """Give a short name for a combination: what is on."""
    return "+".join(option for option, chosen in answers.items() if chosen) or "nothing"


def environment(**variables: str) -> dict[str, str]:
    """Give an environment for commands of other projects, with this project's tools, uv among them, on PATH.

    Bytecode is kept, as with most users; otherwise each process of a project would compile all packages.
    """
    strangers = ("PYTEST_", "COV_", "PYTHONDONTWRITEBYTECODE")
    clean = {name: value for name, value in clean_environment().items() if not name.startswith(strangers)}
    paths = {"PATH": f"{TOOLS}{os.pathsep}{clean['PATH']}", "PYTEST_DEBUG_TEMPROOT": temporary_root()}
    return clean | paths | variables


@cache
def temporary_root() -> str:
    """Make a folder for what inner runs of pytest keep: each run removes old folders, and two would meet in one."""
    folder = tempfile.mkdtemp(prefix="trail-inner-pytest-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def run(
    command: Sequence[str | Path],
    folder: Path,
    variables: Mapping[str, str] | None = None,
    typed: str | None = None,
    seconds: float = 600,
) -> Result:
    """Run a command in a folder, and give its exit code and its output; raises TimeoutExpired after `seconds`."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=environment() if variables is None else dict(variables),
        input=typed or "",
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
    )


def must(result: Result) -> Result:
    """Fail with everything that a command has said, if it has not ended with 0."""
    assert result.returncode == 0, f"{result.args} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def files_below(folder: Path) -> set[str]:
    """Give the paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def interpreter(version: str) -> Path | None:
    """Find a Python such as `3.12`, also one that pyenv keeps and does not put on PATH; None when there is none."""
    found = [Path(path) for path in [shutil.which(f"python{version}")] if path]
    if shutil.which("pyenv"):
        keeps = run(["pyenv", "root"], ROOT).stdout.strip()
        found += sorted(Path(keeps).glob(f"versions/{version}.*/bin/python{version}"))
    works = (path for path in found if run([path, "-c", "import venv"], ROOT).returncode == 0)
    return next(works, None)
