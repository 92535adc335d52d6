"""Celery with real brokers: a request and all its tasks log under one request ID, in every process."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from tests.support.brokers import BROKERS
from tests.support.client import new_id
from tests.support.lines import AppLine, parse_app
from tests.support.load import SentRequest, send_all
from tests.support.service import Service
from tests.support.speed import scaled
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.workers import Worker, app_lines_of, print_lines

from .probes import with_probes

pytestmark = pytest.mark.full
DEMO = "/api/celery/demo"
UNAVAILABLE = "The Celery broker is unavailable."
# The tasks that each task of the demo sends; the number of runs of each task follows from it.
CHILDREN = {1: [2, 2], 2: [3, 4], 3: [4, 4], 4: []}
VARIANTS = [("rabbitmq", "prefork", "text"), ("redis", "threads", "json")]
# Only the prefork pool: a task that exits would end a whole pool of threads, which also has no time limits.
on_rabbitmq = pytest.mark.parametrize("started", VARIANTS[:1], indirect=True, ids="-".join, scope="module")


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with additional tasks for these tests."""
    return with_probes(connected, tmp_path_factory.mktemp("celery") / "project", "celery")


@pytest.fixture(scope="module")
def results() -> Iterator[str]:
    """The URL of a Redis that stores results."""
    with BROKERS["redis"]() as running:
        yield running.url


def worker(project: Path, work: Path, env: dict[str, str], pool: str = "prefork") -> Worker:
    """Return a worker that is not started yet."""
    command = ["celery", "-A", "app.integrations.celery", "worker", "-I", "app.integrations.celery_probe"]
    options = ["-P", pool, "-c", "3", "--without-mingle", "--without-gossip", "-n", f"{new_id('worker')}@localhost"]
    return Worker(project, work, [*command, *options], env, ready=" ready.", name="worker")


@pytest.fixture(scope="module", params=VARIANTS, ids="-".join)
def started(
    request: pytest.FixtureRequest, probed: Path, results: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """The service and a worker, with one broker, pool and log format."""
    kind, pool, log_format = request.param
    with BROKERS[kind]() as broker:
        env = {"CELERY_BROKER_URL": broker.url, "CELERY_RESULT_BACKEND": results, "LOG_FORMAT": log_format}
        work = tmp_path_factory.mktemp(f"{kind}-{pool}")
        service = Service(probed, work / "service", app="app.main:app", env=env)
        running = worker(probed, work, {**env, "OUTBOUND_HOSTS": f"127.0.0.1:{service.port}"}, pool)
        with System(broker, service, running) as system:
            yield system


@pytest.fixture
def system(started: System) -> System:
    """The same system; what an earlier test has stopped is started again."""
    return started.restart_stopped()


def check_tree(lines: list[AppLine]) -> None:
    """Check eleven lines with eleven task IDs, and that the IDs alone give the tree of the demo."""
    assert Counter(line.message for line in lines) == {
        f"Debug task {n}": c for n, c in zip(CHILDREN, (1, 2, 2, 6), strict=True)
    }
    number = {line.current_id: int(line.message[-1]) for line in lines}
    assert len(number) == len(lines) == 11
    (root,) = [line for line in lines if line.parent_id == "-"]
    assert root.message == "Debug task 1"
    for task_id, parent_number in number.items():
        assert sorted(number[line.current_id] for line in lines if line.parent_id == task_id) == CHILDREN[parent_number]
    assert lines[0] == root
    position = {line.current_id: index for index, line in enumerate(lines)}
    for line in lines[1:]:
        assert position[line.parent_id] < position[line.current_id]


def test_lines_of_one_request_form_the_tree_of_its_tasks(system: System) -> None:
    """The log gives the order and the parents of the eleven tasks; each is logged when received and when ended."""
    request_id = system.send(DEMO)
    tree = system.lines(request_id, 11, "Debug task")
    check_tree(tree)
    for text in (" received", " success "):
        lines = system.lines(request_id, 11, text)
        assert len(lines) == 11
        assert {line.current_id for line in lines} == {line.current_id for line in tree}
    print_lines({"service": system.service, "worker": system.worker}, request_id)


def test_retried_task_keeps_its_id_and_its_parent(system: System) -> None:
    request_id = system.send("/probe/canvas/flaky")
    attempts = system.lines(request_id, 3, "attempt")
    assert [line.message for line in attempts] == ["attempt 1", "attempt 2", "attempt 3"]
    assert {line.parent_id for line in attempts} == {"-"}
    (task_id,) = {line.current_id for line in attempts}
    assert {line.parent_id for line in system.lines(request_id, 3, "step ")} == {task_id}
    system.lines(request_id, 1, "flaky success ")
    states = [line.message.split()[1] for line in system.lines(request_id, 3, "flaky ") if line.message.endswith("s")]
    assert sorted(states) == ["retry", "retry", "success"]


@pytest.mark.parametrize(("name", "count"), [("chain", 3), ("group", 2), ("chord", 4)])
def test_tasks_of_a_canvas_have_the_request_id_and_their_sender_as_parent(
    system: System, name: str, count: int
) -> None:
    """The next task of a chain, and the callback of a chord, have a task before it as parent."""
    request_id = system.send(f"/probe/canvas/{name}")
    system.lines(request_id, count, " success ")
    lines = [
        line for line in app_lines_of(system.processes, request_id) if line.message.startswith(("step ", "total "))
    ]
    assert len({line.current_id for line in lines}) == len(lines) == count
    if name == "chain":
        assert [line.parent_id for line in lines] == ["-", lines[0].current_id, lines[1].current_id]
    else:
        assert {line.parent_id for line in lines if line.message.startswith("step ")} == {"-"}
    if name == "chord":
        assert lines[-1].message == "total 9"
        assert lines[-1].parent_id in {line.current_id for line in lines[:-1]}


def test_failed_task_has_one_traceback_under_its_ids(system: System) -> None:
    request_id = system.send("/probe/canvas/fails")
    system.lines(request_id, 1, "errback")
    system.lines(request_id, 1, " failure ")
    (failed,) = [line for line in app_lines_of(system.processes, request_id) if line.exception]
    assert "ValueError: it fails on purpose" in failed.exception
    assert failed.level == "ERROR"
    assert failed.current_id not in (None, "-")
    assert "hunter2" not in system.worker.output()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stubborn", "Can't retry app.integrations.celery_probe.stubborn"),
        ("unknown", "no.such.task is not registered in this worker"),
    ],
)
def test_arguments_that_celery_would_log_are_redacted(system: System, name: str, text: str) -> None:
    request_id = system.send(f"/probe/canvas/{name}")

    def found() -> list[AppLine]:
        return [
            line for line in app_lines_of(system.processes, request_id) if text in f"{line.message}{line.exception}"
        ]

    assert {line.parent_id for line in wait_for(found, f"the line about {name}")} == {"-"}
    assert "hunter2" not in system.worker.output()


@on_rabbitmq
@pytest.mark.parametrize(("task", "text"), [("dies", "WorkerLostError"), ("hangs", "Hard time limit")])
def test_lines_of_the_main_process_about_a_lost_task_have_its_ids(system: System, task: str, text: str) -> None:
    request_id = system.send(f"/probe/canvas/{task}")
    system.lines(request_id, 1, "errback")

    def found() -> list[AppLine]:
        return [
            line for line in app_lines_of(system.processes, request_id) if text in f"{line.message}{line.exception}"
        ]

    (line,) = wait_for(found, f"the line of a task that {task}")
    (start,) = [line for line in app_lines_of(system.processes, request_id) if line.message == task]
    assert (line.current_id, line.parent_id) == (start.current_id, "-")


def test_request_made_by_a_task_has_the_origin_request_id(system: System) -> None:
    request_id = system.send(f"/probe/calls?url=http://127.0.0.1:{system.service.port}/api/demo")
    system.lines(request_id, 1, "response 200")
    paths = [line.target for line in system.service.access_lines(request_id, 2)]
    assert sorted(path.partition("?")[0] for path in paths) == ["/api/demo", "/probe/calls"]


@on_rabbitmq
def test_each_task_of_beat_has_a_new_request_id_and_no_parent(system: System, tmp_path: Path) -> None:
    command = ["celery", "-A", "app.integrations.celery_probe", "beat", "-s", str(tmp_path / "schedule"), "--pidfile="]

    def ticks() -> list[AppLine]:
        return [line for line in parse_app(system.worker.app_text())[0] if line.message == "tick"]

    with Worker(system.service.project, tmp_path, command, {**system.worker.env, "PROBE_BEAT": "1"}, name="beat"):
        wait_for(lambda: len(ticks()) >= 3, "three ticks")
    found = ticks()
    assert len({line.request_id for line in found} - {"-"}) == len(found)
    assert {line.parent_id for line in found} == {"-"}


def test_ids_of_concurrent_requests_do_not_mix(system: System) -> None:
    """300 requests, 20 at a time, each send a chain of three tasks: each ID is in exactly the lines of its request."""
    sent = [SentRequest("POST", "/probe/canvas/chain", new_id("mix")) for _ in range(300)]
    before = system.worker.app_text().count(" success ")
    send_all(system.service.port, sent, connections=20)
    assert {request.status for request in sent} == {202}
    wait_for(lambda: system.worker.app_text().count(" success ") >= before + 900, "900 tasks", seconds=120)
    found: dict[str, list[AppLine]] = {request.request_id: [] for request in sent}
    records = [line for process in system.processes for line in parse_app(process.app_text())[0]]
    for line in sorted(records, key=lambda line: line.timestamp):
        if line.request_id in found:
            found[line.request_id].append(line)
    task_ids = set()
    for lines in found.values():
        steps = [line for line in lines if line.message.startswith("step ")]
        assert [line.message for line in lines].count("sending") == 1
        assert [line.parent_id for line in steps] == ["-", steps[0].current_id, steps[1].current_id]
        assert sum(" success " in line.message for line in lines) == 3
        task_ids |= {line.current_id for line in steps}
    assert len(task_ids) == 900


def test_worker_logs_in_one_format_and_tasks_with_a_request_id(system: System) -> None:
    system.lines(system.send(DEMO), 11, " success ")
    system.lines(system.send("/probe/canvas/fails"), 1, " failure ")
    for line in system.worker.app_text().split("\n"):
        assert "Traceback" not in line or line.startswith(("    ", "{")), line
        assert not line.startswith("[20"), line
        if "Debug task" in line or "celery_probe" in line:
            assert '"request_id":"-"' not in line, line
            assert " [-] " not in line, line


def test_worker_and_service_reconnect_after_a_broker_outage(system: System) -> None:
    system.broker.stop()
    system.check_refused(DEMO, UNAVAILABLE, "celery")
    system.broker.start()
    system.service.wait_ready()
    check_tree(system.lines(system.send(DEMO), 11, "Debug task"))
    assert system.worker.process.poll() is None


def test_hanging_broker_does_not_block_requests(system: System) -> None:
    """It accepts connections but does not respond; when it does again, service and worker continue."""
    system.broker.send_signal(SIGSTOP)
    try:
        began = time.monotonic()
        assert system.service.request("POST", DEMO).status == 503
        assert time.monotonic() - began < scaled(10)
        assert system.service.request("GET", "/readyz").status == 503
    finally:
        system.broker.send_signal(SIGCONT)
    system.service.wait_ready()
    check_tree(system.lines(system.send(DEMO), 11, "Debug task"))


@on_rabbitmq
def test_password_that_the_broker_rejects_is_not_logged(system: System, tmp_path: Path) -> None:
    env = {"CELERY_BROKER_URL": system.broker.url.replace("://", "://guest:hunter2@")}
    with Service(system.service.project, tmp_path, app="app.main:app", env=env, workers=1) as service:
        response = service.request("POST", DEMO)
        assert (response.status, response.json()["cause"]) == (503, UNAVAILABLE)
        assert service.request("GET", "/readyz").json()["cause"] == f"celery: {UNAVAILABLE}"
        assert "hunter2" not in service.output()
        assert "Traceback" not in service.output()


def test_tasks_survive_a_killed_worker_and_a_stopped_broker(system: System, tmp_path: Path) -> None:
    """The next worker runs the interrupted task and those sent in the meantime, with the same IDs."""
    mark = tmp_path / "mark"
    mark.touch()
    killed = system.send(f"/probe/slow?mark={mark}")
    (first,) = system.lines(killed, 1, "slow begins")
    os.killpg(system.worker.process.pid, SIGKILL)
    system.worker.process.wait(10)
    mark.unlink()
    waiting = system.send(DEMO)
    system.broker.stop()
    system.worker.env["CELERY_VISIBILITY_TIMEOUT"] = "4"
    system.worker.start(wait=False)
    wait_for(lambda: "Cannot connect to" in system.worker.output(), "a failed connection of the worker to its broker")
    system.broker.start()
    check_tree(system.lines(waiting, 11, "Debug task"))
    (ended,) = system.lines(killed, 1, "slow ends")
    starts = system.lines(killed, 2, "slow begins")
    assert len({line.pid for line in starts}) == 2
    assert {line.current_id for line in starts} == {first.current_id} == {ended.current_id}
    assert system.worker.stop() == 0
    assert system.service.stop() == 0


def test_worker_with_an_invalid_url_exits_with_a_message_without_the_password(probed: Path, tmp_path: Path) -> None:
    running = worker(probed, tmp_path, {"CELERY_BROKER_URL": "http://user:hunter2@example.org"})
    running.start(wait=False)
    assert running.process.wait(60) == 1
    assert "The environment variable CELERY_BROKER_URL is invalid" in running.output()
    assert "hunter2" not in running.output()
