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
from tests.support.stack import Stack, docker, say

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
    found: list[dict[str, Any]] = json.loads(must(docker("image", "inspect", stack.variables["IMAGE"])).stdout)
    return found[0]


def resolved(project: Path, *files: str, **variables: str) -> dict[str, Any]:
    """Give what Compose reads out of compose files."""
    stack = Stack(project, "reading", **variables)
    words = [word for name in files for word in ("--file", name)]
    config: dict[str, Any] = json.loads(must(stack.compose(*words, "config", "--format", "json")).stdout)
    return config


@pytest.fixture(scope="module")
def services(composed: Path) -> dict[str, Any]:
    """The services of compose.yaml."""
    found: dict[str, Any] = resolved(composed)["services"]
    return found


def seconds(text: str) -> int:
    """Read a span such as `1m30s` or `40s`."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", text)
    assert found, text
    return 60 * int(found[1] or 0) + int(found[2] or 0)


# --- files -----------------------------------------------------------------------------------------------------------


def lint(dockerfile: Path) -> list[str]:
    """Give the rules that a Dockerfile breaks; no settings of this machine, none ignored in the file."""
    command: list[str | Path] = [TOOLS / "hadolint", "--config", "/dev/null", "--disable-ignore-pragma"]
    result = run([*command, "--failure-threshold", "none", "--format", "json", dockerfile], dockerfile.parent)
    return [finding["code"] for finding in json.loads(result.stdout)]


def test_dockerfile_follows_all_rules(composed: Path) -> None:
    """No rule of hadolint is broken."""
    assert lint(composed / "Dockerfile") == []


def test_broken_rules_are_noticed(composed: Path, tmp_path: Path) -> None:
    """The same check, of a file that breaks some."""
    text = (composed / "Dockerfile").read_text().replace("python:3.13-slim-trixie", "python")
    bad = tmp_path / "Dockerfile"
    bad.write_text(text.replace('CMD ["gunicorn", "-c", "gun.py"]', "CMD gunicorn -c gun.py"))
    assert {"DL3006", "DL3025"} <= set(lint(bad))


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.dev.yaml"]], ids=["alone", "develop"])
def test_compose_files_are_valid(composed: Path, files: list[str]) -> None:
    """Compose reads them without a warning."""
    words = [word for name in files for word in ("--file", name)]
    result = must(Stack(composed, "valid").compose(*words, "config", "--quiet"))
    assert result.stdout + result.stderr == ""


def test_services_are_hardened(services: dict[str, Any]) -> None:
    """Both services, and there are no others, have each of the restrictions."""
    assert services.keys() == {"nginx", "api"}
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert int(service["mem_limit"]) <= 1 << 30
        assert service["pids_limit"] <= 1024
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
        assert all("size=" in mount for mount in service["tmpfs"])
        assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & service.keys()


def test_files_have_no_version(composed: Path) -> None:
    """Compose has not read that line for years, and warns of it."""
    for path in composed.glob("compose*.yaml"):
        assert not re.search(r"^version:", path.read_text(), re.MULTILINE), path.name


def test_mounts_are_read_only(services: dict[str, Any]) -> None:
    """What a container sees of the host it cannot change."""
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    assert mounts
    assert all(mount.get("read_only") is True for mount in mounts), mounts


def test_each_service_is_checked(services: dict[str, Any], image: dict[str, Any]) -> None:
    """The engine asks each for its health, nginx by the compose file, the service by its image."""
    assert services["nginx"]["healthcheck"]["test"][0] == "CMD"
    assert image["Config"]["Healthcheck"]["Test"][0] == "CMD"


def test_patience_grows_from_the_inside_out(composed: Path, services: dict[str, Any], stack: Stack) -> None:
    """Each layer gives the one within enough time to end, and lets no connection go that the outer one counts on."""
    code = "from app.settings import get_settings as s; print(s().graceful_timeout, s().keepalive)"
    graceful, keepalive = map(int, stack.exec("api", "python", "-c", code).split())
    assert seconds(services["api"]["stop_grace_period"]) > graceful
    nginx = composed / "deploy/nginx"
    found = re.findall(r"worker_shutdown_timeout (\w+);", stack.exec("nginx", "cat", "/proc/1/cmdline"))
    assert len(found) == 1
    assert graceful < seconds(found[0]) < seconds(services["nginx"]["stop_grace_period"])
    upstream = re.findall(r'"    keepalive_timeout (\w+);"', (nginx / "start.sh").read_text())
    assert len(upstream) == 1
    assert keepalive > seconds(upstream[0])


def test_every_setting_arrives(composed: Path, stack: Stack) -> None:
    """What is set in the environment reaches the service, but for what compose.yaml decides; none is forgotten."""
    code = (
        "import json; from app.settings import Settings; print(json.dumps([n.upper() for n in Settings.model_fields]))"
    )
    names = set(json.loads(stack.exec("api", "python", "-c", code)))
    decided = {"HOST", "PORT", "LOG_PATH", "LOG_ROTATION", "PID_FILE", "REQUEST_ID_TRUST", "FORWARDED_ALLOW_IPS"}
    config = resolved(composed, **dict.fromkeys(names, "1"))["services"]["api"]["environment"]
    assert {name for name in names if config.get(name) == "1"} >= names - decided
    assert not {name for name in decided & config.keys() if config[name] == "1"}
    bare = resolved(composed)["services"]["api"]["environment"]
    assert {name for name, value in bare.items() if value is None} <= names


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
    """Each locked package is there in its version, and no other one."""
    where = stack.exec("api", "python", "-c", "import gunicorn; print(gunicorn.__path__[0])").strip()
    code = INSTALLED % Path(where).parent
    installed: dict[str, str] = json.loads(stack.exec("api", "python", "-I", "-c", code))
    wanted = locked(composed)
    assert len(wanted) > 15
    assert {name: {version} for name, version in installed.items()} == wanted
    versions = tomllib.loads((composed / "uv.lock").read_text())["package"]
    assert all(any(p["name"] == n and p["version"] == v for p in versions) for n, v in installed.items())


def test_nothing_that_builds_or_tests_is_left(stack: Stack) -> None:
    """No builder, no tool, no cache, no test, no secret; the folder of the service holds what it needs to run."""
    words = ["run", "--rm", "--user", "0:0", "--network", "none", "--entrypoint", "sh", stack.variables["IMAGE"], "-c"]
    script = 'for name; do command -v "$name" || true; done; ls -A /root/.cache /app/.venv/bin/pip 2>/dev/null || true'
    assert must(docker(*words, script, "sh", *FORBIDDEN_PROGRAMS)).stdout == ""
    assert must(docker(*words, "ls -A /app")).stdout.split() == [
        ".venv",
        "app",
        "gun.py",
        "log_config.json",
        "pyproject.toml",
    ]


def test_everything_is_compiled(stack: Stack) -> None:
    """No start has to compile, as it could not keep the result."""
    assert stack.exec("api", "python", "-I", "-c", UNCOMPILED).split() == []


def test_configuration(image: dict[str, Any]) -> None:
    """A user by number, a server without a shell around it, its signal, its port."""
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
def labelled(composed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An image that is built with a version, in a folder with files that are nobody's business."""
    project = tmp_path_factory.mktemp("labelled") / composed.name
    shutil.copytree(composed, project)
    for name in (".env", "secret.pem", "notes.txt", ".git/config", "app/__pycache__/old.pyc", "tests/test_own.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("# NOBODYS_BUSINESS\n")
    # Everything that gets to the builder lands in the image.
    text = (project / "Dockerfile").read_text() + "COPY . /everything\n"
    (project / "Dockerfile").write_text(text)
    image = f"{Stack(project, 'name').name}-labelled"
    found = Stack(project, "labelled", VERSION="1.2.3", REVISION="abc123", IMAGE=image)
    must(found.compose("build", "--quiet", "api"))
    yield found
    docker("image", "rm", "--force", image)


def test_labels(labelled: Stack) -> None:
    """The image says which version of what it is."""
    text = docker("image", "inspect", "--format", "{{json .Config.Labels}}", labelled.variables["IMAGE"]).stdout
    labels = json.loads(text)
    values = {name: labels.get(f"org.opencontainers.image.{name}") for name in ("title", "version", "revision")}
    assert values == {"title": labelled.name, "version": "1.2.3", "revision": "abc123"}


def test_builder_sees_only_the_service(labelled: Stack, composed: Path) -> None:
    """No secret, no history and no test gets into the builder's context."""
    words = ["run", "--rm", "--network", "none", "--entrypoint", "find", labelled.variables["IMAGE"], "/everything"]
    found = {line.removeprefix("/everything/") for line in must(docker(*words, "-type", "f")).stdout.split()}
    top = {"gun.py", "log_config.json", "pyproject.toml", "uv.lock"}
    code = {path.relative_to(composed).as_posix() for path in (composed / "app").rglob("*") if path.is_file()}
    assert found == top | {name for name in code if "__pycache__" not in name}


def test_size(image: dict[str, Any], stack: Stack) -> None:
    """What the service adds to Python is small, and a change of the code adds next to nothing."""
    words = ["history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", stack.variables["IMAGE"]]
    rows = [row.split(" ", 1) for row in must(docker(*words)).stdout.splitlines()]
    packages = sum(int(size) for size, command in rows if ".venv .venv" in command)
    code = sum(int(size) for size, command in rows if "COPY" in command and ".venv" not in command)
    say(
        f"image {image['Size'] / MEBIBYTE:.0f} MB; packages {packages / MEBIBYTE:.1f} MB, code {code / MEBIBYTE:.2f} MB"
    )
    assert 0 < packages < 60 * MEBIBYTE
    assert 0 < code < 1 * MEBIBYTE
