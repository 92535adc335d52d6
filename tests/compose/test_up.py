"""`docker compose up` of a freshly generated service: one ID, one duration, one setting for both."""

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import build_request, new_id
from tests.support.lines import TEXT_ACCESS, TEXT_APP
from tests.support.speed import scaled
from tests.support.stack import Line, Stack, docker, write_override
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

# Method, target, status, and the number of application lines.
OUTCOMES = [
    ("GET", "/api/demo", 200, 1),
    ("HEAD", "/api/demo", 405, 0),
    ("GET", "/nowhere", 404, 0),
    ("GET", "/api/demo/wait?seconds=long", 422, 0),
    ("GET", "/api/demo/fail", 500, 1),
]
# nginx counts whole milliseconds, by a clock that it reads from time to time.
COARSE = 0.002  # seconds; clocks that a loop reads once in a round are as late as the machine is busy


@pytest.fixture(scope="module")
def other(composed: Path) -> Iterator[Stack]:
    """The service with other values, each given once, in the environment."""
    variables = {"LOG_FORMAT": "text", "MAX_BODY_BYTES": "1000", "REQUEST_ID_HEADER": "X-Correlation-ID"}
    with Stack(composed, "other", COMPOSE_FILE=write_override(composed), **variables) as running:
        yield running


def wait_for_line_of_each(stack: Stack, count: int, request_id: str) -> dict[str, Line]:
    """Wait for so many lines of a request, and give them by who has written them."""
    lines = stack.wait_for_lines(request_id, count)
    assert len(lines) == count, lines
    return {line.get("logger", "access") if "status" in line else "app": line for line in lines}


@pytest.mark.parametrize("own", [True, False], ids=["own", "made"])
def test_one_id_is_in_every_place(stack: Stack, *, own: bool) -> None:
    """In header and body of the response, in nginx's line, the access line and the application's."""
    for method, target, status, of_app in OUTCOMES:
        request_id = new_id("up") if own else None
        answer = stack.request(method, target, request_id=request_id)
        assert answer.status == status
        assert request_id in (None, answer.one())
        assert method == "HEAD" or answer.json()["request_id"] == answer.one()
        lines = wait_for_line_of_each(stack, 2 + of_app, answer.one())
        assert lines.keys() == {"nginx", "access", *["app"] * of_app}
        for name in ("nginx", "access"):
            assert (lines[name]["status"], lines[name]["path"]) == (status, target.partition("?")[0])


@pytest.mark.parametrize(
    ("target", "least", "lines_each"),
    [("/api/demo", 0, 3), ("/probe/slow?seconds=0.3", 0.3, 3), ("/api/demo/stream?lines=3", 0.3, 5)],
)
def test_times_contain_each_other(stack: Stack, target: str, least: float, lines_each: int) -> None:
    """What the client measures is at least what nginx says, and that is at least what the service says."""
    outer, middle, inner = [], [], []
    for request_id in [new_id("time") for _ in range(5)]:
        began = time.perf_counter()
        stack.request("GET", target, request_id=request_id)
        outer.append(time.perf_counter() - began)
        lines = wait_for_line_of_each(stack, lines_each, request_id)
        middle.append(lines["nginx"]["duration"])
        inner.append(lines["access"]["duration"])
    assert min(inner) >= least - COARSE  # uvloop rounds what is to be slept to milliseconds
    # The service hands its last byte over before it reads the clock: on a busy machine, single values may be off.
    for longer, shorter in ((outer, middle), (middle, inner)):
        assert statistics.median(a - b for a, b in zip(longer, shorter, strict=True)) >= -scaled(3 * COARSE)


def test_only_failed_health_checks_are_logged(stack: Stack) -> None:
    good, bad = (new_id("good"), new_id("good")), new_id("bad")
    for path, request_id in zip(("/livez", "/readyz?a=b"), good, strict=True):
        answer = stack.request("GET", path, request_id=request_id)
        assert (answer.status, answer.one()) == (200, request_id)
    assert stack.request("POST", "/livez", request_id=bad).status == 405
    stack.wait_for_lines(bad, 2)
    assert not [line for line in stack.lines() if line.get("path") in {"/livez", "/readyz"} and line["status"] < 400]


def test_only_nginx_is_published(stack: Stack) -> None:
    """There are no other services than nginx and the one that has no port."""
    assert stack.healthy() == {"nginx": 1, "api": 1}
    ports = {name: docker("port", stack.containers(name)[0]).stdout.split() for name in ("nginx", "api")}
    assert ports == {"nginx": ["8080/tcp", "->", f"127.0.0.1:{stack.port}"], "api": []}


def test_text_lines_of_all_three_have_the_id_of_another_header(other: Stack) -> None:
    """X-Request-ID is not read any more, and a made ID comes in the chosen header too."""
    request_id = new_id("text")
    answer = other.request("GET", "/api/demo", [("X-Correlation-ID", request_id)])
    assert answer.one("X-Correlation-ID") == answer.json()["request_id"] == request_id
    wait_for(lambda: sum(request_id in line for line in other.logs()) >= 3, "three lines")
    lines = [re.sub(r" nginx upstream=\S+ [\d.]+s$", " nginx", line) for line in other.logs() if request_id in line]
    of_app = [line for line in lines if TEXT_APP.fullmatch(line)]
    access = [line for line in lines if TEXT_ACCESS.fullmatch(line)]
    assert (len(lines), len(of_app), sorted(line.endswith(" nginx") for line in access)) == (3, 1, [False, True])
    for method in ("GET", "HEAD"):
        answer = other.request(method, "/api/demo/refuse", request_id=new_id("unused"))
        made = answer.one("X-Correlation-ID")
        assert answer.all("X-Request-ID") == []
        assert not made.startswith("unused")
        wait_for(lambda: sum(made in line for line in other.logs()) >= 2, "two lines")  # noqa: B023


def test_largest_body_is_one_setting(other: Stack) -> None:
    statuses = [other.request("POST", "/probe/upload", body=b"x" * size).status for size in (1000, 1001)]
    assert statuses == [200, 413]
    code = "from app.settings import get_settings; print(get_settings().max_body_bytes)"
    assert other.exec("api", "python", "-c", code).strip() == "1000"
    with other.connect() as connection:
        chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
        connection.send(build_request("POST", "/probe/upload", [("Transfer-Encoding", "chunked")]) + chunk)
        assert connection.answer("POST").status == 413


def test_bad_values_stop_the_start(composed: Path) -> None:
    """`docker compose up --wait` fails, and the log of whatever reads a variable has a sentence that names it."""
    values = {"WORKERS": "none", "LOG_FORMAT": "xml"}
    once = {"restart": "no"}  # not again and again
    stack = Stack(composed, "bad", COMPOSE_FILE=write_override(composed, nginx=once, api=once), **values)
    try:
        assert stack.up().returncode != 0
        for name, service in (("WORKERS", "api"), ("LOG_FORMAT", "api"), ("LOG_FORMAT", "nginx")):
            sentence = f"The environment variable {name} is '{values[name]}': "
            wait_for(lambda: any(sentence in line for line in stack.logs(service)), sentence)  # noqa: B023
    finally:
        stack.down()
