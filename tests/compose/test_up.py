"""`docker compose up` of a generated service: nginx and the service have the same IDs, durations and settings."""

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
# Seconds: nginx measures whole milliseconds, and reads its clock once per event loop iteration, late on a busy machine.
CLOCK_ERROR = 0.002


@pytest.fixture(scope="module")
def configured(built_project: Path) -> Iterator[Stack]:
    """The stack with three settings, each set once, in the environment of Compose."""
    variables = {"LOG_FORMAT": "text", "MAX_BODY_BYTES": "1000", "REQUEST_ID_HEADER": "X-Correlation-ID"}
    with Stack(built_project, "other", COMPOSE_FILE=write_override(built_project), **variables) as running:
        yield running


def wait_for_lines_by_source(stack: Stack, count: int, request_id: str) -> dict[str, Line]:
    """Wait for exactly `count` lines of a request; return them by source: nginx, access or app."""
    lines = stack.wait_for_lines(request_id, count)
    assert len(lines) == count, lines
    return {line.get("logger", "access") if "status" in line else "app": line for line in lines}


@pytest.mark.parametrize("sent", [True, False], ids=["sent", "generated"])
def test_one_id_is_in_response_and_logs(stack: Stack, *, sent: bool) -> None:
    """It is in header and body of the response, in nginx's line, the access log line and the application's line."""
    for method, target, status, app_lines in OUTCOMES:
        request_id = new_id("up") if sent else None
        response = stack.request(method, target, request_id=request_id)
        assert response.status == status
        assert request_id in (None, response.header())
        assert method == "HEAD" or response.json()["request_id"] == response.header()
        lines = wait_for_lines_by_source(stack, 2 + app_lines, response.header())
        assert lines.keys() == {"nginx", "access", *["app"] * app_lines}
        for name in ("nginx", "access"):
            assert (lines[name]["status"], lines[name]["path"]) == (status, target.partition("?")[0])


@pytest.mark.parametrize(
    ("target", "least", "lines_each"),
    [("/api/demo", 0, 3), ("/probe/slow?seconds=0.3", 0.3, 3), ("/api/demo/stream?lines=3", 0.3, 5)],
)
def test_duration_of_nginx_is_between_those_of_client_and_service(
    stack: Stack, target: str, least: float, lines_each: int
) -> None:
    """The client measures at least the duration of nginx, and nginx at least the duration of the service."""
    outer, middle, inner = [], [], []
    for request_id in [new_id("time") for _ in range(5)]:
        began = time.perf_counter()
        stack.request("GET", target, request_id=request_id)
        outer.append(time.perf_counter() - began)
        lines = wait_for_lines_by_source(stack, lines_each, request_id)
        middle.append(lines["nginx"]["duration"])
        inner.append(lines["access"]["duration"])
    assert min(inner) >= least - CLOCK_ERROR  # uvloop rounds sleeps to milliseconds
    # The service reads the clock after it has sent the last byte: on a busy machine, single values may be too large.
    for longer, shorter in ((outer, middle), (middle, inner)):
        assert statistics.median(a - b for a, b in zip(longer, shorter, strict=True)) >= -scaled(3 * CLOCK_ERROR)


def test_only_failed_health_checks_are_logged(stack: Stack) -> None:
    good, failed = (new_id("good"), new_id("good")), new_id("failed")
    for path, request_id in zip(("/livez", "/readyz?a=b"), good, strict=True):
        response = stack.request("GET", path, request_id=request_id)
        assert (response.status, response.header()) == (200, request_id)
    assert stack.request("POST", "/livez", request_id=failed).status == 405
    stack.wait_for_lines(failed, 2)
    assert not [line for line in stack.lines() if line.get("path") in {"/livez", "/readyz"} and line["status"] < 400]


def test_only_nginx_publishes_a_port(stack: Stack) -> None:
    """The stack has two containers: nginx, and the service without a published port."""
    assert stack.healthy() == {"nginx": 1, "api": 1}
    ports = {name: docker("port", stack.containers(name)[0]).stdout.split() for name in ("nginx", "api")}
    assert ports == {"nginx": ["8080/tcp", "->", f"127.0.0.1:{stack.port}"], "api": []}


def test_custom_id_header_is_used_by_nginx_service_and_text_lines(configured: Stack) -> None:
    """X-Request-ID is ignored, and a generated ID is returned in the custom header, too."""
    request_id = new_id("text")
    response = configured.request("GET", "/api/demo", [("X-Correlation-ID", request_id)])
    assert response.header("X-Correlation-ID") == response.json()["request_id"] == request_id
    wait_for(lambda: sum(request_id in line for line in configured.logs()) >= 3, "three lines")
    lines = [
        re.sub(r" nginx upstream=\S+ [\d.]+s$", " nginx", line) for line in configured.logs() if request_id in line
    ]
    app = [line for line in lines if TEXT_APP.fullmatch(line)]
    access = [line for line in lines if TEXT_ACCESS.fullmatch(line)]
    assert (len(lines), len(app), sorted(line.endswith(" nginx") for line in access)) == (3, 1, [False, True])
    for method in ("GET", "HEAD"):
        response = configured.request(method, "/api/demo/refuse", request_id=new_id("unused"))
        generated = response.header("X-Correlation-ID")
        assert response.header_values("X-Request-ID") == []
        assert not generated.startswith("unused")
        wait_for(lambda: sum(generated in line for line in configured.logs()) >= 2, "two lines")  # noqa: B023


def test_max_body_bytes_applies_to_nginx_and_service(configured: Stack) -> None:
    statuses = [configured.request("POST", "/probe/upload", body=b"x" * size).status for size in (1000, 1001)]
    assert statuses == [200, 413]
    code = "from app.settings import get_settings; print(get_settings().max_body_bytes)"
    assert configured.exec("api", "python", "-c", code).strip() == "1000"
    with configured.connect() as connection:
        chunk = b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"
        connection.send(build_request("POST", "/probe/upload", [("Transfer-Encoding", "chunked")]) + chunk)
        assert connection.read_response("POST").status == 413


def test_invalid_settings_prevent_the_start(built_project: Path) -> None:
    """`docker compose up --wait` fails, and each container that reads the variable logs its name and value."""
    values = {"WORKERS": "none", "LOG_FORMAT": "xml"}
    no_restart = {"restart": "no"}
    stack = Stack(
        built_project, "invalid", COMPOSE_FILE=write_override(built_project, nginx=no_restart, api=no_restart), **values
    )
    try:
        assert stack.up().returncode != 0
        for name, service in (("WORKERS", "api"), ("LOG_FORMAT", "api"), ("LOG_FORMAT", "nginx")):
            sentence = f"The environment variable {name} is '{values[name]}': "
            wait_for(lambda: any(sentence in line for line in stack.logs(service)), sentence)  # noqa: B023
    finally:
        stack.down()
