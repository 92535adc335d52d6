"""`make run` for a new user: an empty home folder, no uv, and special characters in the name of the folder."""

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
from tests.support.documents import blocks, demo_responds, documents, get_demo, inline_code, is_listening
from tests.support.ports import free_port
from tests.support.terminal import Running, running
from tests.support.waiting import wait_for

DIFFICULT_NAME = "a folder {with} {{braces}}"
CTRL_C = b"\x03"
RUNNING = "Press Ctrl-C to stop it"


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of a user with an empty home folder and no uv; only the download caches are shared."""
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
    """A copy of the repository in a new git repository, committed."""
    folder = copy_repository(tmp_path_factory.mktemp("clone") / DIFFICULT_NAME)
    author = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "All"]):
        must(run(["git", *command], folder))
    return folder


@pytest.fixture(scope="module")
def service(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated project that the tests run."""
    return Path(shutil.copytree(project, tmp_path_factory.mktemp("service") / DIFFICULT_NAME))


def demo_results(output: str) -> dict[str, list[str]]:
    """Return the lines of header, body, log and access for each request that the demo has printed, by its heading."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"^GET .*(?:\n  (?:header|body|log|access) .*){4}", output, re.MULTILINE):
        heading, *lines = block.split("\n")
        found[heading] = lines
    return found


def check_demo(output: str) -> None:
    """Check that each request has one ID in four places; the 404 in three, as no application code runs that logs."""
    found = []
    for heading, lines in demo_results(output).items():
        request_id = lines[0].split("X-Request-ID: ")[1]
        assert len(request_id) >= 8
        found.append((heading.split()[1], heading.rsplit(": ", 1)[1], sum(request_id in line for line in lines)))
    demo = ("/api/demo", "200", 4)
    others = [("/api/demo/fail", "500", 4), ("/nowhere", "404", 3), ("/api/demo/background", "200", 4)]
    assert found == [demo, demo, *others], output
    assert "MISSING" not in output


@pytest.mark.full
def test_make_run_shows_each_id_in_four_places_and_exits_with_0_on_ctrl_c(
    clone: Path, newcomer: dict[str, str]
) -> None:
    port = free_port()
    variables = newcomer | {"PORT": str(port), "TERM": "xterm"}
    variables.pop("NO_COLOR", None)
    with running(["make", "run"], clone, variables, in_terminal=True) as demo:
        demo.wait_for(RUNNING)
        assert "\033[36m" in demo.output
        check_demo(re.sub(r"\033\[\d+m", "", demo.output))
        get_demo(port, "after-the-demo")
        demo.wait_for("after-the-demo 200 ")
        demo.type(CTRL_C)
        assert demo.wait_for_exit() == 0
    assert not is_listening(port)
    assert list(clone.glob(".uv/*/bin/uv"))
    assert must(run(["git", "status", "--porcelain"], clone)).stdout == ""


MAKE_RUN = ["make", "run"]
SIGNALS: dict[str, tuple[list[str], Callable[[Running], None], set[int]]] = {
    "SIGTERM to make": (MAKE_RUN, lambda demo: demo.process.terminate(), {0, -signal.SIGTERM}),
    "SIGINT to its group": (MAKE_RUN, lambda demo: demo.signal_group(signal.SIGINT), {0, 2, -signal.SIGINT}),
    "SIGTERM to the demo": (
        [".venv/bin/python", "-m", "scripts.demo", str(UV)],
        lambda demo: demo.process.terminate(),
        {0},
    ),
}


@pytest.mark.full
@pytest.mark.parametrize("case", SIGNALS)
def test_make_run_without_a_terminal_has_no_colours_and_stops_on_a_signal(
    clone: Path, newcomer: dict[str, str], case: str
) -> None:
    """Such as under a service manager, or a CI runner that interrupts the whole process group."""
    (command, stop, codes), port = SIGNALS[case], free_port()
    must(run([UV, "sync", "--quiet", "--locked", "--inexact", "--only-group", "generate"], clone))  # as `make run` does
    with running(command, clone, newcomer | {"PORT": str(port)}) as demo:
        demo.wait_for(RUNNING)
        assert "\033" not in demo.output
        check_demo(demo.output)
        stop(demo)
        assert demo.wait_for_exit() in codes
    assert "Traceback (most recent call last):\n  File" not in demo.output.split(RUNNING)[1]
    assert not is_listening(port)


@pytest.mark.full
def test_make_run_on_a_port_in_use_fails_and_shows_no_id_of_the_other_server(
    clone: Path, newcomer: dict[str, str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with running(["make", "run"], clone, newcomer | {"PORT": str(port)}) as demo:
            assert demo.wait_for_exit(120) != 0
    assert f"cannot listen on 127.0.0.1:{port}" in demo.output
    assert "Traceback" not in demo.output
    assert demo_results(demo.output) == {}


@pytest.mark.full
@pytest.mark.parametrize("in_terminal", [True, False], ids=["Ctrl-C, no uv on PATH", "SIGTERM to make, uv on PATH"])
def test_make_run_of_a_service_serves_and_stops(service: Path, newcomer: dict[str, str], in_terminal: bool) -> None:
    """Ctrl-C in the terminal also stops make: a shell sees exit code 130, Python -2."""
    port = free_port()
    variables = newcomer if in_terminal else environment(HOME=newcomer["HOME"])
    with running(["make", "run"], service, variables | {"PORT": str(port)}, in_terminal) as server:
        wait_for(lambda: demo_responds(port), "response of the service", seconds=120)
        assert get_demo(port, "hello-from-the-test")["request_id"] == "hello-from-the-test"
        for text in ("[hello-from-the-test] ", " hello-from-the-test 200 "):
            server.wait_for(text)
        if in_terminal:
            server.type(CTRL_C)
        else:
            server.process.terminate()
        assert server.wait_for_exit() in ({0, 2, 130, -signal.SIGINT} if in_terminal else {0, -signal.SIGTERM})
    assert not is_listening(port)


def targets(makefile: Path) -> set[str]:
    """Return the names of the commands of a Makefile."""
    (line,) = re.findall(r"^\.PHONY: (.+)$", makefile.read_text("utf-8"), re.MULTILINE)
    return set(line.split())


@pytest.mark.parametrize("folder", [ROOT, TEMPLATE_DIR], ids=["repository", "service"])
def test_documents_mention_every_make_command_and_no_other(folder: Path) -> None:
    code = [text for document in documents(folder) for text in [*blocks(document, "sh"), *inline_code(document)]]
    assert set(re.findall(r"\bmake ([a-z-]+)", "\n".join(code))) == targets(folder / "Makefile")


@pytest.mark.parametrize("port", ["eighty", "0", "99999"])
def test_make_run_rejects_an_invalid_port(port: str) -> None:
    result = run([sys.executable, "-m", "scripts.demo", UV], ROOT, environment(PORT=port))
    assert result.returncode == 1
    assert result.stderr == f"PORT is {port!r}: set it to a number from 1 to 65535.\n"
    assert result.stdout == ""


def test_makefiles_image_and_lock_have_the_same_version_of_uv() -> None:
    patterns = {"Makefile": r"^UV_VERSION := (\S+)$", "Dockerfile": r"^FROM ghcr\.io/astral-sh/uv:(\S+) AS uv$"}
    files = [ROOT / "Makefile", *(TEMPLATE_DIR / name for name in patterns)]
    found = {one for file in files for one in re.findall(patterns[file.name], file.read_text("utf-8"), re.MULTILINE)}
    assert found == {subprocess.run([UV, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]}
