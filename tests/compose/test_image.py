"""The contents of the image: packages, files, user, labels, layers; and the settings in the compose file."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.baking import TOOLS, must, run
from tests.support.stack import Stack, docker, image_of

pytestmark = pytest.mark.full

# INSTALLED prints the packages in the environment of gunicorn, with versions; UNCOMPILED the modules without bytecode.
INSTALLED = """
import importlib.metadata as m, gunicorn, pathlib, re
for one in m.distributions(path=[str(pathlib.Path(gunicorn.__path__[0]).parent)]):
    print(re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(), one.version)
"""
UNCOMPILED = """
import importlib.util, pathlib
for top in ("/app/app", "/app/.venv/lib"):
    for path in pathlib.Path(top).rglob("*.py"):
        if not pathlib.Path(importlib.util.cache_from_source(str(path))).exists():
            print(path)
"""
FORBIDDEN_PROGRAMS = ["uv", "uvx", "gcc", "cc", "make", "git", "pytest", "mypy", "ruff", "lint-imports", "pre-commit"]


@pytest.fixture(scope="module")
def image(stack: Stack) -> dict[str, Any]:
    """What `docker image inspect` reports of the image."""
    return inspect_image(stack.variables["IMAGE"])


def test_dockerfile_passes_hadolint(built_project: Path) -> None:
    """Neither a configuration file of this machine nor an ignore comment in the Dockerfile turns a rule off."""
    args = ["--config", "/dev/null", "--disable-ignore-pragma", "--format", "json"]
    assert json.loads(run([TOOLS / "hadolint", *args, built_project / "Dockerfile"], built_project).stdout) == []


def test_settings_in_the_environment_are_passed_to_the_service(built_project: Path, stack: Stack) -> None:
    code = "from app.settings import Settings; print(*map(str.upper, Settings.model_fields))"
    names = set(stack.exec("api", "python", "-c", code).split())
    fixed = {"HOST", "PORT", "LOG_PATH", "LOG_ROTATION", "PID_FILE", "REQUEST_ID_TRUST", "FORWARDED_ALLOW_IPS"}
    all_set = Stack(built_project, "all-set", **dict.fromkeys(names, "1"))
    services = json.loads(must(all_set.compose("config", "--format", "json")).stdout)["services"]
    variables = services["api"]["environment"]
    assert {name for name in names if variables.get(name) == "1"} >= names - fixed
    assert not {name for name in fixed & variables.keys() if variables[name] == "1"}


def test_packages_are_the_locked_ones_without_development_tools(built_project: Path, stack: Stack) -> None:
    installed = {tuple(line.split()) for line in stack.exec("api", "python", "-c", INSTALLED).splitlines()}
    locked = tomllib.loads((built_project / "uv.lock").read_text("utf-8"))["package"]
    (service,) = (package for package in locked if package["source"] == {"virtual": "."})
    needed, tools = (
        {one["name"] for one in some} for some in (service["dependencies"], service["dev-dependencies"]["dev"])
    )
    assert len(installed) > 15
    assert installed <= {(package["name"], package["version"]) for package in locked}
    assert "pytest" in tools
    assert not (tools - needed) & {name for name, _ in installed}


def test_image_has_no_build_tools_caches_or_tests(stack: Stack) -> None:
    """/app has only what the service needs to run."""
    args = ["run", "--rm", "--user", "0:0", "--network", "none", "--entrypoint", "sh", stack.variables["IMAGE"], "-c"]
    script = 'for name; do command -v "$name"; done; ls -A /root/.cache /app/.venv/bin/pip 2>/dev/null; ls -A /app'
    assert must(docker(*args, script, "sh", *FORBIDDEN_PROGRAMS)).stdout.split() == [
        ".venv", "app", "gun.py", "log_config.json", "pyproject.toml"]  # fmt: skip


def test_all_modules_are_compiled(stack: Stack) -> None:
    assert stack.exec("api", "python", "-I", "-c", UNCOMPILED).split() == []


def test_image_runs_gunicorn_as_a_numeric_user(image: dict[str, Any]) -> None:
    """It declares the stop signal and the port; no environment variable has the name of a secret."""
    config = image["Config"]
    assert (config["User"], config["Cmd"]) == ("10001:10001", ["gunicorn", "-c", "gun.py"])
    assert (config["StopSignal"], config["ExposedPorts"]) == ("SIGTERM", {"8000/tcp": {}})
    assert not [name for name in ("Entrypoint", "Volumes") if config.get(name)]
    variables = {entry.partition("=")[0] for entry in config["Env"]}
    assert not {name for name in variables if re.search(r"TOKEN|SECRET|PASSWORD|KEY", name)}


@pytest.fixture(scope="module")
def changed_image(built_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An image with a version and changed code, built in a folder with files that must not get into the image."""
    project = tmp_path_factory.mktemp("changed") / built_project.name
    shutil.copytree(built_project, project)
    for name in (".env", "secret.pem", "notes.txt", ".git/config", "app/__pycache__/old.pyc", "tests/test_own.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("# not for the image\n")
    # Copies the whole build context into the image.
    for name, line in (("app/main.py", "# changed\n"), ("Dockerfile", "COPY . /everything\n")):
        with (project / name).open("a") as file:
            file.write(line)
    image = f"{image_of(built_project)}-changed"
    found = Stack(project, "changed", VERSION="1.2.3", REVISION="abc123", IMAGE=image)
    must(found.compose("build", "--quiet", "api"))
    yield found
    docker("image", "rm", "--force", image)


def inspect_image(image: str) -> dict[str, Any]:
    """Return what `docker image inspect` reports of an image."""
    found: list[dict[str, Any]] = json.loads(must(docker("image", "inspect", image)).stdout)
    return found[0]


def test_labels_have_title_version_and_revision(changed_image: Stack) -> None:
    labels = inspect_image(changed_image.variables["IMAGE"])["Config"]["Labels"]
    values = {name: labels.get(f"org.opencontainers.image.{name}") for name in ("title", "version", "revision")}
    assert values == {"title": changed_image.name, "version": "1.2.3", "revision": "abc123"}


def test_changed_code_changes_only_the_last_layer(changed_image: Stack, image: dict[str, Any]) -> None:
    *after, _everything = inspect_image(changed_image.variables["IMAGE"])["RootFS"]["Layers"]
    before = image["RootFS"]["Layers"]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_build_context_has_only_the_service(changed_image: Stack, built_project: Path) -> None:
    image = changed_image.variables["IMAGE"]
    args = ["run", "--rm", "--network", "none", "--entrypoint", "find", image, "/everything"]
    found = {line.removeprefix("/everything/") for line in must(docker(*args, "-type", "f")).stdout.split()}
    top = {"gun.py", "log_config.json", "pyproject.toml", "uv.lock"}
    code = {path.relative_to(built_project).as_posix() for path in (built_project / "app").rglob("*") if path.is_file()}
    assert found == top | {name for name in code if "__pycache__" not in name}


def test_layers_of_packages_and_code_are_small(stack: Stack) -> None:
    args = ["history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", stack.variables["IMAGE"]]
    rows = [row.split(" ", 1) for row in must(docker(*args)).stdout.splitlines()]
    packages = sum(int(size) for size, command in rows if ".venv .venv" in command)
    code = sum(int(size) for size, command in rows if "COPY" in command and ".venv" not in command)
    assert 0 < packages < 60_000_000
    assert 0 < code < 1_000_000
