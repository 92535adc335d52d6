"""Generate ("bake") projects with cookiecutter, without the user's cookiecutter settings; and run commands."""

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
# The start of the only skip reason that is not a failure in CI: a machine may lack a Python version.
NO_INTERPRETER = "Interpreter not installed"
VERSIONS = ["3.11", "3.12", "3.13"]
"""The Python versions that a generated service supports, oldest first."""
MAKE_TEST_SECONDS = 600
"""The timeout of a service's `make test`; it takes 90 s on two fast cores with every option."""
TOOL_FOLDERS = {".venv", ".uv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache"}
"""Folders that tools create in the folder in which they run."""
VALID_ANSWERS: dict[str, Any] = {
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


def write_cookiecutter_settings(output: Path) -> Path:
    """Write settings for cookiecutter next to the folder `output`, so that it does not use the user's home."""
    output.mkdir(exist_ok=True)
    settings = output.parent / "cookiecutter.yaml"
    settings.write_text(json.dumps({"replay_dir": str(output.parent / "replay_dir")}))  # JSON is valid YAML
    return settings


def bake(repository: Path, output: Path, **answers: str | bool | int) -> Path:
    """Generate a project in the folder `output`, in this process, and return the project's folder.

    Cookiecutter renders Jinja in answers that are not typed at a prompt; `literal` prevents that.
    Raises FailedHookException if a hook fails.
    """
    settings = str(write_cookiecutter_settings(output))
    project = cookiecutter(
        str(repository), no_input=True, extra_context=answers, output_dir=str(output), config_file=settings
    )
    return Path(project)


def literal(value: str) -> str:
    """Escape an answer so that cookiecutter's rendering leaves it unchanged, also if it contains braces."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '{{ "' + escaped + '" }}'


def bake_by_command(repository: Path | str, output: Path, *arguments: str, typed: str | None = None) -> Result:
    """Run the cookiecutter command with options and `key=value` answers; `typed` is the input at the prompts."""
    settings = write_cookiecutter_settings(output)
    command: list[str | Path] = [TOOLS / "cookiecutter", repository, "--config-file", settings, "-o", output]
    no_input = typed is None and "--replay" not in arguments
    return run([*command, *(["--no-input"] if no_input else []), *arguments], output, typed=typed)


def combination_id(answers: Mapping[str, bool]) -> str:
    """Return a test ID for a combination: the options that are on."""
    return "+".join(option for option, chosen in answers.items() if chosen) or "nothing"


def environment(**variables: str) -> dict[str, str]:
    """Return environment variables for the commands of a generated project: this project's tools, and uv, are on PATH.

    PYTHONDONTWRITEBYTECODE is removed: without bytecode, each process of the project would compile all packages.
    """
    removed = ("PYTEST_", "COV_", "PYTHONDONTWRITEBYTECODE")
    clean = {name: value for name, value in clean_environment().items() if not name.startswith(removed)}
    paths = {"PATH": f"{TOOLS}{os.pathsep}{clean['PATH']}", "PYTEST_DEBUG_TEMPROOT": temporary_root()}
    return clean | paths | variables


@cache
def temporary_root() -> str:
    """Create the temporary folder of inner pytest runs; runs that share one would remove each other's old folders."""
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
    """Run a command in a folder, and return its exit code and output; raises TimeoutExpired after `seconds`."""
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
    """Return the result of a command; AssertionError with its output if its exit code is not 0."""
    assert result.returncode == 0, f"{result.args} exited with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def files_below(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def interpreter(version: str) -> Path | None:
    """Find a Python version such as `3.12` on PATH or in pyenv; return None if the machine does not have it."""
    found = [Path(path) for path in [shutil.which(f"python{version}")] if path]
    if shutil.which("pyenv"):
        root = run(["pyenv", "root"], ROOT).stdout.strip()
        found += sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}"))
    usable = (path for path in found if run([path, "-c", "import venv"], ROOT).returncode == 0)
    return next(usable, None)
