"""`docker compose up` of a freshly generated service: one ID, one duration, one setting for both."""

import json
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.baking import must
from tests.support.client import Answer, build_request, new_id
from tests.support.lines import TEXT_ACCESS, TEXT_APP
from tests.support.stack import Line, Stack, docker, say
from tests.support.waiting import wait_for

# Method, target, status, and whether an application line belongs to it.
OUTCOMES = [
    ("GET", "/api/demo", 200, True),
    ("HEAD", "/api/demo", 405, False),
    ("GET", "/nowhere", 404, False),
    ("GET", "/api/demo/wait?seconds=long", 422, False),
    ("GET", "/api/demo/fail", 500, True),
]
# nginx counts whole milliseconds, by a clock that it reads from time to time.
COARSE = 0.002


@pytest.fixture(scope="module")
def other(composed: Path) -> Iterator[Stack]:
    """The service with other values, each given once, in the environment."""
    header = {"REQUEST_ID_HEADER": "X-Correlation-ID"}
    with Stack(composed, "other", LOG_FORMAT="text", MAX_BODY_BYTES="1000", **header) as running:
        yield running


def lines_by_origin(stack: Stack, request_id: str, count: int) -> tuple[list[Line], list[Line], list[Line]]:
    """Give the lines of a request: of nginx, access lines, of the application."""
    lines = stack.wait_for_lines(request_id, count)
    nginx = [line for line in lines if line.get("logger") == "nginx"]
    access = [line for line in lines if "ttfb" in line]
    return nginx, access, [line for line in lines if line not in nginx + access]


def assert_joined(stack: Stack, answer: Answer, target: str, *, has_line: bool) -> None:
    """One line of nginx and one access line have the answer's ID and status; an application line where one belongs."""
    nginx, access, app = lines_by_origin(stack, answer.one(), 3 if has_line else 2)
    assert {(line["status"], line["path"]) for line in nginx + access} == {(answer.status, target.partition("?")[0])}
    assert len(nginx) == len(access) == 1
    assert bool(app) == has_line


def test_default_start_needs_nothing(stack: Stack) -> None:
    """There is no `.env`, and no variable but those that keep the tests apart."""
    assert not (stack.project / ".env").exists()
    assert stack.request("GET", "/api/demo").status == 200


@pytest.mark.parametrize("own", [True, False], ids=["own", "made"])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_one_id_in_every_place(stack: Stack, outcome: tuple[str, str, int, bool], *, own: bool) -> None:
    """The answer's header and body, nginx's line, the access line and the application's have the same ID."""
    method, target, status, has_line = outcome
    request_id = new_id("up") if own else None
    answer = stack.request(method, target, request_id=request_id)
    assert answer.status == status
    assert request_id in (None, answer.one())
    assert method == "HEAD" or answer.json()["request_id"] == answer.one()
    assert_joined(stack, answer, target, has_line=has_line)


def timed(stack: Stack, target: str) -> tuple[float, float, float]:
    """Give the seconds of a request as client, nginx and service count them."""
    request_id = new_id("time")
    began = time.perf_counter()
    stack.request("GET", target, request_id=request_id)
    seconds = time.perf_counter() - began
    nginx, access, _ = lines_by_origin(stack, request_id, 2)
    return seconds, nginx[0]["duration"], access[0]["duration"]


@pytest.mark.parametrize(
    ("target", "least"), [("/api/demo", 0), ("/probe/slow?seconds=0.3", 0.3), ("/api/demo/stream?lines=3", 0.3)]
)
def test_times_contain_each_other(stack: Stack, target: str, least: float) -> None:
    """What the client measures is at least what nginx says, and that is at least what the service says."""
    times = [timed(stack, target) for _ in range(5)]
    say(f"{target}: client, nginx, service: {times}")
    assert min(inner for _, _, inner in times) >= least - COARSE  # uvloop rounds what is to be slept to milliseconds
    # The service hands its last byte over before it reads the clock: on a busy machine, single values may be off.
    assert statistics.median(outer - middle for outer, middle, _ in times) >= -COARSE
    assert statistics.median(middle - inner for _, middle, inner in times) >= -COARSE


def test_probes_leave_no_line(stack: Stack) -> None:
    """Whoever asks for the state, and the engine does so all the time, leaves no line; who asks in vain does."""
    request_ids = [new_id("probe") for _ in range(2)]
    answers = [
        stack.request("GET", path, request_id=request_id)
        for path, request_id in zip(("/livez", "/readyz"), request_ids, strict=True)
    ]
    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.one() for answer in answers] == request_ids
    later = new_id("later")
    stack.request("GET", "/nowhere", request_id=later)
    stack.wait_for_lines(later, 2)
    assert [line for line in stack.lines() if line.get("path") in {"/livez", "/readyz"} and line["status"] < 400] == []


def test_only_nginx_is_published(stack: Stack) -> None:
    """The host has one port, that of nginx; the service has none, and the way to it is nginx."""
    ports = {name: docker("port", stack.containers(name)[0]).stdout.split() for name in ("nginx", "api")}
    assert ports == {"nginx": ["8080/tcp", "->", f"127.0.0.1:{stack.port}"], "api": []}
    rows = [json.loads(row) for row in must(stack.compose("ps", "--format", "json")).stdout.splitlines()]
    published = {row["Service"]: {port["PublishedPort"] for port in row["Publishers"]} - {0} for row in rows}
    assert published == {"nginx": {stack.port}, "api": set()}


def test_text_lines_have_the_id(other: Stack) -> None:
    """LOG_FORMAT=text makes lines for people of all three."""
    request_id = new_id("text")
    answer = other.request("GET", "/api/demo", [("X-Correlation-ID", request_id)])
    assert answer.one("X-Correlation-ID") == answer.json()["request_id"] == request_id
    wait_for(lambda: sum(request_id in line for line in other.logs()) >= 3, "three lines")
    lines = [line for line in other.logs() if request_id in line]
    assert sorted(map(kind, lines)) == ["access", "app", "nginx"], lines


def kind(line: str) -> str:
    """Tell which of the three kinds of text lines this is."""
    if TEXT_APP.fullmatch(line):
        return "app"
    proxied = re.search(r" nginx upstream=\S+ [\d.]+s$", line)
    bare = line.removesuffix(proxied[0]) if proxied else line
    assert TEXT_ACCESS.fullmatch(bare), line
    return "nginx" if proxied else "access"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_other_header_replaces_the_usual_one(other: Stack, method: str) -> None:
    """Nobody goes by X-Request-ID any more, and a made ID comes in the chosen header too."""
    answer = other.request(method, "/api/demo/refuse", request_id=new_id("unused"))
    assert answer.all("X-Request-ID") == []
    made = answer.one("X-Correlation-ID")
    assert not made.startswith("unused")
    wait_for(lambda: sum(made in line for line in other.logs()) >= 2, "two lines")


def test_largest_body_is_one_setting(other: Stack) -> None:
    """nginx refuses what is too large by its length, and the service what turns out to be so, or has no length."""
    answers = [
        other.request("POST", "/probe/upload", body=b"x" * 1000),
        other.request("POST", "/probe/upload", body=b"x" * 1001),
    ]
    assert [answer.status for answer in answers] == [200, 413]
    code = "from app.settings import get_settings; print(get_settings().max_body_bytes)"
    assert other.exec("api", "python", "-c", code).strip() == "1000"
    with other.connect() as connection:
        chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
        connection.send(build_request("POST", "/probe/upload", [("Transfer-Encoding", "chunked")]) + chunk)
        assert connection.answer("POST").status == 413


@pytest.mark.parametrize(
    ("name", "value", "services"), [("WORKERS", "none", ["api"]), ("LOG_FORMAT", "xml", ["api", "nginx"])]
)
def test_bad_value_stops_the_start(composed: Path, name: str, value: str, services: list[str]) -> None:
    """`docker compose up --wait` fails, and the log of whom it concerns has a sentence that names the variable."""
    stack = Stack(composed, f"bad-{name.lower().replace('_', '-')}", **{name: value})
    try:
        assert stack.up().returncode != 0
        for service in services:
            assert any(f"The environment variable {name} is '{value}': " in line for line in stack.logs(service))
    finally:
        stack.down()


def layers(image: str) -> list[str]:
    """Give the IDs of an image's layers."""
    text = must(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image)).stdout
    found: list[str] = json.loads(text)
    return found


def test_changed_code_keeps_the_packages(composed: Path, tmp_path: Path, stack: Stack) -> None:
    """A build after a change of the code makes one layer anew, the last one."""
    project = tmp_path / composed.name
    shutil.copytree(composed, project)
    changed = Stack(project, "code", IMAGE=f"{stack.variables['IMAGE']}-code")
    must(changed.compose("build"))
    before = layers(changed.variables["IMAGE"])
    with (project / "app/main.py").open("a") as file:
        file.write("# changed\n")
    began = time.perf_counter()
    must(changed.compose("build"))
    say(f"built after a change of the code in {time.perf_counter() - began:.1f} s")
    after = layers(changed.variables["IMAGE"])
    docker("image", "rm", "--force", changed.variables["IMAGE"])
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
