"""One virtual environment per set of packages, all with the versions of the service's `uv.lock`."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.subject import Subject
from scripts.generate import clean_environment, generate, install
from scripts.snapshot import ROOT

SERVER_PACKAGES = ("fastapi", "starlette", "pydantic", "pydantic-core", "uvicorn", "uvicorn-worker", "gunicorn",
                   "uvloop", "httptools")  # fmt: skip
LOCK = ROOT / "{{cookiecutter.project_slug}}" / "uv.lock"
SUBJECTS_FOLDER = ROOT / "benchmarks" / "subjects"

THIRD_PARTY = """
import sys, ours
from sysconfig import get_path
home = get_path("purelib")
found = [name for name, module in list(sys.modules.items()) if str(getattr(module, "__file__", "")).startswith(home)]
print(",".join(found))
"""


class Environment(NamedTuple):
    """The `bin` folder of a virtual environment, and the generated service that it belongs to, if any."""

    bin: Path
    project: Path | None

    @property
    def python(self) -> Path:
        """The path of the Python interpreter."""
        return self.bin / "python"


class Environments:
    """Creates each environment once, below `folder`."""

    def __init__(self, folder: Path, uv: Path) -> None:
        self.folder, self.uv = folder, uv
        self.constraints = folder / "constraints.txt"
        self.constraints.write_text("".join(f"{name}=={version}\n" for name, version in locked_versions().items()))
        self._created: dict[tuple[str, ...], Environment] = {}

    def get(self, subject: Subject) -> Environment:
        """Return the environment of a subject, and create it on the first call."""
        key = ("packages", *subject.packages) if subject.service is None else ("service", *subject.service)
        if key not in self._created:
            folder = self.folder / f"environment-{len(self._created)}"
            self._created[key] = (
                self._service(folder, key[1:]) if key[0] == "service" else self._packages(folder, key[1:])
            )
            check_versions(self._created[key])
        return self._created[key]

    def _service(self, folder: Path, options: Iterable[str]) -> Environment:
        project = generate(folder, **dict.fromkeys(options, True))
        install(project, self.uv)
        return Environment(project / ".venv/bin", project)

    def _packages(self, folder: Path, packages: Iterable[str]) -> Environment:
        self._uv("venv", "--python", sys.executable, str(folder))
        packages_of_server = [name for name in SERVER_PACKAGES if name != "pydantic-core"]
        options = ("--python", str(folder / "bin/python"), "--constraint", str(self.constraints))
        self._uv("pip", "install", *options, *packages_of_server, *packages)
        return Environment(folder / "bin", None)

    def _uv(self, *arguments: str) -> None:
        command = [str(self.uv), "--quiet", *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment())


@cache
def locked_versions() -> dict[str, str]:
    """Return the versions in the service's `uv.lock`, by package name."""
    packages = tomllib.loads(LOCK.read_text("utf-8"))["package"]
    return {package["name"]: package["version"] for package in packages if "registry" in package["source"]}


def installed_versions(environment: Environment, names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of packages in an environment, by package name."""
    code = "import json, sys; from importlib.metadata import version as v; "
    code += "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    command = [str(environment.python), "-c", code, *names]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment())
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


def check_versions(environment: Environment) -> None:
    """Raise RuntimeError if an environment serves with other versions than those in `uv.lock`."""
    for name, version in installed_versions(environment, SERVER_PACKAGES).items():
        if version != locked_versions()[name]:
            expected = locked_versions()[name]
            raise RuntimeError(f"{environment.bin} has {name} {version}, but uv.lock has {expected}.")


def environment_variables(subject: Subject, environment: Environment, folder: Path, port: int = 8000) -> dict[str, str]:
    """Return the environment variables for serving or importing a subject that writes its files to `folder`."""
    paths = [SUBJECTS_FOLDER, *([environment.project] if subject.is_ours and environment.project else [])]
    variables = {
        "PATH": f"{environment.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "HOME": str(folder),
        "ACCESS_LOG": str(folder / "access.log"),
    }
    if subject.is_ours:
        variables |= {"LOG_PATH": str(folder), "WORKERS": "1", "HOST": "127.0.0.1", "PORT": str(port)}
    return {**variables, **subject.variables}


def third_party_modules(subject: Subject, environment: Environment, folder: Path) -> str:
    """Return the third-party modules that the service imports, in import order, separated by commas."""
    variables = environment_variables(subject, environment, folder)
    command = [str(environment.python), "-c", THIRD_PARTY]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=variables, cwd=folder)
    return found.stdout.split()[-1]
