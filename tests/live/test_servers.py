"""The same single access line under every server that runs the application; none adds one of its own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .harness import LiveService, new_id

SERVERS = (
    "gunicorn",
    "gunicorn-asgi",
    "uvicorn",
    "uvicorn-json",
    "uvicorn-yaml",
    "uvicorn-h11",
    "hypercorn",
    "granian",
)


@pytest.fixture(scope="module", params=SERVERS)
def served(
    request: pytest.FixtureRequest, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveService]:
    """Run the application under one of the servers."""
    if request.param == "uvicorn-yaml":
        config = json.loads((project / "log_config.json").read_text("utf-8"))
        (project / "log_config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    with LiveService(project, tmp_path_factory.mktemp(request.param), server=request.param, workers=1) as service:
        yield service


@pytest.mark.parametrize(
    ("path", "status", "flags", "at_least"),
    [
        ("/probe/async", 200, (), 0.0),
        ("/nothing/here", 404, (), 0.0),
        ("/probe/fail", 500, ("RuntimeError",), 0.0),
        ("/probe/stream?seconds=0.6", 200, (), 0.6),
    ],
)
def test_one_line(served: LiveService, path: str, status: int, flags: tuple[str, ...], at_least: float) -> None:
    """One line in our form with the full duration, and no other line anywhere that tells of the request."""
    request_id = new_id("server")
    target = f"{path}{'&' if '?' in path else '?'}mark={request_id}"
    answer = served.request("GET", target, request_id=request_id)
    assert (answer.status, answer.one()) == (status, request_id)
    line = served.access_line(request_id)
    assert (line.status, line.target, line.flags, line.method) == (status, target, flags, "GET")
    assert at_least <= line.duration < at_least + 3
    telling = [text for text in served.output().split("\n") if f"mark={request_id}" in text]
    assert telling == [line.raw]


def test_one_traceback(served: LiveService) -> None:
    """An unhandled error leaves one traceback, whose record has the ID, whatever the server logs itself."""
    request_id = new_id("trace")
    before = served.output().count("RuntimeError: probe failure\n")
    assert served.request("GET", "/probe/fail", request_id=request_id).status == 500
    traces = [record for record in served.app_lines(request_id) if record.exception]
    assert len(traces) == 1, traces
    assert traces[0].exception.count("Traceback (most recent call last):") == 1
    served.access_line(request_id)
    assert served.output().count("RuntimeError: probe failure\n") == before + 1


def test_log_line_in_our_form(served: LiveService) -> None:
    """Log lines of the application have the ID and our form under every server."""
    request_id = new_id("form")
    served.request("GET", "/probe/logging", request_id=request_id)
    messages = [record.message for record in served.app_lines(request_id, 4)]
    assert sorted(messages)[:3] == ["by its child", "by library logger", "by plain logger"]
    assert len(messages) == 4


def test_stops_when_asked(project: Path, tmp_path: Path) -> None:
    """The service's own way ends with exit code 0 while a connection idles."""
    with LiveService(project, tmp_path) as service, service.connect() as connection:
        assert connection.request("GET", "/probe/async").status == 200
        assert service.stop(timeout=8) == 0
