"""SAQ with real Redis and PostgreSQL: jobs, log lines with the ID of the request, outages and shutdown."""

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
READY, OUTAGE = "Worker starting", "SAQ broker unavailable"
UNAVAILABLE = "The SAQ broker is unavailable."
SECRET = "hunter2-hunter2"
CONFIGURATIONS = [("redis", "json"), ("postgres", "text")]


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with additional jobs for these tests."""
    return with_probes(connected, tmp_path_factory.mktemp("saq") / "project", "saq")


def worker(project: Path, work: Path, env: dict[str, str]) -> Worker:
    """Return a worker that has not been started."""
    return Worker(project, work, ["saq", "app.integrations.saq.settings"], env, ready=READY, name="worker")


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids="-".join)
def started(request: pytest.FixtureRequest, probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The service and a worker, with one of the brokers and one of the log formats."""
    kind, log_format = request.param
    work = tmp_path_factory.mktemp(kind)
    with BROKERS[kind]() as broker:
        env = {"SAQ_URL": broker.url, "LOG_FORMAT": log_format, "SAQ_SWEEP": "2"}
        service = Service(probed, work / "service", app="app.main:app", env=env)
        with System(broker, service, worker(probed, work, {**env, "PROBE_CRON": "1"})) as system:
            yield system


@pytest.fixture
def system(started: System) -> System:
    """The same system, with every stopped process restarted."""
    return started.restart_stopped()


on_redis = pytest.mark.parametrize("started", CONFIGURATIONS[:1], indirect=True, ids="-".join, scope="module")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file; the job `slow` runs until it is deleted."""
    (tmp_path / "mark").touch()
    return tmp_path / "mark"


def enqueue(system: System, target: str) -> tuple[str, str]:
    """Send a request that is accepted, and return its ID and the job's key."""
    response = system.service.request("POST", target, request_id=(request_id := new_id("saq")))
    assert response.status == 202, response
    return request_id, str(response.json()["result"])


def one(system: System, request_id: str, containing: str) -> AppLine:
    """Wait for the only log line of a request that contains the text, and return it."""
    (line,) = system.lines(request_id, 1, containing)
    return line


def ids(lines: list[AppLine]) -> set[tuple[str | None, str | None]]:
    """Return the pairs of job ID and parent ID in the log lines."""
    return {(line.current_id, line.parent_id) for line in lines}


def test_log_lines_about_a_job_have_request_id_job_id_and_parent_id(system: System) -> None:
    """One request leads to three jobs; both the service and the worker log about them."""
    request_id, root = enqueue(system, DEMO)
    closing = system.lines(request_id, 3, " complete ")
    assert sorted(line.message.rpartition(" complete ")[0] for line in closing) == ["demo", "demo", "demo_in_thread"]
    job_ids = ids(closing)
    assert (root, "-") in job_ids
    assert len(job_ids) == 3
    assert {parent for job, parent in job_ids if job != root} == {root}
    for step in ("Enqueuing ", "Processing ", "Finished "):
        lines = system.lines(request_id, 3, step)
        assert ids(lines) == job_ids
        assert {line.message.rpartition(" ")[2] for line in lines} == {job for job, _ in job_ids}
    assert {"demo", "demo in a thread"} <= {line.message for line in app_lines_of(system.processes, request_id)}
    assert [line.message for line in system.service.app_records(request_id)] == [f"Enqueuing demo {root}"]
    assert system.service.access_line(request_id).status == 202
    assert len(app_lines_of(system.processes, request_id)) == 15, "a log line is missing or duplicated"
    print_lines({"service": system.service, "worker": system.worker}, request_id)


def test_retried_job_keeps_its_ids(system: System) -> None:
    """The first attempt logs a traceback and the state `retried`."""
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


def test_job_that_exceeds_its_timeout_fails_with_its_ids(system: System) -> None:
    request_id, key = enqueue(system, "/probe/slow?seconds=60&timeout=1")
    assert one(system, request_id, "slow failed ").level == "WARNING"
    lines = app_lines_of(system.processes, request_id)
    assert ids(lines) == {(key, "-")}
    assert "ended" not in {line.message for line in lines}
    assert "TimeoutError" in one(system, request_id, "Error processing job slow").exception


def test_job_in_a_thread_has_its_ids(system: System) -> None:
    enqueued = [enqueue(system, "/probe/blocking") for _ in range(4)]
    for request_id, key in enqueued:
        one(system, request_id, "blocking complete ")
        assert ids(system.lines(request_id, 1, "ended")) == {(key, "-")}


def test_job_is_the_parent_of_a_job_whose_result_it_awaits(system: System) -> None:
    request_id, key = enqueue(system, "/probe/asking")
    assert one(system, request_id, "asked for 42").current_id == key
    ((_, parent),) = ids(system.lines(request_id, 4, "answering"))
    assert parent == key


def test_scheduled_job_has_the_ids_of_its_request(system: System) -> None:
    request_id, key = enqueue(system, f'/probe/later?owner="me"&scheduled={int(time.time()) + 1}')
    assert one(system, request_id, "owned by me").current_id == key
    assert ids(app_lines_of(system.processes, request_id)) == {(key, "-")}


def test_aborted_job_has_its_job_id_and_parent_id(system: System) -> None:
    request_id, key = enqueue(system, "/probe/aborting")
    line = one(system, request_id, "slow aborted ")
    assert line.parent_id == key
    assert line.current_id not in (key, "-")
    lines = [line for line in app_lines_of(system.processes, request_id) if "slow" in line.message]
    assert ids(lines) == {(line.current_id, key)}


def test_arguments_of_a_failing_job_are_not_logged(system: System) -> None:
    request_id, _ = enqueue(system, f'/probe/hiding?password="{SECRET}"')
    one(system, request_id, "hiding failed ")
    assert "RuntimeError: it did not work" in one(system, request_id, "Error processing job hiding ").exception
    assert SECRET not in system.worker.output() + system.service.app_text()


def test_each_occurrence_of_a_cron_job_has_a_new_request_id(system: System) -> None:
    def occurrences() -> list[list[AppLine]]:
        lines = [line for line in parse_app(system.worker.app_text())[0] if line.current_id]
        finished = [line.request_id for line in lines if line.message == "owned by cron"]
        return [[line for line in lines if line.request_id == request_id] for request_id in finished]

    wait_for(lambda: len(occurrences()) >= 2, "two occurrences")
    for lines in occurrences():
        (tick,) = [line for line in lines if line.message == "tick"]
        assert (tick.current_id, tick.parent_id) == ("cron:tick", "-")
        parents = {line.message: line.parent_id for line in lines}
        assert (parents["owned by cron"], parents["Enqueuing tick cron:tick"]) == ("cron:tick", "-")


def test_script_can_enqueue_in_many_event_loops_without_leaking_connections(system: System) -> None:
    """Each call has a new loop; PostgreSQL accepts 100 connections, and each is closed with its loop."""
    code = """
import asyncio, os, threading
from app.integrations.saq import get_queue

def work(count):
    for _ in range(count):
        assert asyncio.run(get_queue().enqueue("demo"))

work(2)
before = len(os.listdir("/proc/self/fd"))
work(40)
threads = [threading.Thread(target=work, args=(10,)) for _ in range(2)]
for step in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        step(thread)
print(asyncio.run(get_queue().count("queued")), len(os.listdir("/proc/self/fd")) - before)
"""
    project = system.service.project
    done = subprocess.run(
        [project / ".venv/bin/python", "-X", "dev", "-c", code],
        cwd=project, env={"SAQ_URL": system.broker.url, "SAQ_QUEUE": "elsewhere", "LOG_FORMAT": "json"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    count, leaked = map(int, done.stdout.split())
    assert count == 62
    assert leaked <= 4


@on_redis
def test_request_fails_within_five_seconds_while_the_broker_hangs(system: System) -> None:
    """The stopped broker accepts connections but does not respond; when it continues, jobs run again."""
    system.broker.send_signal(SIGSTOP)
    try:
        began = time.monotonic()
        response = system.service.request("POST", DEMO)
        assert (response.status, response.json()["cause"]) == (503, UNAVAILABLE)
        assert time.monotonic() - began < scaled(5)
        assert system.service.request("GET", "/readyz").status == 503
    finally:
        system.broker.send_signal(SIGCONT)
    check_healed(system)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def check_healed(system: System) -> None:
    """Check that both gunicorn workers reach the broker again, and that jobs are processed."""
    system.service.wait_ready()
    request_id, _ = enqueue(system, DEMO)
    system.lines(request_id, 3, " complete ")


def test_running_job_survives_a_broker_outage_and_runs_once(system: System, mark: Path) -> None:
    """During the outage requests get 503, the worker is idle, and it logs the outage once."""
    before = len(system.worker.app_text())
    request_id, key = enqueue(system, f'/probe/slow?mark="{mark}"&timeout=60')
    one(system, request_id, "begun 1")
    system.broker.stop(SIGINT)
    mark.unlink()
    one(system, request_id, "ended")
    cpu_before, began = cpu_seconds(system.worker.process.pid), time.monotonic()
    system.check_refused(DEMO, UNAVAILABLE, "saq")
    time.sleep(2)  # CPU time is measured over an interval
    used, elapsed = cpu_seconds(system.worker.process.pid) - cpu_before, time.monotonic() - began
    assert used < elapsed / 4
    system.broker.start()
    check_healed(system)
    one(system, request_id, "slow complete ")
    assert ids(app_lines_of(system.processes, request_id)) == {(key, "-")}
    assert len(system.lines(request_id, 1, "begun")) == 1
    text = system.worker.app_text()[before:]
    assert text.count(OUTAGE) == text.count("SAQ broker available again") == 1, text
    assert "Traceback" not in text


def test_jobs_survive_a_killed_worker_and_a_broker_restart(system: System, mark: Path) -> None:
    """The next worker runs the job of the killed worker and all queued jobs, with their IDs."""
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
    for request_id, job_key in waiting:
        assert one(system, request_id, "owned by me").current_id == job_key
    assert one(system, killed, "slow complete ").current_id == key
    lines = app_lines_of(system.processes, killed)
    assert ids(lines) == {(key, "-")}
    texts = [line.message for line in lines if line.message.startswith(("begun", "ended", "Retrying"))]
    assert texts == ["begun 1", f"Retrying slow {key}", "begun 2", "ended"]
    swept = [line.request_id for line in parse_app(system.worker.app_text())[0] if line.message.startswith("Sweeping")]
    assert set(swept) <= {killed}, "a queued job was swept as soon as a worker dequeued it"


def test_jobs_of_concurrent_requests_have_the_ids_of_their_requests(system: System) -> None:
    """1000 requests over 50 connections enqueue one job each."""
    jobs = [
        SentRequest("POST", f'/probe/later?owner="{owner}"', owner) for owner in (new_id("load") for _ in range(1000))
    ]
    send_all(system.service.port, jobs, connections=50)
    assert {sent.status for sent in jobs} == {202}
    keys = {sent.request_id: Response(0, [], sent.body).json()["result"] for sent in jobs}
    seen: dict[str, list[str]] = {}

    def all_ended() -> bool:
        seen.clear()
        for line in (line for process in system.processes for line in parse_app(process.app_text())[0]):
            if line.request_id in keys:
                assert (line.current_id, line.parent_id) == (keys[line.request_id], "-"), line
                seen.setdefault(line.request_id, []).append(line.message)
        return sum(messages[-1].startswith("later complete ") for messages in seen.values()) == len(jobs)

    wait_for(all_ended, "the end of all jobs", interval=0.5)
    for request_id, messages in seen.items():
        steps = [f"{step} later {keys[request_id]}" for step in ("Enqueuing", "Processing", "Finished")]
        assert messages[:-1] == [*steps[:2], f"owned by {request_id}", steps[2]]


def handles_sigterm(pid: int) -> bool:
    """Return whether a process handles SIGTERM; SAQ logs "Worker starting" before it installs the handler."""
    (caught,) = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> SIGTERM - 1 & 1)


def check_exit(worker: Worker) -> None:
    """Stop the worker; check that it exits with status 0 within 10 seconds."""
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < scaled(10)


def test_worker_exits_cleanly_while_the_broker_is_unavailable(system: System) -> None:
    """Once while it runs a job, and once when it has never reached the broker."""
    request_id, _ = enqueue(system, "/probe/slow?seconds=60&timeout=90&retries=3")
    one(system, request_id, "begun 1")
    before = len(system.worker.output())
    system.broker.stop(SIGINT)
    wait_for(lambda: OUTAGE in system.worker.output()[before:], "the log line about the outage")
    check_exit(system.worker)
    one(system, request_id, "slow cancelled")
    system.worker.start()
    wait_for(lambda: handles_sigterm(system.worker.process.pid), "the handler of SIGTERM")
    check_exit(system.worker)
    text = system.worker.output()[before:]
    assert "Traceback" not in text
    assert "destroyed" not in text


def test_worker_and_service_refuse_an_invalid_url_without_logging_its_password(probed: Path, tmp_path: Path) -> None:
    """The error message names the variable; the scheme is that of an unsupported broker."""
    env = {"SAQ_URL": f"amqp://user:{SECRET}@127.0.0.1/"}
    running = worker(probed, tmp_path, env)
    running.ready = ""
    service = Service(probed, tmp_path / "service", app="app.main:app", env=env, workers=1, wait=False)
    with running, service:
        assert running.process.wait(60) == 1
        assert service.process.wait(60) == 3
        for output in (running.output(), service.output()):
            assert "The environment variable SAQ_URL is invalid" in output
            assert SECRET not in output
            assert "Traceback" not in output
