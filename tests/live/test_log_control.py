"""Fewer lines under gunicorn: which requests are kept, what is counted, and who is told of errors, whatever he does."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support.away import hangs, is_not_there
from tests.support.client import new_id
from tests.support.service import Service
from tests.support.waiting import wait_for

FIGURE = re.compile(r" suppressed=(\d+) ")
TIMES = re.compile(r" (\d+) times ERROR of own, first in (\S+): ")
END_SECONDS = 2.0
"""What a hook that hangs may cost at the end."""


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service, and give it endpoints that log."""
    project = tmp_path_factory.mktemp("log-control") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("log_control_probe.py"), project)
    return project


def serve(project: Path, work: Path, *, files: bool = False, server: str = "gunicorn", **env: str) -> Service:
    """Return the service with two workers, not started yet."""
    log_path = work / "log" if files else None
    own = {"BURST": "10", "ALERT_LEVEL": "ERROR"} | env
    env = {"FASTSTREAM_CONSUME": "false", **{f"LOG_CONTROL_{name}": value for name, value in own.items()}}
    return Service(project, work / "service", server=server, app="log_control_probe:app", env=env, log_path=log_path)


def figures(text: str) -> int:
    """Add up how many lines were suppressed."""
    return sum(map(int, FIGURE.findall(text)))


@pytest.mark.parametrize("files", [False, True])
def test_a_request_is_kept_as_a_whole(probed: Path, tmp_path: Path, files: bool) -> None:
    """With all its lines or with none, in each worker alike; errors stay, and about so many are kept."""
    percent, ids = 30, [new_id("sampled") for _ in range(300)]
    pids: dict[str, set[int]] = {one: set() for one in ids}

    def ask(request_id: str) -> None:
        for _ in range(8):
            pids[request_id].add(service.request("GET", "/lines", request_id=request_id).json()["result"])

    with serve(probed, tmp_path, files=files, SAMPLE=str(percent), BURST="0", ALERT_LEVEL="OFF") as service:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(ask, ids))
        failing = [new_id("failing") for _ in range(50)]
        for one in failing:
            service.request("GET", "/lines?fail=true", request_id=one)
            service.request("GET", "/nowhere", request_id=one)
        assert service.stop() == 0
        text, access = service.app_text(), service.access_text()
    assert sum(len(workers) == 2 for workers in pids.values()) > len(ids) / 10
    kept, places = {one for one in ids if one in access}, 2 if files else 1  # the stream, and a file
    expected, deviation = len(ids) * percent / 100, (len(ids) * percent * (100 - percent)) ** 0.5 / 100
    assert abs(len(kept) - expected) < 5 * deviation
    for one in ids:
        assert access.count(one) == (8 if one in kept else 0)
        assert text.count(one) == (16 * places if one in kept else 0)
    dropped = [one for one in failing if access.count(one) == 1]
    assert 0 < len(dropped) < len(failing)
    for one in dropped:
        (line,) = [line for line in access.splitlines() if one in line]
        assert " 404 " in line
        lines = [line for line in text.splitlines() if one in line]
        assert len(lines) == places
        assert all(" ERROR [" in line and line.endswith(" an error") for line in lines)


@pytest.mark.parametrize("files", [False, True])
def test_a_flood_is_counted(probed: Path, tmp_path: Path, files: bool) -> None:
    """A thousand equal errors of one request: few lines under its ID, whose figures add up once the window is over."""
    request_id = new_id("flood")
    with serve(probed, tmp_path, files=files, WINDOW="1", ALERT_INTERVAL="1") as service:
        assert service.request("GET", "/flood", request_id=request_id).status == 200

        def own() -> str:
            return (service.log_path / "own.log" if service.log_path else service.stderr).read_text("utf-8")

        wait_for(lambda: own().count(" failed") - own().count(" Repeated:") + figures(own()) >= 1000, "figures")
        wait_for(lambda: TIMES.findall(service.app_text()), "the line of the alert")
        written = [line for line in own().splitlines() if request_id in line and f"[{request_id}]" in line]
        assert len([line for line in written if " Repeated:" not in line]) + figures(own()) == 1000
        assert len(written) < 50
        assert all(f"[{request_id}]" in line for line in own().splitlines() if " suppressed=" in line)
        time.sleep(1.5)
        told = TIMES.findall(service.stderr.read_text("utf-8"))
        assert sum(int(times) for times, _ in told) in (999, 1000)
        assert {first for _, first in told} == {request_id}


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_the_end_tells_what_is_left(probed: Path, tmp_path: Path, server: str) -> None:
    """Of each worker, whose window is far from over."""
    with serve(probed, tmp_path, server=server, WINDOW="3600") as service:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: service.request("GET", "/flood?count=100"), range(20)))
        assert figures(service.app_text()) == 0
        service.stop()
        lines = [line for line in service.app_text().splitlines() if " failed" in line and " times " not in line]
    closing = [line for line in lines if " Repeated: " in line]
    assert len(lines) - len(closing) + figures("\n".join(closing)) == 2000
    assert 0 < len(closing) <= 2
    assert sum(int(times) for times, _ in TIMES.findall(service.app_text())) == 2000 - len(closing)


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

    @property
    def url(self) -> str:
        """Where it is, with a secret."""
        return f"http://127.0.0.1:{self.server.server_port}/services/hunter2"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that takes alerts."""
    running = Receiver()
    Thread(target=running.server.serve_forever, daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


def test_an_address_is_told_of_each_error(probed: Path, tmp_path: Path, receiver: Receiver) -> None:
    """By both workers, of those that are not written as well, at the end at the latest."""
    ids = [new_id("alert") for _ in range(20)]
    with serve(probed, tmp_path, ALERT_URL=receiver.url) as service:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda one: service.request("GET", "/flood?count=50", request_id=one), ids))
        wait_for(lambda: receiver.taken, "the first alert")
        assert service.stop() == 0
        assert "hunter2" not in service.output()
    own = [alert for alert in receiver.taken if alert["logger"] == "own"]
    assert sum(alert["times"] for alert in own) == 1000
    assert len(own) <= 4
    assert {alert["request_id"] for alert in own} <= set(ids)
    assert {alert["level"] for alert in own} == {"ERROR"}


@pytest.mark.parametrize("state", [hangs, is_not_there])
def test_an_address_that_is_away(
    probed: Path, tmp_path: Path, state: Callable[[], AbstractContextManager[int]]
) -> None:
    """No request waits for it, one line a minute tells of it, and the end comes in time."""
    endings = {}
    with state() as port:
        for url in ("", f"http://127.0.0.1:{port}/hunter2"):
            with serve(probed, tmp_path / f"with-{bool(url)}", BURST="0", ALERT_URL=url) as service:
                for number in range(150):  # more than may wait
                    kind = f"{chr(97 + number % 26)}{chr(97 + number // 26)}"
                    assert service.request("GET", f"/flood?count=1&kind={kind}").status == 200
                assert max(line.duration for line in service.access()) < 1
                if url:
                    wait_for(lambda: " alerts are lost; url: " in service.app_text(), "a word about it")
                began = time.monotonic()
                assert service.stop() == 0
                endings[bool(url)] = time.monotonic() - began
                text = service.app_text()
                assert text.count(" failed") == 150
                lost = [int(number) for number in re.findall(r" (\d+) alerts are lost; ", text)]
                assert len(lost) <= 6  # of two workers, once a minute, and at the end of application and process
                assert not url or 148 <= sum(lost) <= 150  # but for what each is about to post
                assert "hunter2" not in text
                assert f"127.0.0.1:{port}" not in text
    assert endings[True] < endings[False] + END_SECONDS + 5  # and not the minutes that all who wait would take


def test_a_bad_setting(probed: Path, tmp_path: Path) -> None:
    """The service does not start, and says why, without what may be a secret."""
    service = Service(
        probed, tmp_path / "service", app="app.main:app", env={"LOG_CONTROL_ALERT_URL": "ftp://hunter2"}, wait=False
    )
    with service:
        assert service.process.wait(20) != 0
    assert "The environment variable LOG_CONTROL_ALERT_URL is not what it should be" in service.app_text()
    assert "hunter2" not in service.output()
