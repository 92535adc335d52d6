"""Requests that do not end well: the client leaves, the stream breaks, the server stops."""

import time
from pathlib import Path

import pytest

from tests.support.client import Headers, build_request, new_id
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for

from .cases import CHUNK

pytestmark = pytest.mark.full

JSON = pytest.mark.parametrize("service", ["json"], indirect=True)  # these lines tell the bytes as well
WAIT = "/probe/wait?seconds=0.5&tell=true"


@JSON
@pytest.mark.parametrize("way", ["close", "abort"])
@pytest.mark.parametrize(
    "asked",
    [("GET", WAIT, (), b""), ("POST", "/probe/echo", (("Content-Length", "900"),), b"x")],
    ids=["before the response", "during its own body"],
)
def test_client_that_leaves_early_has_one_flagged_line_and_no_traceback(
    service: Service, way: str, asked: tuple[str, str, Headers, bytes]
) -> None:
    request_id = new_id("gone")
    with service.connect() as connection:
        connection.send(build_request(*asked, request_id=request_id))
        service.app_lines(request_id)
        getattr(connection, way)()
    line = service.access_line(request_id)
    assert (line.flags[0], line.target) == ("client_disconnect", asked[1])
    assert {record.message for record in service.app_records(request_id)} <= {"waiting", "waited", "reading"}


@JSON
@pytest.mark.parametrize("way", ["close", "abort"])
def test_stream_stops_when_the_client_leaves(service: Service, way: str) -> None:
    request_id = new_id("gone-during")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/stream?seconds=600&count=6000", request_id=request_id))
        while CHUNK not in (seen := connection.socket.recv(65536)):
            assert seen, "closed by the server"
        getattr(connection, way)()
    line = service.access_line(request_id)
    assert (line.status, line.flags[0]) == (200, "client_disconnect")
    assert line.bytes is not None
    assert 0 < line.bytes < 6_000_000
    assert service.app_records(request_id) == []


@JSON
def test_stream_that_breaks_is_incomplete(service: Service) -> None:
    """A stream that fails midway never ends as a complete body; line and traceback say why."""
    request_id = new_id("broken")
    answer = service.request("GET", "/probe/stream/broken", request_id=request_id)
    assert (answer.status, answer.one(), answer.complete) == (200, request_id, False)
    assert len(answer.body) == 2000
    line = service.access_line(request_id)
    assert (line.status, line.bytes) == (200, 2000)
    assert set(line.flags) == {"incomplete", "ArithmeticError"}
    records = [record for record in service.app_lines(request_id) if record.exception]
    assert len(records) == 1, records
    assert "ArithmeticError: probe stream failure" in records[0].exception


@pytest.mark.parametrize(("log_format", "loop"), [("text", "uvloop"), ("json", "asyncio")])
def test_requests_beyond_the_grace_are_cancelled(project: Path, tmp_path: Path, log_format: str, loop: str) -> None:
    """Such a request gets 503 with the envelope and a flagged line; one that ends in time is answered."""
    long_id, short_id, stream_id = new_id("cancelled"), new_id("in-time"), new_id("cut")
    env = {"LOG_FORMAT": log_format, "GRACEFUL_TIMEOUT": "4", "LOOP": loop}
    with Service(project, tmp_path, env=env) as service:
        with service.connect() as long, service.connect() as short, service.connect() as stream:
            long.send(build_request("GET", "/probe/wait?seconds=300&tell=true", request_id=long_id))
            short.send(build_request("GET", "/probe/wait?seconds=1&tell=true", request_id=short_id))
            stream.send(build_request("GET", "/probe/stream?seconds=300&count=3000", request_id=stream_id))
            for request_id in (long_id, short_id):
                service.app_lines(request_id)
            stream.socket.recv(1)
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < scaled(5)
            in_time, cancelled = short.answer(), long.answer()
        assert (in_time.status, in_time.one()) == (200, short_id)
        assert (cancelled.status, cancelled.one()) == (503, long_id)
        body = cancelled.json()
        assert (body["code"], body["message"], body["request_id"]) == (503, "failed", long_id)
        line = service.access_line(long_id)
        assert (line.status, line.flags) == (503, ("CancelledError",))
        assert service.access_line(short_id).flags == ()
        cut = service.access_line(stream_id)
        assert (cut.status, set(cut.flags)) == (200, {"CancelledError", "incomplete"})
        assert "Traceback" not in service.app_text()


@pytest.mark.parametrize("moment", ["Booting worker", "Integrations: "], ids=["import", "startup"])
def test_service_may_be_stopped_while_its_workers_start(connected: Path, tmp_path: Path, moment: str) -> None:
    """A worker hears SIGTERM in an import or a hook as well: it is not killed after GRACEFUL_TIMEOUT."""
    with Service(connected, tmp_path / "service", app="app.main:app", workers=1, wait=False) as service:
        wait_for(lambda: moment in service.app_text(), f"a worker that logs {moment!r}")
        assert service.stop(timeout=120) == 0
        assert not [word for word in ("Traceback", "SystemExit", "SIGKILL") if word in service.output()]
