"""Sentry as the service sees it: a server that takes envelopes, one that hangs, and one that is not there."""

import gzip
import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGTERM
from threading import Lock, Thread
from typing import Any

import pytest

from tests.support.away import hangs, is_not_there
from tests.support.brokers import BROKERS
from tests.support.client import new_id
from tests.support.logs import SETTLE
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker

from .test_faststream import PROBE as MESSAGES
from .test_saq import PROBE_JOBS, PROBE_ROUTES

HERE = Path(__file__).parent
SECRET = "hunter2"
END_SECONDS = 2.0
"""What a Sentry that hangs may cost at the end."""
CELERY = [
    "celery",
    "-A",
    "app.integrations.celery",
    "worker",
    "-I",
    "app.integrations.celery_probe",
    "--without-mingle",
]
SAQ = ["saq", "app.integrations.saq.settings"]
FASTSTREAM = ["faststream", "run", "app.integrations.faststream.worker:worker"]
WAYS = {
    "celery-prefork": ("redis", "CELERY_BROKER_URL", [*CELERY, "-P", "prefork", "-c", "2"], " ready."),
    "celery-solo": ("redis", "CELERY_BROKER_URL", [*CELERY, "-P", "solo"], " ready."),
    "celery-threads": ("redis", "CELERY_BROKER_URL", [*CELERY, "-P", "threads", "-c", "2"], " ready."),
    "saq": ("redis", "SAQ_URL", SAQ, "Worker starting"),
    "faststream": ("nats", "FASTSTREAM_URL", FASTSTREAM, "answers"),
}
"""A worker each: its broker, the setting that names it, the command, and the text that says that it works."""
REQUESTS = {
    "celery": ("POST", "/probe/canvas/fails", "app.integrations.celery_probe.fails"),
    "saq": ("GET", f"/probe/hiding?password=%22{SECRET}%22", "hiding"),
    "faststream": ("POST", "/probe/bad", "Fail"),
}
"""What sets off work that fails, and what that is called."""


class Sentry:
    """Takes envelopes over HTTP, as Sentry does; a context manager."""

    def __init__(self) -> None:
        self.items: list[tuple[str, Any]] = []
        self.lock = Lock()
        self.delay = 0.0
        sentry = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(sentry.delay)
                sentry.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def dsn(self) -> str:
        """Where it is."""
        return f"http://public-key@127.0.0.1:{self.server.server_port}/1"

    def take(self, envelope: bytes) -> None:
        """Read an envelope: a line of its own, then for each item a line about it and its content."""
        _, _, rest = envelope.partition(b"\n")
        while rest.strip():
            head, _, rest = rest.partition(b"\n")
            about = json.loads(head)
            content, rest = rest[: about["length"]], rest[about["length"] :].lstrip(b"\n")
            with self.lock:
                self.items.append((about["type"], json.loads(content)))

    def of(self, kind: str, request_id: str = "") -> list[Any]:
        """Return what has come of a kind, and of a request."""
        with self.lock:
            found = [content for its_kind, content in self.items if its_kind == kind]
        return [one for one in found if not request_id or one.get("tags", {}).get("request_id") == request_id]

    def wait(self, kind: str, request_id: str, count: int = 1) -> list[Any]:
        """Return it as soon as there are so many, and whatever comes shortly after."""
        wait_for(lambda: len(self.of(kind, request_id)) >= count, f"{kind} of {request_id}")
        time.sleep(SETTLE)
        return self.of(kind, request_id)

    def __enter__(self) -> "Sentry":
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def sentry() -> Iterator[Sentry]:
    """A Sentry that takes what it is sent."""
    with Sentry() as running:
        yield running


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service, and give it tasks, jobs and messages that fail."""
    project = tmp_path_factory.mktemp("sentry") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    folder = project / "app" / "integrations"
    for name, code in {
        "celery_probe": (HERE / "celery_probe.py").read_text("utf-8"),
        "saq_probe": PROBE_ROUTES,
    }.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code, "utf-8")
    for path, more in {"saq/jobs.py": PROBE_JOBS, "faststream/__init__.py": MESSAGES}.items():
        (folder / path).write_text((folder / path).read_text("utf-8") + more, "utf-8")
    return project


def serve(project: Path, work: Path, **env: str) -> Service:
    """Return the service with two workers, not started yet."""
    return Service(project, work / "service", app="app.main:app", env={"MARK": "/nowhere", **env})


def test_events_of_two_workers(connected: Path, tmp_path: Path, sentry: Sentry) -> None:
    """Requests that fail, many at a time: one event and one transaction each, under their own ID and trace."""
    ids = [new_id("event") for _ in range(40)]
    with serve(connected, tmp_path, SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="1") as service:
        with ThreadPoolExecutor(8) as threads:
            paths = [f"/api/demo/fail?token={SECRET}&number={number}" for number in range(len(ids))]
            list(
                threads.map(
                    lambda pair: service.request("GET", pair[1], request_id=pair[0]), zip(ids, paths, strict=True)
                )
            )
        for number, request_id in enumerate(ids):
            (event,) = sentry.wait("event", request_id)
            (transaction,) = sentry.wait("transaction", request_id)
            assert event["request"]["query_string"] == f"token=***&number={number}"
            assert event["transaction"] == transaction["transaction"] == "app.api.demo.fail"
            assert event["contexts"]["trace"]["trace_id"] == transaction["contexts"]["trace"]["trace_id"]
            line = service.access_line(request_id)
            assert transaction["timestamp"] - transaction["start_timestamp"] == pytest.approx(line.duration, abs=0.001)
        pids = {line.pid for request_id in ids for line in service.app_lines(request_id)}
        assert len(pids) == 2
    assert len({event["contexts"]["trace"]["trace_id"] for event in sentry.of("event")}) == len(ids)
    assert {kind for kind, _ in sentry.items} == {"event", "transaction"}
    assert SECRET not in json.dumps(sentry.items)


def test_nothing_without_a_dsn(connected: Path, tmp_path: Path, sentry: Sentry) -> None:
    """Whatever else is set."""
    with serve(connected, tmp_path, SENTRY_DSN="", SENTRY_TRACES_SAMPLE_RATE="1", SENTRY_LOGS="true") as service:
        request_id = new_id("nothing")
        assert service.request("GET", "/api/demo/fail", request_id=request_id).status == 500
        service.app_lines(request_id)
        assert service.stop() == 0
    assert sentry.items == []


def test_a_dsn_that_is_none(connected: Path, tmp_path: Path) -> None:
    """The service does not start, and says why, without the key."""
    service = Service(
        connected, tmp_path / "service", app="app.main:app", env={"SENTRY_DSN": f"https://{SECRET}@host"}, wait=False
    )
    with service:
        assert service.process.wait(20) != 0
    assert "The environment variable SENTRY_DSN is not what it should be" in service.app_text()
    assert SECRET not in service.output()


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_the_last_event_is_sent(connected: Path, tmp_path: Path, sentry: Sentry, server: str) -> None:
    """A process that is told to end sends what it has, which takes a while."""
    sentry.delay = 0.3
    request_id = new_id("last")
    env = {"SENTRY_DSN": sentry.dsn}
    with Service(connected, tmp_path / "service", server=server, app="app.main:app", env=env) as service:
        service.request("GET", "/api/demo/fail", request_id=request_id)
        service.stop(SIGTERM)
    assert len(sentry.of("event", request_id)) == 1


@pytest.mark.parametrize("state", [hangs, is_not_there])
def test_a_sentry_that_is_away(
    connected: Path, tmp_path: Path, state: Callable[[], AbstractContextManager[int]]
) -> None:
    """No request waits for it, no line tells of each try, and the end comes in time."""
    durations = {}
    with state() as port:
        for dsn in ("", f"http://public-key@127.0.0.1:{port}/1"):
            with serve(connected, tmp_path / f"with-{bool(dsn)}", SENTRY_DSN=dsn) as service:
                for _ in range(150):  # more than are kept for sending
                    answer = service.request("GET", "/api/demo/fail")
                    assert answer.status == 500
                assert max(line.duration for line in service.access()) < 1
                began = time.monotonic()
                assert service.stop() == 0
                durations[bool(dsn)] = time.monotonic() - began
                assert "urllib3" not in service.app_text()
                assert " is attempting to send" not in service.app_text()
                assert service.app_text().count("Unhandled RuntimeError") == 150
    assert durations[True] < durations[False] + END_SECONDS + 1


@pytest.mark.parametrize("way", WAYS)
def test_work_that_fails(probed: Path, tmp_path: Path, sentry: Sentry, way: str) -> None:
    """One event for each failure in a worker, under the IDs of its request and its own, in one trace."""
    kind, setting, command, ready = WAYS[way]
    method, target, name = REQUESTS[way.partition("-")[0]]
    with BROKERS[kind]() as broker:
        more = {"FASTSTREAM_CONSUME": "false", "MARK": "/nowhere"}
        env = {setting: broker.url, "SENTRY_DSN": sentry.dsn, "SENTRY_TRACES_SAMPLE_RATE": "1", **more}
        with (
            serve(probed, tmp_path, **env) as service,
            Worker(probed, tmp_path, command, env, ready=ready, name="worker") as worker,
        ):
            ids = [new_id("work") for _ in range(10)]
            wait_for(lambda: service.request(method, target).status in (200, 202), "broker")
            with ThreadPoolExecutor(5) as threads:
                list(threads.map(lambda one: service.request(method, target, request_id=one), ids))
            for request_id in ids:
                (event,) = sentry.wait("event", request_id)
                transactions = sentry.wait("transaction", request_id, 2)
                assert event["transaction"] == name
                (of_task,) = [one for one in transactions if one["transaction"] == name]
                assert of_task["contexts"]["trace"]["status"] == "internal_error"
                assert event["tags"]["current_id"] == of_task["tags"]["current_id"]
                traces = {one["contexts"]["trace"]["trace_id"] for one in (event, *transactions)}
                assert len(traces) == 1
            assert worker.stop(timeout=60) == 0
    of_all = {one["contexts"]["trace"]["trace_id"] for request_id in ids for one in sentry.of("event", request_id)}
    assert len(of_all) == len(ids)
    assert SECRET not in json.dumps(sentry.items)


@pytest.mark.parametrize("way", ["celery-prefork", "celery-threads", "saq", "faststream"])
def test_the_last_event_of_a_worker_is_sent(probed: Path, tmp_path: Path, sentry: Sentry, way: str) -> None:
    """So does the process of a worker."""
    sentry.delay = 0.3
    kind, setting, command, ready = WAYS[way]
    method, target, _ = REQUESTS[way.partition("-")[0]]
    with BROKERS[kind]() as broker:
        env = {setting: broker.url, "FASTSTREAM_CONSUME": "false", "MARK": "/nowhere"}
        told = {**env, "SENTRY_DSN": sentry.dsn}
        with (
            serve(probed, tmp_path, **env) as service,
            Worker(probed, tmp_path, command, told, ready=ready, name="worker") as worker,
        ):
            request_id = new_id("last")
            wait_for(lambda: service.request(method, target, request_id=request_id).status in (200, 202), "broker")
            wait_for(lambda: any("fail" in line.message for line in worker.app_lines(request_id)), "failure")
            assert worker.stop(timeout=60) == 0
    assert len(sentry.of("event", request_id)) == 1
