"""Fewer log records under gunicorn: which requests are sampled, what is counted, and which errors raise an alert."""

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

from tests.support.away import hangs
from tests.support.baked import bake_with
from tests.support.client import new_id
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

FIGURE = re.compile(r" suppressed=(\d+) ")
TIMES = re.compile(r" (\d+) times ERROR of own, first in (\S+): ")
LOST = re.compile(r" (\d+) alerts are lost; ")
END_SECONDS = 2.0
"""What a hook that hangs may cost at the end."""


@pytest.fixture(scope="module")
def probed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with endpoints that log."""
    copy = bake_with(project, tmp_path_factory.mktemp("log-control") / "project", "log_control")
    shutil.copy(Path(__file__).with_name("log_control_probe.py"), copy)
    return copy


def serve(
    project: Path, work: Path, own: dict[str, str], *, server: str = "gunicorn", log_path: Path | None = None
) -> Service:
    """Return the service with two workers and these settings of the option, not started yet."""
    own = {"BURST": "10", "ALERT_LEVEL": "ERROR"} | own
    env = {f"LOG_CONTROL_{name}": value for name, value in own.items()}
    return Service(project, work / "service", server=server, app="log_control_probe:app", env=env, log_path=log_path)


def figures(text: str) -> int:
    """Add up how many lines were suppressed."""
    return sum(map(int, FIGURE.findall(text)))


def test_request_is_sampled_as_a_whole_by_each_worker_alike(probed: Path, tmp_path: Path) -> None:
    """All records of an ID are written, in stream, file and access log, or none; each worker gets each ID."""
    ids = [f"sampled-{number:03}" for number in range(100)]

    def ask(request_id: str) -> int:
        pids: list[int] = []
        while len(set(pids)) < 2:
            pids.append(service.request("GET", "/lines", request_id=request_id).json()["result"])
        return len(pids)

    sampling = {"SAMPLE": "30", "BURST": "0", "ALERT_LEVEL": "OFF"}
    with serve(probed, tmp_path, sampling, log_path=tmp_path / "log") as service:
        service.wait_ready()
        with ThreadPoolExecutor(8) as threads:
            asked = dict(zip(ids, threads.map(ask, ids), strict=True))
        assert service.stop() == 0
        text, access = service.app_text(), service.access_text()
    kept = {one for one in ids if one in access}
    assert 10 < len(kept) < 50
    for one, count in asked.items():
        assert (access.count(one), text.count(one)) == ((count, 4 * count) if one in kept else (0, 0))


class Receiver:
    """A server that takes what is posted."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/hunter2"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that takes alerts."""
    running = Receiver()
    Thread(target=running.server.serve_forever, args=(0.01,), daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_lines_and_alerts_that_are_held_back_are_reported_at_the_end(
    probed: Path, tmp_path: Path, receiver: Receiver, server: str
) -> None:
    ids = [new_id("alert") for _ in range(20)]
    settings = {"WINDOW": "3600", "ALERT_INTERVAL": "3600", "ALERT_URL": receiver.url}
    with serve(probed, tmp_path, settings, server=server) as service:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda one: service.request("GET", "/flood?count=100", request_id=one), ids))
        wait_for(lambda: receiver.taken, "the first alert")
        assert figures(service.app_text()) == 0
        service.stop()
        text = service.app_text()
        assert "hunter2" not in service.output()
    lines = [line for line in text.splitlines() if " failed" in line and " times " not in line]
    closing = [line for line in lines if " Repeated: " in line]
    assert len(lines) - len(closing) + figures("\n".join(closing)) == 2000
    assert len(closing) in (1, 2)
    assert sum(int(times) for times, _ in TIMES.findall(text)) == 2000 - len(closing)
    own = [alert for alert in receiver.taken if alert["logger"] == "own"]
    assert sum(alert["times"] for alert in own) == 2000
    assert len(own) == 2 * len(closing)
    assert {alert["request_id"] for alert in own} <= set(ids)
    assert {alert["level"] for alert in own} == {"ERROR"}


def test_address_that_hangs_delays_neither_requests_nor_the_end(probed: Path, tmp_path: Path) -> None:
    with hangs() as port:
        settings = {"BURST": "0", "ALERT_URL": f"http://127.0.0.1:{port}/hunter2"}
        with serve(probed, tmp_path, settings) as service:
            request_id = new_id("kinds")  # more of them than may wait
            assert service.request("GET", "/flood?count=150&kinds=150", request_id=request_id).status == 200
            assert service.access_line(request_id).duration < scaled(1)
            wait_for(lambda: LOST.search(service.app_text()), "the record of lost alerts")
            began = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - began < scaled(
                END_SECONDS + 5
            )  # and not the minutes that all who wait would take
            text = service.app_text()
    assert text.count(" failed") == 150
    lost = list(map(int, LOST.findall(text)))
    assert len(lost) <= 3  # once a minute, and at the end of application and process
    assert sum(lost) in (149, 150)  # but for the one that is being posted
    assert "hunter2" not in text
    assert f"127.0.0.1:{port}" not in text
