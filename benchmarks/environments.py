"""One environment for each set of packages, all with the versions of the service's lock."""

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

SERVED_BY = ("fastapi", "starlette", "pydantic", "pydantic-core", "uvicorn", "uvicorn-worker", "gunicorn", "uvloop",
             "httptools")  # fmt: skip
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
    """Where programs are, and the generated service, if there is one."""

    bin: Path
    project: Path | None

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.bin / "python"


class Environments:
    """Makes each environment once, below `folder`."""

    def __init__(self, folder: Path, uv: Path) -> None:
        self.folder, self.uv = folder, uv
        self.constraints = folder / "constraints.txt"
        self.constraints.write_text("".join(f"{name}=={version}\n" for name, version in locked_versions().items()))
        self.made: dict[tuple[str, ...], Environment] = {}

    def of(self, subject: Subject) -> Environment:
        """Give the environment of a subject."""
        key = ("packages", *subject.packages) if subject.service is None else ("service", *subject.service)
        if key not in self.made:
            folder = self.folder / f"environment-{len(self.made)}"
            self.made[key] = self._service(folder, key[1:]) if key[0] == "service" else self._packages(folder, key[1:])
            check_versions(self.made[key])
        return self.made[key]

    def _service(self, folder: Path, options: Iterable[str]) -> Environment:
        project = generate(folder, **dict.fromkeys(options, True))
        install(project, self.uv)
        return Environment(project / ".venv/bin", project)

    def _packages(self, folder: Path, packages: Iterable[str]) -> Environment:
        self._uv("venv", "--python", sys.executable, str(folder))
        wanted = [name for name in SERVED_BY if name != "pydantic-core"]
        where = ("--python", str(folder / "bin/python"), "--constraint", str(self.constraints))
        self._uv("pip", "install", *where, *wanted, *packages)
        return Environment(folder / "bin", None)

    def _uv(self, *arguments: str) -> None:
        command = [str(self.uv), "--quiet", *arguments]
        subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment())


@cache
def locked_versions() -> dict[str, str]:
    """Give the versions of the service's lock, by name."""
    packages = tomllib.loads(LOCK.read_text("utf-8"))["package"]
    return {package["name"]: package["version"] for package in packages if "registry" in package["source"]}


def installed_versions(environment: Environment, names: Iterable[str]) -> dict[str, str]:
    """Give the versions of packages in an environment."""
    code = "import json, sys; from importlib.metadata import version as v; "
    code += "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    command = [str(environment.python), "-c", code, *names]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=clean_environment())
    versions: dict[str, str] = json.loads(found.stdout)
    return versions


def check_versions(environment: Environment) -> None:
    """Raise RuntimeError where an environment serves with other versions than the lock's."""
    for name, version in installed_versions(environment, SERVED_BY).items():
        if version != locked_versions()[name]:
            raise RuntimeError(f"{name} is {version} in {environment.bin}, and {locked_versions()[name]} in the lock.")


def variables_of(subject: Subject, environment: Environment, folder: Path, port: int = 8000) -> dict[str, str]:
    """Give the environment variables in which a subject is served or imported; its files are in `folder`."""
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
    """Give the modules, with commas, that the service imports and that neither it nor Python brings."""
    variables = variables_of(subject, environment, folder)
    command = [str(environment.python), "-c", THIRD_PARTY]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=variables, cwd=folder)
    return found.stdout.split()[-1]
