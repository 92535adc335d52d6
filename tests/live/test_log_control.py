"""Log control under gunicorn: sampled requests, counts of suppressed records, alerts on errors."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.away import hanging_server
from tests.support.baked import bake_with
from tests.support.client import new_id
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

SUPPRESSED = re.compile(r" suppressed=(\d+) ")
ALERTED = re.compile(r" (\d+) ERROR records of own, first in (\S+): ")
LOST = re.compile(r" (\d+) alerts were lost: ")
FLUSH_SECONDS = 2.0
"""How long shutdown waits for a hook that hangs."""


@pytest.fixture(scope="module")
def probe_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with endpoints that log."""
    copy = bake_with(project, tmp_path_factory.mktemp("log-control") / "project", "log_control")
    shutil.copy(Path(__file__).with_name("log_control_probe.py"), copy)
    return copy


def serve(
    project: Path, work: Path, settings: dict[str, str], *, server: str = "gunicorn", log_path: Path | None = None
) -> Service:
    """Return the service with two workers and these LOG_CONTROL_* settings, not started yet."""
    settings = {"BURST": "10", "ALERT_LEVEL": "ERROR"} | settings
    env = {f"LOG_CONTROL_{name}": value for name, value in settings.items()}
    return Service(project, work / "service", server=server, app="log_control_probe:app", env=env, log_path=log_path)


def suppressed_count(text: str) -> int:
    """Return the sum of all `suppressed=` counts."""
    return sum(map(int, SUPPRESSED.findall(text)))


def test_all_workers_sample_the_same_requests(probe_project: Path, tmp_path: Path) -> None:
    """All records of an ID are written, in stream, file and access log, or none. Each worker serves each ID."""
    ids = [f"sampled-{number:03}" for number in range(100)]

    def request_both_workers(request_id: str) -> int:
        pids: list[int] = []
        while len(set(pids)) < 2:
            pids.append(service.request("GET", "/lines", request_id=request_id).json()["result"])
        return len(pids)

    sampling = {"SAMPLE": "30", "BURST": "0", "ALERT_LEVEL": "OFF"}
    with serve(probe_project, tmp_path, sampling, log_path=tmp_path / "log") as service:
        service.wait_ready()
        with ThreadPoolExecutor(8) as threads:
            counts = dict(zip(ids, threads.map(request_both_workers, ids), strict=True))
        assert service.stop() == 0
        text, access = service.app_text(), service.access_text()
    sampled = {request_id for request_id in ids if request_id in access}
    assert 10 < len(sampled) < 50
    for request_id, count in counts.items():
        written = (access.count(request_id), text.count(request_id))
        assert written == ((count, 4 * count) if request_id in sampled else (0, 0))


class Receiver:
    """An HTTP server that stores posted alerts."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/hunter2"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A running receiver of alerts."""
    running = Receiver()
    Thread(target=running.server.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_suppressed_records_and_alerts_are_reported_at_shutdown(
    probe_project: Path, tmp_path: Path, receiver: Receiver, server: str
) -> None:
    ids = [new_id("alert") for _ in range(20)]
    settings = {"WINDOW": "3600", "ALERT_INTERVAL": "3600", "ALERT_URL": receiver.url}
    with serve(probe_project, tmp_path, settings, server=server) as service:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda one: service.request("GET", "/flood?count=100", request_id=one), ids))
        wait_for(lambda: receiver.received, "the first alert")
        assert suppressed_count(service.app_text()) == 0
        service.stop()
        text = service.app_text()
        assert "hunter2" not in service.output()
    lines = [line for line in text.splitlines() if " failed" in line and not ALERTED.search(line)]
    repeated = [line for line in lines if " Repeated: " in line]
    assert len(lines) - len(repeated) + suppressed_count("\n".join(repeated)) == 2000
    assert len(repeated) in (1, 2)
    assert sum(int(times) for times, _ in ALERTED.findall(text)) == 2000 - len(repeated)
    own = [alert for alert in receiver.received if alert["logger"] == "own"]
    assert sum(alert["times"] for alert in own) == 2000
    assert len(own) == 2 * len(repeated)
    assert {alert["request_id"] for alert in own} <= set(ids)
    assert {alert["level"] for alert in own} == {"ERROR"}


def test_hanging_alert_url_delays_neither_requests_nor_shutdown(probe_project: Path, tmp_path: Path) -> None:
    with hanging_server() as port:
        settings = {"BURST": "0", "ALERT_URL": f"http://127.0.0.1:{port}/hunter2"}
        with serve(probe_project, tmp_path, settings) as service:
            request_id = new_id("groups")  # more alerts than the queue holds
            assert service.request("GET", "/flood?count=150&groups=150", request_id=request_id).status == 200
            assert service.access_line(request_id).duration < scaled(1)
            wait_for(lambda: LOST.search(service.app_text()), "the record of lost alerts")
            started = time.monotonic()
            assert service.stop() == 0
            # Posting all queued alerts would take minutes.
            assert time.monotonic() - started < scaled(FLUSH_SECONDS + 5)
            text = service.app_text()
    assert text.count(" failed") == 150
    lost = list(map(int, LOST.findall(text)))
    assert len(lost) <= 3  # once a minute, after the lifespan and at exit
    assert sum(lost) in (149, 150)  # all, or all but the one that is being posted
    assert "hunter2" not in text
    assert f"127.0.0.1:{port}" not in text
