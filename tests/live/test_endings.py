"""Requests that end early: the client disconnects, the stream fails, the server shuts down."""

import time
from pathlib import Path

import pytest

from tests.support.client import Headers, build_request, new_id
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for

from .cases import CHUNK

pytestmark = pytest.mark.full

JSON = pytest.mark.parametrize("service", ["json"], indirect=True)  # only JSON lines have the number of bytes
WAIT = "/probe/wait?seconds=0.5&log_start=true"


@JSON
@pytest.mark.parametrize("way", ["close", "abort"])
@pytest.mark.parametrize(
    "sent",
    [("GET", WAIT, (), b""), ("POST", "/probe/echo", (("Content-Length", "900"),), b"x")],
    ids=["before the response", "during the request body"],
)
def test_client_disconnect_has_one_flagged_line_and_no_traceback(
    service: Service, way: str, sent: tuple[str, str, Headers, bytes]
) -> None:
    request_id = new_id("disconnect")
    with service.connect() as connection:
        connection.send(build_request(*sent, request_id=request_id))
        service.app_lines(request_id)
        getattr(connection, way)()
    line = service.access_line(request_id)
    assert (line.flags[0], line.target) == ("client_disconnect", sent[1])
    assert {record.message for record in service.app_records(request_id)} <= {"waiting", "waited", "reading"}


@JSON
@pytest.mark.parametrize("way", ["close", "abort"])
def test_stream_stops_when_the_client_disconnects(service: Service, way: str) -> None:
    request_id = new_id("gone-during")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/stream?seconds=600&count=6000", request_id=request_id))
        while CHUNK not in (data := connection.socket.recv(65536)):
            assert data, "closed by the server"
        getattr(connection, way)()
    line = service.access_line(request_id)
    assert (line.status, line.flags[0]) == (200, "client_disconnect")
    assert line.bytes is not None
    assert 0 < line.bytes < 6_000_000
    assert service.app_records(request_id) == []


@JSON
def test_failed_stream_is_incomplete(service: Service) -> None:
    """The client sees that the body is incomplete; flags and traceback have the error."""
    request_id = new_id("broken")
    response = service.request("GET", "/probe/stream/broken", request_id=request_id)
    assert (response.status, response.header(), response.complete) == (200, request_id, False)
    assert len(response.body) == 2000
    line = service.access_line(request_id)
    assert (line.status, line.bytes) == (200, 2000)
    assert set(line.flags) == {"incomplete", "ArithmeticError"}
    records = [record for record in service.app_lines(request_id) if record.exception]
    assert len(records) == 1, records
    assert "ArithmeticError: probe stream failure" in records[0].exception


@pytest.mark.parametrize(("log_format", "loop"), [("text", "uvloop"), ("json", "asyncio")])
def test_requests_longer_than_graceful_timeout_are_cancelled(
    project: Path, tmp_path: Path, log_format: str, loop: str
) -> None:
    """Such a request gets a 503 with the envelope and a flagged line; one that ends in time gets its response."""
    long_id, short_id, stream_id = new_id("cancelled"), new_id("in-time"), new_id("stream")
    env = {"LOG_FORMAT": log_format, "GRACEFUL_TIMEOUT": "4", "LOOP": loop}
    with Service(project, tmp_path, env=env) as service:
        with service.connect() as long, service.connect() as short, service.connect() as stream:
            long.send(build_request("GET", "/probe/wait?seconds=300&log_start=true", request_id=long_id))
            short.send(build_request("GET", "/probe/wait?seconds=1&log_start=true", request_id=short_id))
            stream.send(build_request("GET", "/probe/stream?seconds=300&count=3000", request_id=stream_id))
            for request_id in (long_id, short_id):
                service.app_lines(request_id)
            stream.socket.recv(1)
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < scaled(5)
            in_time, cancelled = short.read_response(), long.read_response()
        assert (in_time.status, in_time.header()) == (200, short_id)
        assert (cancelled.status, cancelled.header()) == (503, long_id)
        body = cancelled.json()
        assert (body["code"], body["message"], body["request_id"]) == (503, "failed", long_id)
        line = service.access_line(long_id)
        assert (line.status, line.flags) == (503, ("CancelledError",))
        assert service.access_line(short_id).flags == ()
        stream_line = service.access_line(stream_id)
        assert (stream_line.status, set(stream_line.flags)) == (200, {"CancelledError", "incomplete"})
        assert "Traceback" not in service.app_text()


@pytest.mark.parametrize("moment", ["Booting worker", "Integrations: "], ids=["import", "startup"])
def test_service_stops_while_its_workers_start(connected: Path, tmp_path: Path, moment: str) -> None:
    """A worker handles SIGTERM during an import or a hook too: it is not killed after GRACEFUL_TIMEOUT."""
    with Service(connected, tmp_path / "service", app="app.main:app", workers=1, wait=False) as service:
        wait_for(lambda: moment in service.app_text(), f"a worker that logs {moment!r}")
        assert service.stop(timeout=120) == 0
        assert not [word for word in ("Traceback", "SystemExit", "SIGKILL") if word in service.output()]
