"""The commands of the first screens, run by a new user: empty home, no uv, a folder with a difficult name."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.snapshot import ROOT, copy_repository
from tests.support.baking import TEMPLATE_DIR, UV, environment, must, run
from tests.support.documents import blocks, demo_answers, documents, get_demo, inline_code, listens
from tests.support.ports import free_port
from tests.support.terminal import Running, running
from tests.support.waiting import wait_for

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


@pytest.fixture(scope="module")
def service(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated project, to run."""
    return Path(shutil.copytree(project, tmp_path_factory.mktemp("service") / HARD_NAME))


def trails(said: str) -> dict[str, list[str]]:
    """Return the lines of header, body, log and access for each request that the demo has shown, by its heading."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"^GET .*(?:\n  (?:header|body|log|access) .*){4}", said, re.MULTILINE):
        heading, *lines = block.split("\n")
        found[heading] = lines
    return found


def check_trails(said: str) -> None:
    """Each request has one ID, in all four places; the 404 in three, as nothing of the application ran."""
    found = []
    for heading, lines in trails(said).items():
        request_id = lines[0].split("X-Request-ID: ")[1]
        assert len(request_id) >= 8
        found.append((heading.split()[1], heading.rsplit(": ", 1)[1], sum(request_id in line for line in lines)))
    demo = ("/api/demo", "200", 4)
    others = [("/api/demo/fail", "500", 4), ("/nowhere", "404", 3), ("/api/demo/background", "200", 4)]
    assert found == [demo, demo, *others], said
    assert "MISSING" not in said


@pytest.mark.full
def test_make_run_shows_each_id_in_four_places_and_ends_with_0_on_ctrl_c(clone: Path, newcomer: dict[str, str]) -> None:
    port = free_port()
    variables = newcomer | {"PORT": str(port), "TERM": "xterm"}
    variables.pop("NO_COLOR", None)
    with running(["make", "run"], clone, variables, in_terminal=True) as demo:
        demo.wait_for(STAYS)
        assert "\033[36m" in demo.said
        check_trails(re.sub(r"\033\[\d+m", "", demo.said))
        get_demo(port, "after-the-demo")
        demo.wait_for("after-the-demo 200 ")
        demo.type(CTRL_C)
        assert demo.end() == 0
    assert not listens(port)
    assert list(clone.glob(".uv/*/bin/uv"))
    assert must(run(["git", "status", "--porcelain"], clone)).stdout == ""


MAKE_RUN = ["make", "run"]
ENDS: dict[str, tuple[list[str], Callable[[Running], None], set[int]]] = {
    "SIGTERM to make": (MAKE_RUN, lambda demo: demo.process.terminate(), {0, -signal.SIGTERM}),
    "SIGINT to its group": (MAKE_RUN, lambda demo: demo.tell_group(signal.SIGINT), {0, 2, -signal.SIGINT}),
    "SIGTERM to what it runs": (
        [".venv/bin/python", "-m", "scripts.demo", str(UV)],
        lambda demo: demo.process.terminate(),
        {0},
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("end", ENDS)
def test_make_run_without_a_terminal_has_no_colours_and_stops_on_a_signal(
    clone: Path, newcomer: dict[str, str], end: str
) -> None:
    """Such as from a service manager, or a runner that interrupts everything at once."""
    (command, stop, codes), port = ENDS[end], free_port()
    must(run([UV, "sync", "--quiet", "--locked", "--inexact", "--only-group", "generate"], clone))  # as `make run` does
    with running(command, clone, newcomer | {"PORT": str(port)}) as demo:
        demo.wait_for(STAYS)
        assert "\033" not in demo.said
        check_trails(demo.said)
        stop(demo)
        assert demo.end() in codes
    assert "Traceback (most recent call last):\n  File" not in demo.said.split(STAYS)[1]
    assert not listens(port)


@pytest.mark.full
def test_make_run_on_a_port_in_use_fails_and_shows_no_id_of_the_other_server(
    clone: Path, newcomer: dict[str, str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with running(["make", "run"], clone, newcomer | {"PORT": str(port)}) as demo:
            assert demo.end(120) != 0
    assert f"cannot listen on 127.0.0.1:{port}" in demo.said
    assert "Traceback" not in demo.said
    assert trails(demo.said) == {}


@pytest.mark.full
@pytest.mark.parametrize("in_terminal", [True, False], ids=["Ctrl-C, no uv on PATH", "SIGTERM to make, uv on PATH"])
def test_make_run_of_a_service_serves_and_stops(service: Path, newcomer: dict[str, str], in_terminal: bool) -> None:
    """A make that gets Ctrl-C from the terminal ends by it: 130 to a shell, -2 to Python."""
    port = free_port()
    variables = newcomer if in_terminal else environment(HOME=newcomer["HOME"])
    with running(["make", "run"], service, variables | {"PORT": str(port)}, in_terminal) as server:
        wait_for(lambda: demo_answers(port), "response of the service", seconds=120)
        assert get_demo(port, "hello-from-the-test")["request_id"] == "hello-from-the-test"
        for words in ("[hello-from-the-test] ", " hello-from-the-test 200 "):
            server.wait_for(words)
        if in_terminal:
            server.type(CTRL_C)
        else:
            server.process.terminate()
        assert server.end() in ({0, 2, 130, -signal.SIGINT} if in_terminal else {0, -signal.SIGTERM})
    assert not listens(port)


def targets(makefile: Path) -> set[str]:
    """Give the names of the commands of a Makefile."""
    (line,) = re.findall(r"^\.PHONY: (.+)$", makefile.read_text("utf-8"), re.MULTILINE)
    return set(line.split())


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE_DIR], ids=["repository", "service"])
def test_documents_name_every_command_of_make_and_no_other(folder: Path) -> None:
    code = [text for document in documents(folder) for text in [*blocks(document, "sh"), *inline_code(document)]]
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code))) == targets(folder / "Makefile")


@pytest.mark.parametrize("port", ["eighty", "0", "99999"])
def test_make_run_refuses_an_impossible_port(port: str) -> None:
    result = run([sys.executable, "-m", "scripts.demo", UV], ROOT, environment(PORT=port))
    assert result.returncode == 1
    assert result.stderr == f"PORT is {port!r}: write a number from 1 to 65535.\n"
    assert result.stdout == ""


def test_makefiles_image_and_lock_have_one_version_of_uv() -> None:
    looks = {"Makefile": r"^UV_VERSION := (\S+)$", "Dockerfile": r"^FROM ghcr\.io/astral-sh/uv:(\S+) AS uv$"}
    files = [ROOT / "Makefile", *(TEMPLATE_DIR / name for name in looks)]
    found = {one for file in files for one in re.findall(looks[file.name], file.read_text("utf-8"), re.MULTILINE)}
    assert found == {subprocess.run([UV, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]}
