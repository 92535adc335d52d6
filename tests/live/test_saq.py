"""SAQ with real Redis and PostgreSQL: one request, its jobs, and every line of every process under its ID."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP
from typing import NamedTuple

import pytest

from tests.support.brokers import BROKERS, Broker
from tests.support.client import Answer, Json, new_id
from tests.support.lines import AppLine, parse_app
from tests.support.load import Sent, send_all
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker, show, trail, wait_for_trail

READY = "Worker starting"
SILENT = "The broker of the jobs does not answer."
SECRET = "hunter2-hunter2"
ALL_KINDS = ["redis", "postgres"]

PROBE_JOBS = """

import asyncio
import os
import time

from saq import CronJob


async def flaky(ctx):
    log.info("attempt %d", ctx["job"].attempts)
    if ctx["job"].attempts == 1:
        raise ValueError("not yet")


async def slow(ctx, *, seconds):
    log.info("begun %d", ctx["job"].attempts)
    await asyncio.sleep(seconds)
    log.info("ended")


def blocking(ctx):
    log.info("begun")
    time.sleep(0.2)
    log.info("ended")


async def asking(ctx):
    log.info("asked for %s", await ctx["worker"].queue.apply("answering", poll_interval=0.05))


async def answering(ctx):
    return 42


async def hiding(ctx, *, password):
    raise RuntimeError("it did not work")


async def aborting(ctx):
    job = await ctx["worker"].queue.enqueue("slow", seconds=30, timeout=60)
    await asyncio.sleep(1.1)
    await job.abort("not wanted any more")


async def later(ctx, *, owner):
    log.info("owned by %s", owner)


async def tick(ctx):
    log.info("tick")
    await ctx["worker"].queue.enqueue("later", owner="cron")


WORK = {
    "functions": (*WORK["functions"], flaky, slow, blocking, asking, answering, hiding, aborting, later),
    "cron_jobs": [CronJob(tick, cron="* * * * * *")] if os.environ.get("PROBE_CRON") else [],
}
"""

PROBE_ROUTES = """
import json

from fastapi import Request

from app.common.response import Response
from app.integrations.saq import get_queue


def install(app, settings):
    @app.get("/probe/{function}", status_code=202)
    async def probe(function: str, request: Request) -> Response[str]:
        options = {name: json.loads(value) for name, value in request.query_params.items()}
        job = await get_queue().enqueue(function, **options)
        return Response(result=job.key)
"""


class System(NamedTuple):
    """A service, a worker, and the broker between them."""

    broker: Broker
    service: Service
    worker: Worker

    @property
    def places(self) -> tuple[Service, Worker]:
        """Where lines are written."""
        return self.service, self.worker

    def ask(self, target: str, method: str = "GET", request_id: str | None = None) -> tuple[str, str]:
        """Send a request that is accepted, and return its ID and the job's key."""
        request_id = request_id or new_id("saq")
        answer = self.service.request(method, target, request_id=request_id)
        assert answer.status == 202, answer
        return request_id, str(answer.json()["result"])

    def lines(self, request_id: str, count: int, containing: str = "", timeout: float = 20) -> list[AppLine]:
        """Wait for lines of a request with these words."""
        return wait_for_trail(self.places, request_id, count, containing, timeout)

    def one(self, request_id: str, containing: str, timeout: float = 20) -> AppLine:
        """Wait for the one line of a request with these words."""
        lines = self.lines(request_id, 1, containing, timeout)
        assert len(lines) == 1, lines
        return lines[0]


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service, without what needs other brokers, and with jobs to probe it by."""
    project = tmp_path_factory.mktemp("saq") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    folder = project / "app" / "integrations"
    for other in ("celery", "faststream"):
        shutil.rmtree(folder / other, ignore_errors=True)
    with (folder / "saq" / "jobs.py").open("a") as jobs:
        jobs.write(PROBE_JOBS)
    (folder / "saq_probe").mkdir()
    (folder / "saq_probe" / "__init__.py").write_text(PROBE_ROUTES)
    return project


@pytest.fixture(scope="module", params=ALL_KINDS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Run one of the two for all tests that leave it running."""
    with BROKERS[request.param]() as running:
        yield running


def variables(broker: Broker, **more: str) -> dict[str, str]:
    """Return what service and worker read from the environment."""
    return {"SAQ_URL": broker.url, "LOG_FORMAT": "json", **more}


def serve(project: Path, work: Path, env: dict[str, str]) -> Service:
    """Return the service with two workers of gunicorn, not started yet."""
    return Service(project, work / "service", app="app.main:app", env=env)


def worker(project: Path, work: Path, env: dict[str, str], ready: str = READY) -> Worker:
    """Return a worker, not started yet."""
    return Worker(project, work, ["saq", "app.integrations.saq.settings"], env, ready=ready, name="worker")


@pytest.fixture(scope="module", params=["text", "json"])
def system(
    request: pytest.FixtureRequest, broker: Broker, probed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Service and worker with one of the brokers, in one of the formats."""
    work = tmp_path_factory.mktemp("system")
    env = variables(broker, LOG_FORMAT=request.param, SAQ_QUEUE=request.param)
    with serve(probed, work, env) as service, worker(probed, work, env) as running:
        yield System(broker, service, running)


def ids(lines: list[AppLine]) -> set[tuple[str | None, str | None]]:
    """Return the own IDs with the parents' that the lines have."""
    return {(line.current_id, line.parent_id) for line in lines}


def test_trail(system: System) -> None:
    """One request, three jobs: what is said of each job, in both processes, has its ID, its own and its parent's."""
    request_id, root = system.ask("/api/saq/demo", "POST")
    closing = system.lines(request_id, 3, " complete ")
    assert sorted(line.message.rpartition(" complete ")[0] for line in closing) == ["demo", "demo", "demo_in_thread"]
    owned = ids(closing)
    assert (root, "-") in owned
    assert len(owned) == 3
    assert {parent for own, parent in owned if own != root} == {root}
    for words in ("Enqueuing ", "Processing ", "Finished "):
        lines = system.lines(request_id, 3, words)
        assert ids(lines) == owned
        assert {line.message.rpartition(" ")[2] for line in lines} == {own for own, _ in owned}
    texts = [line.message for line in trail(system.places, request_id) if line.message.startswith("demo")]
    assert sorted(texts)[:1] == ["demo"]
    assert "demo in a thread" in texts
    assert [line.message for line in system.service.app_records(request_id)] == [f"Enqueuing demo {root}"]
    assert system.service.access_line(request_id).status == 202
    assert len(trail(system.places, request_id)) == 15, "a line is missing, or was written twice"
    show({"service": system.service, "worker": system.worker}, request_id)


def test_no_mix(system: System) -> None:
    """A thousand requests over fifty connections, a job for each: every line of a job is under its own request's ID."""
    jobs = [
        Sent("POST", f'/probe/later?owner="{one}"', one) for one in (new_id(f"load{number}") for number in range(1000))
    ]
    send_all(system.service.port, jobs, connections=50)
    assert {sent.status for sent in jobs} == {202}
    keys = {sent.request_id: json_of(sent.body)["result"] for sent in jobs}
    wait_for(lambda: system.worker.app_text().count("later complete") >= len(jobs), "the end of all jobs")
    seen: dict[str, list[str]] = {}
    for place in system.places:
        for line in parse_app(place.app_text())[0]:
            if line.request_id in keys:
                assert (line.current_id, line.parent_id) == (keys[line.request_id], "-"), line
                seen.setdefault(line.request_id, []).append(line.message)
    assert len(seen) == len(jobs)
    for request_id, messages in seen.items():
        key = keys[request_id]
        assert messages[-1].startswith("later complete ")
        assert messages[:-1] == [
            f"Enqueuing later {key}",
            f"Processing later {key}",
            f"owned by {request_id}",
            f"Finished later {key}",
        ]


def json_of(body: bytes) -> Json:
    """Return the body of an answer as JSON."""
    return Answer(0, [], body).json()


def test_retry(system: System) -> None:
    """A second attempt is the same job of the same request; the first one ends with the traceback, and says so."""
    request_id, key = system.ask("/probe/flaky?retries=2")
    system.one(request_id, "flaky complete ")
    lines = trail(system.places, request_id)
    assert ids(lines) == {(key, "-")}
    texts = [line.message for line in lines if line.message.startswith(("attempt", "Error", "Retrying", "flaky"))]
    assert [text.rpartition(" ")[0] for text in texts] == [
        "attempt",
        "Error processing job flaky",
        "Retrying flaky",
        "flaky retried",
        "attempt",
        "flaky complete",
    ]
    (error,) = [line for line in lines if line.level == "ERROR"]
    assert error.exception.endswith("ValueError: not yet")


def test_timeout(system: System) -> None:
    """A job that is too slow fails with its IDs."""
    request_id, key = system.ask("/probe/slow?seconds=20&timeout=1")
    assert system.one(request_id, "slow failed ").level == "WARNING"
    lines = trail(system.places, request_id)
    assert ids(lines) == {(key, "-")}
    assert "ended" not in {line.message for line in lines}
    assert "TimeoutError" in system.one(request_id, "Error processing job slow").exception


def test_thread(system: System) -> None:
    """A function that blocks has the IDs in its thread, and keeps nobody else waiting."""
    asked = [system.ask("/probe/blocking") for _ in range(4)]
    for request_id, key in asked:
        system.one(request_id, "blocking complete ")
        assert [(line.current_id, line.parent_id) for line in system.lines(request_id, 1, "ended")] == [(key, "-")]


def test_apply(system: System) -> None:
    """A job that waits for the result of another one is its parent."""
    request_id, key = system.ask("/probe/asking")
    assert system.one(request_id, "asked for 42").current_id == key
    answering = system.lines(request_id, 4, "answering")
    assert {parent for _, parent in ids(answering)} == {key}
    assert len(ids(answering)) == 1


def test_scheduled(system: System) -> None:
    """A job for later has the IDs of the request that asked for it."""
    request_id, key = system.ask(f'/probe/later?owner="me"&scheduled={int(time.time()) + 1}')
    assert system.one(request_id, "owned by me").current_id == key
    assert ids(trail(system.places, request_id)) == {(key, "-")}


def test_abort(system: System) -> None:
    """An aborted job says so, under its own ID and that of the job that had enqueued it."""
    request_id, key = system.ask("/probe/aborting")
    line = system.one(request_id, "slow aborted ")
    assert line.parent_id == key
    assert line.current_id not in (key, "-")
    assert ids([one for one in trail(system.places, request_id) if "slow" in one.message]) == {(line.current_id, key)}


def test_arguments_stay_out(system: System) -> None:
    """What a job was enqueued with is in no line of any process, the traceback is there."""
    request_id, _ = system.ask(f'/probe/hiding?password="{SECRET}"')
    system.one(request_id, "hiding failed ")
    assert "RuntimeError: it did not work" in system.one(request_id, "Error processing job hiding ").exception
    assert SECRET not in system.worker.output()
    assert SECRET not in system.service.app_text()


def test_cron(broker: Broker, probed: Path, tmp_path: Path) -> None:
    """Each occurrence has an ID of its own, which its jobs have as well."""
    env = variables(broker, SAQ_QUEUE="cron", PROBE_CRON="1")
    with worker(probed, tmp_path, env) as running:
        wait_for(lambda: running.app_text().count("owned by cron") >= 2, "two occurrences")
        lines = [line for line in parse_app(running.app_text())[0] if line.current_id]
    ticks = [line for line in lines if line.message == "tick"]
    assert {(line.current_id, line.parent_id) for line in ticks} == {("cron:tick", "-")}
    assert len({line.request_id for line in ticks}) == len(ticks) >= 2
    for tick in ticks[:2]:
        messages = {line.message: line.parent_id for line in lines if line.request_id == tick.request_id}
        assert messages["owned by cron"] == "cron:tick"
        assert messages["Enqueuing tick cron:tick"] == "-"


def test_killed_worker(broker: Broker, probed: Path, tmp_path: Path) -> None:
    """A job whose worker was killed is found, and done again by the next one, under the same IDs."""
    env = variables(broker, SAQ_QUEUE="killed", SAQ_SWEEP="1")
    with serve(probed, tmp_path, env) as service, worker(probed, tmp_path, env) as running:
        system = System(broker, service, running)
        request_id, key = system.ask("/probe/slow?seconds=1&timeout=2&retries=2")
        system.one(request_id, "begun 1")
        running.process.send_signal(SIGKILL)
        running.process.wait(10)
        running.start()
        assert system.one(request_id, "slow complete ", 30).current_id == key
        lines = trail(system.places, request_id)
        assert ids(lines) == {(key, "-")}
        texts = [line.message for line in lines if line.message.startswith(("begun", "ended", "Retrying"))]
        assert texts == ["begun 1", f"Retrying slow {key}", "begun 2", "ended"]


def seconds_of_cpu(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def refused(service: Service) -> None:
    """See that the service says that the broker is gone, soon, with the ID, and that it is alive."""
    request_id = new_id("gone")
    began = time.monotonic()
    answer = service.request("POST", "/api/saq/demo", request_id=request_id)
    assert time.monotonic() - began < 4
    body = answer.json()
    assert (answer.status, answer.one(), body["request_id"], body["cause"]) == (503, request_id, request_id, SILENT)
    answer = service.request("GET", "/readyz")
    assert (answer.status, answer.json()["cause"]) == (503, f"saq: {SILENT}")
    assert service.request("GET", "/livez").status == 200


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_broker_away(kind: str, probed: Path, tmp_path: Path) -> None:
    """A broker that is down at the start and in the middle costs no process, no accepted job and no CPU time."""
    with ExitStack() as stack:
        broker = stack.enter_context(BROKERS[kind]())
        broker.stop(SIGINT)
        env = variables(broker)
        service = stack.enter_context(serve(probed, tmp_path, env))
        running = stack.enter_context(worker(probed, tmp_path, env, ready="The broker is away"))
        system = System(broker, service, running)
        for _ in range(3):  # both workers of gunicorn
            refused(service)
        broker.start()
        healed(system)
        # It goes while a job runs, which ends in the meantime.
        busy, key = system.ask("/probe/slow?seconds=1.5&timeout=60")
        system.one(busy, "begun 1")
        broker.stop(SIGINT)
        system.one(busy, "ended")
        computed = seconds_of_cpu(running.process.pid)
        refused(service)
        time.sleep(2)
        assert seconds_of_cpu(running.process.pid) - computed < 0.5
        broker.start()
        healed(system)
        system.one(busy, "slow complete ")
        assert ids(trail(system.places, busy)) == {(key, "-")}
        assert len(system.lines(busy, 1, "begun")) == 1
        # What was accepted is kept, whatever ends.
        assert running.stop() == 0
        asked = [system.ask('/probe/later?owner="me"') for _ in range(20)]
        broker.stop(SIGINT)
        broker.start()
        running.ready = READY
        running.start()
        for request_id, key in asked:
            assert system.one(request_id, "owned by me").current_id == key
        text = running.app_text()
        assert "Sweeping" not in text, "what waited was taken for lost as soon as it was taken"
        assert text.count("The broker is away") == text.count("The broker is back") == 2
        assert "Traceback" not in text
        assert service.stop() == 0


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_worker_ends_without_its_broker(kind: str, probed: Path, tmp_path: Path) -> None:
    """It ends soon, with 0 and without a traceback: in the midst of a job, and when it never had a broker."""
    with BROKERS[kind]() as broker:
        elsewhere(probed, broker, "asyncio.run(get_queue().enqueue('slow', seconds=60, timeout=90, retries=3))")
        with worker(probed, tmp_path, variables(broker)) as running:
            wait_for(lambda: "begun 1" in running.app_text(), "the job")
            broker.stop(SIGINT)
            wait_for(lambda: "The broker is away" in running.app_text(), "a worker that knows")
            assert running.stop(timeout=10) == 0
            wait_for(lambda: "slow cancelled" in running.app_text(), "the job's end")
            running.ready = "The broker is away"
            running.start()
            wait_for(lambda: running.app_text().count("Worker starting") == 2, "a worker")
            time.sleep(0.5)  # it says so before it has set up its signals
            assert running.stop(timeout=10) == 0
            assert "Traceback" not in running.output()
            assert "destroyed" not in running.output()


def elsewhere(project: Path, broker: Broker, code: str) -> list[str]:
    """Run code that no loop of the service runs, and return the words that it prints."""
    code = f"import asyncio, threading\nfrom app.integrations.saq import get_queue\n{code}"
    words = [str(project / ".venv/bin/python"), "-X", "dev", "-c", code]
    done = subprocess.run(
        words, cwd=project, env=variables(broker), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.split()


def test_from_elsewhere(broker: Broker, probed: Path) -> None:
    """A task of another library enqueues as often as it likes, each time in a loop of its own, and leaves nothing open.

    PostgreSQL takes a hundred connections, and its pool must not be opening one when the loop ends.
    """
    code = """
import os

def work(count):
    for _ in range(count):
        assert asyncio.run(get_queue().enqueue("demo"))

work(2)
known = len(os.listdir("/proc/self/fd"))
work(40)
threads = [threading.Thread(target=work, args=(10,)) for _ in range(2)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
print(asyncio.run(get_queue().count("queued")), len(os.listdir("/proc/self/fd")) - known)
"""
    count, left = map(int, elsewhere(probed, broker, code))
    assert count == 62
    assert left <= 4


def test_silent_broker(probed: Path, tmp_path: Path) -> None:
    """A broker that takes the question and never answers it keeps nobody waiting for long."""
    with BROKERS["redis"]() as broker, serve(probed, tmp_path, variables(broker)) as service:
        assert service.request("POST", "/api/saq/demo").status == 202
        assert broker.process is not None
        broker.process.send_signal(SIGSTOP)
        began = time.monotonic()
        answer = service.request("POST", "/api/saq/demo")
        assert (answer.status, answer.json()["cause"]) == (503, SILENT)
        assert time.monotonic() - began < 5
        assert service.request("GET", "/readyz").status == 503
        broker.process.send_signal(SIGCONT)
        wait_for(lambda: service.request("POST", "/api/saq/demo").status == 202, "a broker that answers")


def healed(system: System) -> None:
    """Wait until both workers of gunicorn reach the broker again, and see that jobs are done."""
    system.service.wait_ready()
    request_id, _ = system.ask("/api/saq/demo", "POST")
    system.lines(request_id, 3, " complete ")


def test_settings_that_cannot_work(probed: Path, tmp_path: Path) -> None:
    """Another kind of broker ends the start of either process with a sentence, which does not tell the password."""
    env = {"SAQ_URL": f"amqp://user:{SECRET}@127.0.0.1/"}
    running = worker(probed, tmp_path, env, ready="")
    service = Service(probed, tmp_path / "service", app="app.main:app", env=env, workers=1, wait=False)
    with running, service:
        assert running.process.wait(20) == 1
        assert service.process.wait(20) == 3
        for place in (running, service):
            assert "The environment variable SAQ_URL is not what it should be" in place.output()
            assert SECRET not in place.output()
            assert "Traceback" not in place.output()
