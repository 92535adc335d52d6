"""The image and the compose files as they are written and built: what is in them, and what is not."""

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

# Whatever is installed beside gunicorn, and in which version; and modules that have not been compiled.
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
    """What the engine knows of the image."""
    return inspect_image(stack.variables["IMAGE"])


def test_dockerfile_breaks_no_rule_of_hadolint(composed: Path) -> None:
    """No settings of this machine count, and none ignored in the file."""
    words = ["--config", "/dev/null", "--disable-ignore-pragma", "--format", "json"]
    assert json.loads(run([TOOLS / "hadolint", *words, composed / "Dockerfile"], composed).stdout) == []


def test_every_setting_in_the_environment_reaches_the_service(composed: Path, stack: Stack) -> None:
    code = "from app.settings import Settings; print(*map(str.upper, Settings.model_fields))"
    names = set(stack.exec("api", "python", "-c", code).split())
    decided = {"HOST", "PORT", "LOG_PATH", "LOG_ROTATION", "PID_FILE", "REQUEST_ID_TRUST", "FORWARDED_ALLOW_IPS"}
    reading = Stack(composed, "reading", **dict.fromkeys(names, "1"))
    config = json.loads(must(reading.compose("config", "--format", "json")).stdout)["services"]["api"]["environment"]
    assert {name for name in names if config.get(name) == "1"} >= names - decided
    assert not {name for name in decided & config.keys() if config[name] == "1"}


def test_packages_are_those_of_the_lock_without_tools(composed: Path, stack: Stack) -> None:
    installed = {tuple(line.split()) for line in stack.exec("api", "python", "-c", INSTALLED).splitlines()}
    locked = tomllib.loads((composed / "uv.lock").read_text("utf-8"))["package"]
    (service,) = (package for package in locked if package["source"] == {"virtual": "."})
    needed, tools = (
        {one["name"] for one in some} for some in (service["dependencies"], service["dev-dependencies"]["dev"])
    )
    assert len(installed) > 15
    assert installed <= {(package["name"], package["version"]) for package in locked}
    assert "pytest" in tools
    assert not (tools - needed) & {name for name, _ in installed}


def test_nothing_that_builds_or_tests_is_left(stack: Stack) -> None:
    """No builder, no tool, no cache, no test, no secret; the folder of the service holds what it needs to run."""
    words = ["run", "--rm", "--user", "0:0", "--network", "none", "--entrypoint", "sh", stack.variables["IMAGE"], "-c"]
    script = 'for name; do command -v "$name"; done; ls -A /root/.cache /app/.venv/bin/pip 2>/dev/null; ls -A /app'
    assert must(docker(*words, script, "sh", *FORBIDDEN_PROGRAMS)).stdout.split() == [
        ".venv", "app", "gun.py", "log_config.json", "pyproject.toml"]  # fmt: skip


def test_everything_is_compiled(stack: Stack) -> None:
    assert stack.exec("api", "python", "-I", "-c", UNCOMPILED).split() == []


def test_image_runs_the_server_as_a_user_by_number(image: dict[str, Any]) -> None:
    """It names the signal to end, and the port, and holds no secret."""
    config = image["Config"]
    assert (config["User"], config["Cmd"]) == ("10001:10001", ["gunicorn", "-c", "gun.py"])
    assert (config["StopSignal"], config["ExposedPorts"]) == ("SIGTERM", {"8000/tcp": {}})
    assert not [name for name in ("Entrypoint", "Volumes") if config.get(name)]
    own = {entry.partition("=")[0] for entry in config["Env"]}
    assert not {name for name in own if re.search(r"TOKEN|SECRET|PASSWORD|KEY", name)}


@pytest.fixture(scope="module")
def changed(composed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An image with a version, of changed code, built in a folder with files that it must not have."""
    project = tmp_path_factory.mktemp("changed") / composed.name
    shutil.copytree(composed, project)
    for name in (".env", "secret.pem", "notes.txt", ".git/config", "app/__pycache__/old.pyc", "tests/test_own.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("# not for the image\n")
    # Everything that gets to the builder gets into the image.
    for name, line in (("app/main.py", "# changed\n"), ("Dockerfile", "COPY . /everything\n")):
        with (project / name).open("a") as file:
            file.write(line)
    image = f"{image_of(composed)}-changed"
    found = Stack(project, "changed", VERSION="1.2.3", REVISION="abc123", IMAGE=image)
    must(found.compose("build", "--quiet", "api"))
    yield found
    docker("image", "rm", "--force", image)


def inspect_image(image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(must(docker("image", "inspect", image)).stdout)
    return found[0]


def test_labels_name_the_version(changed: Stack) -> None:
    labels = inspect_image(changed.variables["IMAGE"])["Config"]["Labels"]
    values = {name: labels.get(f"org.opencontainers.image.{name}") for name in ("title", "version", "revision")}
    assert values == {"title": changed.name, "version": "1.2.3", "revision": "abc123"}


def test_changed_code_changes_only_the_last_layer(changed: Stack, image: dict[str, Any]) -> None:
    *after, _everything = inspect_image(changed.variables["IMAGE"])["RootFS"]["Layers"]
    before = image["RootFS"]["Layers"]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_builder_gets_only_the_service(changed: Stack, composed: Path) -> None:
    words = ["run", "--rm", "--network", "none", "--entrypoint", "find", changed.variables["IMAGE"], "/everything"]
    found = {line.removeprefix("/everything/") for line in must(docker(*words, "-type", "f")).stdout.split()}
    top = {"gun.py", "log_config.json", "pyproject.toml", "uv.lock"}
    code = {path.relative_to(composed).as_posix() for path in (composed / "app").rglob("*") if path.is_file()}
    assert found == top | {name for name in code if "__pycache__" not in name}


def test_layers_of_packages_and_code_are_small(stack: Stack) -> None:
    words = ["history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", stack.variables["IMAGE"]]
    rows = [row.split(" ", 1) for row in must(docker(*words)).stdout.splitlines()]
    packages = sum(int(size) for size, command in rows if ".venv .venv" in command)
    code = sum(int(size) for size, command in rows if "COPY" in command and ".venv" not in command)
    assert 0 < packages < 60_000_000
    assert 0 < code < 1_000_000
