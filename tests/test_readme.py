"""The commands of the first screens, run by somebody new: empty home, no uv, a hard name."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from scripts.snapshot import ROOT, copy_repository
from tests.support.baking import TEMPLATE_DIR, UV, environment, must, run
from tests.support.ports import free_port
from tests.support.terminal import running
from tests.test_docs import blocks, documents, inline_code

HARD_NAME = "a folder {with} {{braces}}"
CTRL_C = b"\x03"
STAYS = "Ctrl-C stops it"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user with an empty home and no uv; only downloads are shared, to be kind to the network."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "home").mkdir()
    (folder / "bin").mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for program in Path(place).glob("*"):
            if program.name not in {"uv", "uvx"} and Path(place) != UV.parent:
                (folder / "bin" / program.name).unlink(missing_ok=True)
                (folder / "bin" / program.name).symlink_to(program)
    return environment(
        PATH=str(folder / "bin"),
        HOME=str(folder / "home"),
        UV_CACHE_DIR=must(run([UV, "cache", "dir"], folder)).stdout.strip(),
        PIP_CACHE_DIR=str(folder / "pip"),
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh checkout, with a commit of its own."""
    folder = copy_repository(tmp_path_factory.mktemp("clone") / HARD_NAME)
    author = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "All"]):
        must(run(["git", *command], folder))
    return folder


def listens(port: int) -> bool:
    """Whether anybody answers at the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def trails(said: str) -> dict[str, list[str]]:
    """Give the lines of header, body, log and access for each request that the demo has shown, by its heading."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"^GET .*(?:\n  (?:header|body|log|access) .*){4}", said, re.MULTILINE):
        heading, *lines = block.split("\n")
        found[heading] = lines
    return found


def check_trails(said: str) -> None:
    """Each request has one ID, in all four places; the 404 in three, as nothing of the application ran."""
    shown = trails(said)
    assert [heading.split()[1] for heading in shown] == [
        "/api/demo",
        "/api/demo",
        "/api/demo/fail",
        "/nowhere",
        "/api/demo/background",
    ]
    for heading, lines in shown.items():
        request_id = lines[0].split("X-Request-ID: ")[1]
        assert len(request_id) >= 8
        assert sum(request_id in line for line in lines) == (3 if "/nowhere" in heading else 4), said
    assert [heading.rsplit(": ", 1)[1] for heading in shown] == ["200", "200", "500", "404", "200"]
    assert "MISSING" not in said


def test_make_run_in_a_terminal(clone: Path, newcomer: dict[str, str]) -> None:
    """The first command of the README, from nothing to Ctrl-C, after which make itself ends with 0."""
    port = free_port()
    variables = newcomer | {"PORT": str(port), "TERM": "xterm"}
    variables.pop("NO_COLOR", None)
    with running(["make", "run"], clone, variables, in_terminal=True) as demo:
        demo.wait_for(STAYS)
        assert "\033[36m" in demo.said
        check_trails(re.sub(r"\033\[\d+m", "", demo.said))
        answer(port, "after-the-demo")
        demo.wait_for("after-the-demo 200 ")
        demo.type(CTRL_C)
        assert demo.end() == 0
    assert not listens(port)
    assert list(clone.glob(".uv/*/bin/uv"))
    assert must(run(["git", "status", "--porcelain"], clone)).stdout == ""


def answer(port: int, request_id: str) -> dict[str, str]:
    """Ask the service's demo page, with an ID of ours."""
    request = Request(f"http://127.0.0.1:{port}/api/demo", headers={"X-Request-ID": request_id})
    with urlopen(request, timeout=30) as response:
        assert response.headers["X-Request-ID"] == request_id
        body: dict[str, str] = json.load(response)
        return body


def test_make_run_without_a_terminal(clone: Path, newcomer: dict[str, str]) -> None:
    """Plain text goes into a file, and SIGTERM to make stops the server too."""
    port = free_port()
    with running(["make", "run"], clone, newcomer | {"PORT": str(port)}) as demo:
        demo.wait_for(STAYS)
        assert "\033" not in demo.said
        check_trails(demo.said)
        demo.process.terminate()
        assert demo.end() in {0, -signal.SIGTERM}
    assert not listens(port)


def test_make_run_interrupted_as_a_group(clone: Path, newcomer: dict[str, str]) -> None:
    """SIGINT to everything at once, as from a runner that has no terminal."""
    port = free_port()
    with running(["make", "run"], clone, newcomer | {"PORT": str(port), "NO_COLOR": "1"}) as demo:
        demo.wait_for(STAYS)
        demo.tell_group(signal.SIGINT)
        assert demo.end() in {0, 2, -signal.SIGINT}
    assert "Traceback (most recent call last):\n  File" not in demo.said.split(STAYS)[1]
    assert not listens(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_ends_with_0(clone: Path, newcomer: dict[str, str], number: signal.Signals) -> None:
    """Whichever way it is told to end: what make runs gives 0, and no server stays."""
    port = free_port()
    command = [str(clone / ".venv" / "bin" / "python"), "-m", "scripts.demo", str(UV)]
    with running(command, clone, newcomer | {"PORT": str(port)}) as demo:
        demo.wait_for(STAYS)
        demo.process.send_signal(number)
        assert demo.end() == 0
    assert not listens(port)


def test_make_run_on_a_taken_port(clone: Path, newcomer: dict[str, str]) -> None:
    """The server's own sentence, no ID of somebody else's server, and an exit code that is not 0."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with running(["make", "run"], clone, newcomer | {"PORT": str(port)}) as demo:
            assert demo.end(120) != 0
    assert f"cannot listen on 127.0.0.1:{port}" in demo.said
    assert "Traceback" not in demo.said
    assert trails(demo.said) == {}


def test_project_make_run(project: Path, newcomer: dict[str, str], tmp_path: Path) -> None:
    """The generated project's first command, from nothing as well."""
    fresh, port = shutil.copytree(project, tmp_path / HARD_NAME), free_port()
    with running(["make", "run"], Path(fresh), newcomer | {"PORT": str(port)}, in_terminal=True) as service:
        wait_for_port(port)
        assert answer(port, "hello-from-the-test")["request_id"] == "hello-from-the-test"
        service.wait_for("[hello-from-the-test] ")
        service.wait_for(" hello-from-the-test 200 ")
        service.type(CTRL_C)
        # A make that gets Ctrl-C from the terminal ends by it: 130 to a shell, -2 to Python.
        assert service.end() in {0, 2, 130, -signal.SIGINT}
    assert not listens(port)


def test_project_make_run_as_a_service(project: Path, newcomer: dict[str, str], tmp_path: Path) -> None:
    """SIGTERM to make alone, as from a service manager, stops the server too."""
    fresh, port = shutil.copytree(project, tmp_path / project.name), free_port()
    variables = environment(PORT=str(port), HOME=newcomer["HOME"])
    with running(["make", "run"], Path(fresh), variables) as service:
        wait_for_port(port)
        service.process.terminate()
        assert service.end() in {0, -signal.SIGTERM}
    assert not listens(port)


def answers(port: int) -> bool:
    """Whether the service answers; some servers listen a while before they do."""
    try:
        return bool(answer(port, "does-it-answer"))
    except OSError:
        return False


def wait_for_port(port: int, seconds: float = 120) -> None:
    """Wait until somebody answers at the port."""
    end = time.monotonic() + seconds
    while not listens(port):
        assert time.monotonic() < end, f"nobody answers at {port}"
        time.sleep(0.05)


def targets(makefile: Path) -> set[str]:
    """Give the names of the commands of a Makefile."""
    (line,) = re.findall(r"^\.PHONY: (.+)$", makefile.read_text("utf-8"), re.MULTILINE)
    return set(line.split())


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE_DIR], ids=["repository", "service"])
def test_commands_of_make(folder: Path) -> None:
    """What the documents say can be made is what the Makefile makes, all of it and nothing else."""
    code = [text for document in documents(folder) for text in [*blocks(document, "sh"), *inline_code(document)]]
    assert set(re.findall(r"\bmake ([a-z]+)", "\n".join(code))) == targets(folder / "Makefile")


@pytest.mark.parametrize("port", ["eighty", "0", "99999"])
def test_make_run_on_no_port(port: str) -> None:
    """A PORT that is none is refused with a sentence, before anything is made."""
    result = run([sys.executable, "-m", "scripts.demo", UV], ROOT, environment(PORT=port))
    assert result.returncode == 1
    assert result.stderr == f"PORT is {port!r}: write a number from 1 to 65535.\n"
    assert result.stdout == ""


def test_uv_is_one_version() -> None:
    """Both Makefiles put in the uv that wrote the lock, and the image is built with it."""
    looks = {"Makefile": r"^UV_VERSION := (\S+)$", "Dockerfile": r"^FROM ghcr\.io/astral-sh/uv:(\S+) AS uv$"}
    files = [ROOT / "Makefile", *(TEMPLATE_DIR / name for name in looks)]
    found = {
        version for file in files for version in re.findall(looks[file.name], file.read_text("utf-8"), re.MULTILINE)
    }
    assert found == {subprocess.run([UV, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]}
