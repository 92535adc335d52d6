"""The image and the compose files as they are written and built: what is in them, and what is not."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.baking import TOOLS, must, run
from tests.support.stack import Stack, docker, image_of, say

pytestmark = pytest.mark.full

MEBIBYTE = 1_000_000
# Whatever is installed, and in which version; and modules and packages that have not been compiled.
INSTALLED = """
import importlib.metadata as m, json, pathlib, re
names = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in m.distributions(path=["%s"])}
print(json.dumps(names))
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


# --- files -----------------------------------------------------------------------------------------------------------


def test_dockerfile_breaks_no_rule_of_hadolint(composed: Path) -> None:
    """No settings of this machine count, and none ignored in the file."""
    words = ["--config", "/dev/null", "--disable-ignore-pragma", "--format", "json"]
    assert json.loads(run([TOOLS / "hadolint", *words, composed / "Dockerfile"], composed).stdout) == []


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.dev.yaml"]], ids=["alone", "develop"])
def test_compose_files_are_valid(composed: Path, files: list[str]) -> None:
    """Compose reads them without a warning."""
    words = [word for name in files for word in ("--file", name)]
    result = must(Stack(composed, "valid").compose(*words, "config", "--quiet"))
    assert result.stdout + result.stderr == ""


def test_every_setting_in_the_environment_reaches_the_service(composed: Path, stack: Stack) -> None:
    """But for what compose.yaml decides."""
    code = "from app.settings import Settings; print(*map(str.upper, Settings.model_fields))"
    names = set(stack.exec("api", "python", "-c", code).split())
    decided = {"HOST", "PORT", "LOG_PATH", "LOG_ROTATION", "PID_FILE", "REQUEST_ID_TRUST", "FORWARDED_ALLOW_IPS"}
    reading = Stack(composed, "reading", **dict.fromkeys(names, "1"))
    config = json.loads(must(reading.compose("config", "--format", "json")).stdout)["services"]["api"]["environment"]
    assert {name for name in names if config.get(name) == "1"} >= names - decided
    assert not {name for name in decided & config.keys() if config[name] == "1"}


# --- image -----------------------------------------------------------------------------------------------------------


def locked(project: Path) -> dict[str, set[str]]:
    """Give the versions of the packages that the service needs on Linux, by uv's own reading of the lock."""
    words = ["export", "--locked", "--no-dev", "--no-hashes", "--no-header", "--no-annotate", "--no-emit-project"]
    text = must(run([TOOLS / "uv", "--offline", *words, "--quiet"], project)).stdout
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        requirement, _, marker = line.partition(" ; ")
        name, _, version = requirement.partition("==")
        if not re.search(r"== '(win32|emscripten)'|python_full_version < |python_version < ", marker):
            found.setdefault(name.partition("[")[0], set()).add(version.strip())
    return found


def test_packages_are_those_of_the_lock(composed: Path, stack: Stack) -> None:
    where = stack.exec("api", "python", "-c", "import gunicorn; print(gunicorn.__path__[0])").strip()
    code = INSTALLED % Path(where).parent
    installed: dict[str, str] = json.loads(stack.exec("api", "python", "-I", "-c", code))
    wanted = locked(composed)
    assert len(wanted) > 15
    assert {name: {version} for name, version in installed.items()} == wanted


def test_nothing_that_builds_or_tests_is_left(stack: Stack) -> None:
    """No builder, no tool, no cache, no test, no secret; the folder of the service holds what it needs to run."""
    words = ["run", "--rm", "--user", "0:0", "--network", "none", "--entrypoint", "sh", stack.variables["IMAGE"], "-c"]
    script = 'for name; do command -v "$name"; done; ls -A /root/.cache /app/.venv/bin/pip 2>/dev/null; ls -A /app'
    assert must(docker(*words, script, "sh", *FORBIDDEN_PROGRAMS)).stdout.split() == [
        ".venv", "app", "gun.py", "log_config.json", "pyproject.toml"]  # fmt: skip


def test_everything_is_compiled(stack: Stack) -> None:
    """No start has to compile, as it could not keep the result."""
    assert stack.exec("api", "python", "-I", "-c", UNCOMPILED).split() == []


def test_image_runs_the_server_as_a_user_by_number(image: dict[str, Any]) -> None:
    """It names the signal to end, and the port, and holds no secret."""
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Cmd"] == ["gunicorn", "-c", "gun.py"]
    assert not config.get("Entrypoint")
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"8000/tcp": {}}
    assert not config.get("Volumes")
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
    """Give what the engine knows of an image."""
    found: list[dict[str, Any]] = json.loads(must(docker("image", "inspect", image)).stdout)
    return found[0]


def test_labels_name_the_version(changed: Stack) -> None:
    labels = inspect_image(changed.variables["IMAGE"])["Config"]["Labels"]
    values = {name: labels.get(f"org.opencontainers.image.{name}") for name in ("title", "version", "revision")}
    assert values == {"title": changed.name, "version": "1.2.3", "revision": "abc123"}


def test_changed_code_changes_only_the_last_layer(changed: Stack, image: dict[str, Any]) -> None:
    after, before = (found["RootFS"]["Layers"] for found in (inspect_image(changed.variables["IMAGE"]), image))
    *after, _everything = after
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]


def test_builder_gets_only_the_service(changed: Stack, composed: Path) -> None:
    """No secret, no history and no test."""
    words = ["run", "--rm", "--network", "none", "--entrypoint", "find", changed.variables["IMAGE"], "/everything"]
    found = {line.removeprefix("/everything/") for line in must(docker(*words, "-type", "f")).stdout.split()}
    top = {"gun.py", "log_config.json", "pyproject.toml", "uv.lock"}
    code = {path.relative_to(composed).as_posix() for path in (composed / "app").rglob("*") if path.is_file()}
    assert found == top | {name for name in code if "__pycache__" not in name}


def test_layers_of_packages_and_code_are_small(image: dict[str, Any], stack: Stack) -> None:
    words = ["history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", stack.variables["IMAGE"]]
    rows = [row.split(" ", 1) for row in must(docker(*words)).stdout.splitlines()]
    packages = sum(int(size) for size, command in rows if ".venv .venv" in command)
    code = sum(int(size) for size, command in rows if "COPY" in command and ".venv" not in command)
    say(
        f"image {image['Size'] / MEBIBYTE:.0f} MB; packages {packages / MEBIBYTE:.1f} MB, code {code / MEBIBYTE:.2f} MB"
    )
    assert 0 < packages < 60 * MEBIBYTE
    assert 0 < code < 1 * MEBIBYTE
