"""SAQ with real Redis and PostgreSQL: one request, its jobs, and every line of every process under its ID."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from tests.support.brokers import BROKERS
from tests.support.client import Response, new_id
from tests.support.lines import AppLine, parse_app
from tests.support.load import SentRequest, send_all
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.workers import Worker, app_lines_of, print_lines

from .probes import with_probes

pytestmark = pytest.mark.full
DEMO = "/api/saq/demo"
READY, AWAY = "Worker starting", "The broker is away"
SILENT = "The broker of the jobs does not answer."
SECRET = "hunter2-hunter2"
WAYS = [("redis", "json"), ("postgres", "text")]


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with jobs to probe it by."""
    return with_probes(connected, tmp_path_factory.mktemp("saq") / "project", "saq")


def worker(project: Path, work: Path, env: dict[str, str]) -> Worker:
    """Return a worker, not started yet."""
    return Worker(project, work, ["saq", "app.integrations.saq.settings"], env, ready=READY, name="worker")


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def started(request: pytest.FixtureRequest, probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Service and worker with one of the brokers, in one of the formats."""
    kind, log_format = request.param
    work = tmp_path_factory.mktemp(kind)
    with BROKERS[kind]() as broker:
        env = {"SAQ_URL": broker.url, "LOG_FORMAT": log_format, "SAQ_SWEEP": "2"}
        service = Service(probed, work / "service", app="app.main:app", env=env)
        with System(broker, service, worker(probed, work, {**env, "PROBE_CRON": "1"})) as system:
            yield system


@pytest.fixture
def system(started: System) -> System:
    """The same, with all of its parts running."""
    return started.restart_stopped()


on_redis = pytest.mark.parametrize("started", WAYS[:1], indirect=True, ids="-".join, scope="module")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file; the job `slow` goes on while it is there."""
    (tmp_path / "mark").touch()
    return tmp_path / "mark"


def enqueue(system: System, target: str) -> tuple[str, str]:
    """Send a request that is accepted, and return its ID and the job's key."""
    answer = system.service.request("POST", target, request_id=(request_id := new_id("saq")))
    assert answer.status == 202, answer
    return request_id, str(answer.json()["result"])


def one(system: System, request_id: str, containing: str) -> AppLine:
    """Wait for the one line of a request with these words."""
    (line,) = system.lines(request_id, 1, containing)
    return line


def ids(lines: list[AppLine]) -> set[tuple[str | None, str | None]]:
    """Return the own IDs with the parents' that the lines have."""
    return {(line.current_id, line.parent_id) for line in lines}


def test_lines_about_a_job_have_the_ids_of_request_job_and_parent(system: System) -> None:
    """One request, three jobs: this holds for what both processes write about them."""
    request_id, root = enqueue(system, DEMO)
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
    assert {"demo", "demo in a thread"} <= {line.message for line in app_lines_of(system.processes, request_id)}
    assert [line.message for line in system.service.app_records(request_id)] == [f"Enqueuing demo {root}"]
    assert system.service.access_line(request_id).status == 202
    assert len(app_lines_of(system.processes, request_id)) == 15, "a line is missing, or was written twice"
    print_lines({"service": system.service, "worker": system.worker}, request_id)


def test_retried_job_keeps_its_ids(system: System) -> None:
    """The first attempt ends with the traceback, and says that it is tried again."""
    request_id, key = enqueue(system, "/probe/flaky?retries=2")
    one(system, request_id, "flaky complete ")
    lines = app_lines_of(system.processes, request_id)
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


def test_job_that_exceeds_its_timeout_fails_under_its_ids(system: System) -> None:
    request_id, key = enqueue(system, "/probe/slow?seconds=60&timeout=1")
    assert one(system, request_id, "slow failed ").level == "WARNING"
    lines = app_lines_of(system.processes, request_id)
    assert ids(lines) == {(key, "-")}
    assert "ended" not in {line.message for line in lines}
    assert "TimeoutError" in one(system, request_id, "Error processing job slow").exception


def test_blocking_function_has_the_ids_in_its_thread(system: System) -> None:
    asked = [enqueue(system, "/probe/blocking") for _ in range(4)]
    for request_id, key in asked:
        one(system, request_id, "blocking complete ")
        assert ids(system.lines(request_id, 1, "ended")) == {(key, "-")}


def test_job_that_waits_for_a_result_is_the_parent_of_who_gives_it(system: System) -> None:
    request_id, key = enqueue(system, "/probe/asking")
    assert one(system, request_id, "asked for 42").current_id == key
    ((_, parent),) = ids(system.lines(request_id, 4, "answering"))
    assert parent == key


def test_scheduled_job_has_the_ids_of_its_request(system: System) -> None:
    request_id, key = enqueue(system, f'/probe/later?owner="me"&scheduled={int(time.time()) + 1}')
    assert one(system, request_id, "owned by me").current_id == key
    assert ids(app_lines_of(system.processes, request_id)) == {(key, "-")}


def test_aborted_job_has_its_own_id_and_that_of_the_job_that_enqueued_it(system: System) -> None:
    request_id, key = enqueue(system, "/probe/aborting")
    line = one(system, request_id, "slow aborted ")
    assert line.parent_id == key
    assert line.current_id not in (key, "-")
    assert ids([one for one in app_lines_of(system.processes, request_id) if "slow" in one.message]) == {
        (line.current_id, key)
    }


def test_arguments_of_a_job_are_in_no_line(system: System) -> None:
    request_id, _ = enqueue(system, f'/probe/hiding?password="{SECRET}"')
    one(system, request_id, "hiding failed ")
    assert "RuntimeError: it did not work" in one(system, request_id, "Error processing job hiding ").exception
    assert SECRET not in system.worker.output() + system.service.app_text()


def test_each_occurrence_of_cron_has_an_origin_of_its_own(system: System) -> None:
    def occurrences() -> list[list[AppLine]]:
        lines = [line for line in parse_app(system.worker.app_text())[0] if line.current_id]
        owned = [line.request_id for line in lines if line.message == "owned by cron"]
        return [[line for line in lines if line.request_id == request_id] for request_id in owned]

    wait_for(lambda: len(occurrences()) >= 2, "two occurrences")
    for lines in occurrences():
        (tick,) = [line for line in lines if line.message == "tick"]
        assert (tick.current_id, tick.parent_id) == ("cron:tick", "-")
        parents = {line.message: line.parent_id for line in lines}
        assert (parents["owned by cron"], parents["Enqueuing tick cron:tick"]) == ("cron:tick", "-")


def test_process_outside_of_service_and_worker_enqueues_and_leaves_nothing_open(system: System) -> None:
    """Each time in a loop of its own: PostgreSQL takes a hundred connections, none of which outlives its loop."""
    code = """
import asyncio, os, threading
from app.integrations.saq import get_queue

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
    project = system.service.project
    done = subprocess.run(
        [project / ".venv/bin/python", "-X", "dev", "-c", code],
        cwd=project, env={"SAQ_URL": system.broker.url, "SAQ_QUEUE": "elsewhere", "LOG_FORMAT": "json"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    count, left = map(int, done.stdout.split())
    assert count == 62
    assert left <= 4


@on_redis
def test_broker_that_hangs_keeps_no_request_waiting(system: System) -> None:
    """It takes the question, and never answers it; the service goes on when it does."""
    system.broker.tell(SIGSTOP)
    try:
        began = time.monotonic()
        answer = system.service.request("POST", DEMO)
        assert (answer.status, answer.json()["cause"]) == (503, SILENT)
        assert time.monotonic() - began < scaled(5)
        assert system.service.request("GET", "/readyz").status == 503
    finally:
        system.broker.tell(SIGCONT)
    check_healed(system)


def seconds_of_cpu(pid: int) -> float:
    """Return how long a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def check_healed(system: System) -> None:
    """Both workers of gunicorn reach the broker again, and jobs are done."""
    system.service.wait_ready()
    request_id, _ = enqueue(system, DEMO)
    system.lines(request_id, 3, " complete ")


def test_job_ends_and_is_done_once_though_its_broker_is_away(system: System, mark: Path) -> None:
    """Meanwhile requests are refused, the worker computes nothing, and both say once that the broker is away."""
    before = len(system.worker.app_text())
    request_id, key = enqueue(system, f'/probe/slow?mark="{mark}"&timeout=60')
    one(system, request_id, "begun 1")
    system.broker.stop(SIGINT)
    mark.unlink()
    one(system, request_id, "ended")
    computed, began = seconds_of_cpu(system.worker.process.pid), time.monotonic()
    system.check_refused(DEMO, SILENT, "saq")
    time.sleep(2)  # the promise is about computing in a span of time
    spent, span = seconds_of_cpu(system.worker.process.pid) - computed, time.monotonic() - began
    assert spent < span / 4
    system.broker.start()
    check_healed(system)
    one(system, request_id, "slow complete ")
    assert ids(app_lines_of(system.processes, request_id)) == {(key, "-")}
    assert len(system.lines(request_id, 1, "begun")) == 1
    text = system.worker.app_text()[before:]
    assert text.count(AWAY) == text.count("The broker is back") == 1, text
    assert "Traceback" not in text


def test_jobs_outlive_a_killed_worker_and_a_stopped_broker(system: System, mark: Path) -> None:
    """The next worker does under the same IDs what the killed one was at, and what waited; of that nothing is lost."""
    killed, key = enqueue(system, f'/probe/slow?mark="{mark}"&timeout=3&retries=2')
    one(system, killed, "begun 1")
    system.worker.process.send_signal(SIGKILL)
    system.worker.process.wait(10)
    mark.unlink()
    waiting = [enqueue(system, '/probe/later?owner="me"') for _ in range(20)]
    system.broker.stop(SIGINT)
    system.broker.start()
    system.service.wait_ready()
    system.worker.start()
    for request_id, own in waiting:
        assert one(system, request_id, "owned by me").current_id == own
    assert one(system, killed, "slow complete ").current_id == key
    lines = app_lines_of(system.processes, killed)
    assert ids(lines) == {(key, "-")}
    texts = [line.message for line in lines if line.message.startswith(("begun", "ended", "Retrying"))]
    assert texts == ["begun 1", f"Retrying slow {key}", "begun 2", "ended"]
    swept = [line.request_id for line in parse_app(system.worker.app_text())[0] if line.message.startswith("Sweeping")]
    assert set(swept) <= {killed}, "what waited was taken for lost as soon as it was taken"


def test_lines_of_many_requests_at_once_do_not_mix(system: System) -> None:
    """A thousand requests over fifty connections, a job for each: every line of a job is under its own request's ID."""
    jobs = [
        SentRequest("POST", f'/probe/later?owner="{owner}"', owner) for owner in (new_id("load") for _ in range(1000))
    ]
    send_all(system.service.port, jobs, connections=50)
    assert {sent.status for sent in jobs} == {202}
    keys = {sent.request_id: Response(0, [], sent.body).json()["result"] for sent in jobs}
    seen: dict[str, list[str]] = {}

    def all_ended() -> bool:
        seen.clear()
        for line in (line for place in system.processes for line in parse_app(place.app_text())[0]):
            if line.request_id in keys:
                assert (line.current_id, line.parent_id) == (keys[line.request_id], "-"), line
                seen.setdefault(line.request_id, []).append(line.message)
        return sum(messages[-1].startswith("later complete ") for messages in seen.values()) == len(jobs)

    wait_for(all_ended, "the end of all jobs", interval=0.5)
    for request_id, messages in seen.items():
        steps = [f"{words} later {keys[request_id]}" for words in ("Enqueuing", "Processing", "Finished")]
        assert messages[:-1] == [*steps[:2], f"owned by {request_id}", steps[2]]


def handles_sigterm(pid: int) -> bool:
    """Tell whether a process has a handler for SIGTERM; SAQ says that it starts before it has one."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> SIGTERM - 1 & 1)


def check_ends(worker: Worker) -> None:
    """It ends with 0, in time."""
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < scaled(10)


def test_worker_ends_without_its_broker(system: System) -> None:
    """It ends soon, with 0 and without a traceback: in the midst of a job, and when it never had a broker."""
    request_id, _ = enqueue(system, "/probe/slow?seconds=60&timeout=90&retries=3")
    one(system, request_id, "begun 1")
    before = len(system.worker.output())
    system.broker.stop(SIGINT)
    wait_for(lambda: AWAY in system.worker.output()[before:], "a worker that misses its broker")
    check_ends(system.worker)
    one(system, request_id, "slow cancelled")
    system.worker.start()
    wait_for(lambda: handles_sigterm(system.worker.process.pid), "a worker that can be told to end")
    check_ends(system.worker)
    text = system.worker.output()[before:]
    assert "Traceback" not in text
    assert "destroyed" not in text


def test_wrong_setting_ends_worker_and_service_with_a_sentence_without_the_password(
    probed: Path, tmp_path: Path
) -> None:
    """It names the variable; the URL is that of another kind of broker."""
    env = {"SAQ_URL": f"amqp://user:{SECRET}@127.0.0.1/"}
    running = worker(probed, tmp_path, env)
    running.ready = ""
    service = Service(probed, tmp_path / "service", app="app.main:app", env=env, workers=1, wait=False)
    with running, service:
        assert running.process.wait(60) == 1
        assert service.process.wait(60) == 3
        for place in (running, service):
            assert "The environment variable SAQ_URL is invalid" in place.output()
            assert SECRET not in place.output()
            assert "Traceback" not in place.output()
