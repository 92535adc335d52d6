"""`docker compose up` of a freshly generated service: one ID, one duration, one setting for both."""

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import Answer, build_request, new_id
from tests.support.lines import TEXT_ACCESS, TEXT_APP
from tests.support.stack import Line, Stack, docker, say, write_override
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

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
    variables = {"LOG_FORMAT": "text", "MAX_BODY_BYTES": "1000", "REQUEST_ID_HEADER": "X-Correlation-ID"}
    with Stack(composed, "other", COMPOSE_FILE=write_override(composed), **variables) as running:
        yield running


def origin(line: Line) -> str:
    """Tell who has written a line."""
    return "nginx" if line.get("logger") == "nginx" else "access" if "ttfb" in line else "app"


def lines_by_origin(stack: Stack, count: int, *request_ids: str) -> list[dict[str, Line]]:
    """Wait until all these requests together have so many lines, and give those of each, by origin."""
    wanted = set(request_ids)

    def look() -> list[Line]:
        lines = [line for line in stack.lines() if line.get("request_id") in wanted]
        return lines if len(lines) >= count else []

    lines = wait_for(look, f"{count} lines")
    assert len(lines) == count, lines
    return [{origin(line): line for line in lines if line["request_id"] == one} for one in request_ids]


@pytest.mark.parametrize("own", [True, False], ids=["own", "made"])
def test_one_id_is_in_every_place(stack: Stack, *, own: bool) -> None:
    """In header and body of the response, in nginx's line, the access line and the application's."""
    answers: list[Answer] = []
    for method, target, status, _ in OUTCOMES:
        request_id = new_id("up") if own else None
        answers.append(answer := stack.request(method, target, request_id=request_id))
        assert answer.status == status
        assert request_id in (None, answer.one())
        assert method == "HEAD" or answer.json()["request_id"] == answer.one()
    count = sum(2 + has_line for *_, has_line in OUTCOMES)
    found = lines_by_origin(stack, count, *(answer.one() for answer in answers))
    for (_, target, status, has_line), lines in zip(OUTCOMES, found, strict=True):
        assert lines.keys() == {"nginx", "access", *(["app"] if has_line else [])}
        for name in ("nginx", "access"):
            assert (lines[name]["status"], lines[name]["path"]) == (status, target.partition("?")[0])


@pytest.mark.parametrize(
    ("target", "least", "lines_each"),
    [("/api/demo", 0, 3), ("/probe/slow?seconds=0.3", 0.3, 3), ("/api/demo/stream?lines=3", 0.3, 5)],
)
def test_times_contain_each_other(stack: Stack, target: str, least: float, lines_each: int) -> None:
    """What the client measures is at least what nginx says, and that is at least what the service says."""
    ids = [new_id("time") for _ in range(5)]
    outer: list[float] = []
    for request_id in ids:
        began = time.perf_counter()
        stack.request("GET", target, request_id=request_id)
        outer.append(time.perf_counter() - began)
    lines = lines_by_origin(stack, lines_each * len(ids), *ids)
    times = [
        (seconds, one["nginx"]["duration"], one["access"]["duration"])
        for seconds, one in zip(outer, lines, strict=True)
    ]
    say(f"{target}: client, nginx, service: {times}")
    assert min(inner for _, _, inner in times) >= least - COARSE  # uvloop rounds what is to be slept to milliseconds
    # The service hands its last byte over before it reads the clock: on a busy machine, single values may be off.
    assert statistics.median(outer - middle for outer, middle, _ in times) >= -COARSE
    assert statistics.median(middle - inner for _, middle, inner in times) >= -COARSE


def test_only_failed_health_checks_are_logged(stack: Stack) -> None:
    """Neither by nginx nor by the service."""
    good, bad = (new_id("good"), new_id("good")), new_id("bad")
    for path, request_id in zip(("/livez", "/readyz?a=b"), good, strict=True):
        answer = stack.request("GET", path, request_id=request_id)
        assert (answer.status, answer.one()) == (200, request_id)
    assert stack.request("POST", "/livez", request_id=bad).status == 405
    stack.wait_for_lines(bad, 2)
    paths = [
        line["path"] for line in stack.lines() if line.get("path") in {"/livez", "/readyz"} and line["status"] < 400
    ]
    assert paths == []


def test_only_nginx_is_published(stack: Stack) -> None:
    """There are no other services than nginx and the one that has no port."""
    assert stack.healthy() == {"nginx": 1, "api": 1}
    ports = {name: docker("port", stack.containers(name)[0]).stdout.split() for name in ("nginx", "api")}
    assert ports == {"nginx": ["8080/tcp", "->", f"127.0.0.1:{stack.port}"], "api": []}


def test_text_lines_of_all_three_have_the_id(other: Stack) -> None:
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
    """X-Request-ID is not read any more, and a made ID comes in the chosen header too."""
    answer = other.request(method, "/api/demo/refuse", request_id=new_id("unused"))
    assert answer.all("X-Request-ID") == []
    made = answer.one("X-Correlation-ID")
    assert not made.startswith("unused")
    wait_for(lambda: sum(made in line for line in other.logs()) >= 2, "two lines")


def test_largest_body_is_one_setting(other: Stack) -> None:
    """Also of a body whose length is not known before."""
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
