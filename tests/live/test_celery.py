"""Celery with real brokers: one request, the tasks that it sets off, and every line of every process under its ID."""

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
NO_ANSWER = "The broker of the tasks does not answer."
# Which tasks each task of the demo sends, and so how many there are of each.
CHILDREN = {1: [2, 2], 2: [3, 4], 3: [4, 4], 4: []}
WAYS = [("rabbitmq", "prefork", "text"), ("redis", "threads", "json")]
# With processes: a pool of threads ends with a task that ends its process, and knows no time limits.
on_rabbitmq = pytest.mark.parametrize("started", WAYS[:1], indirect=True, ids="-".join, scope="module")


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with tasks to probe it by."""
    return with_probes(connected, tmp_path_factory.mktemp("celery") / "project", "celery")


@pytest.fixture(scope="module")
def results() -> Iterator[str]:
    """The URL of a Redis that keeps results."""
    with BROKERS["redis"]() as running:
        yield running.url


def worker(project: Path, work: Path, env: dict[str, str], pool: str = "prefork") -> Worker:
    """Return a worker, not started yet."""
    words = ["celery", "-A", "app.integrations.celery", "worker", "-I", "app.integrations.celery_probe"]
    options = ["-P", pool, "-c", "3", "--without-mingle", "--without-gossip", "-n", f"{new_id('worker')}@localhost"]
    return Worker(project, work, [*words, *options], env, ready=" ready.", name="worker")


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def started(
    request: pytest.FixtureRequest, probed: Path, results: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """Service and worker with one of the brokers, one of the pools, one of the formats."""
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
    """The same, with all of its parts running."""
    return started.restart_stopped()


def check_tree(lines: list[AppLine]) -> None:
    """Eleven lines, each with an ID of its own, and the tree of the demo from their IDs alone."""
    assert Counter(line.message for line in lines) == {
        f"Debug task {n}": c for n, c in zip(CHILDREN, (1, 2, 2, 6), strict=True)
    }
    number = {line.current_id: int(line.message[-1]) for line in lines}
    assert len(number) == len(lines) == 11
    (root,) = [line for line in lines if line.parent_id == "-"]
    assert root.message == "Debug task 1"
    for own_id, which in number.items():
        assert sorted(number[line.current_id] for line in lines if line.parent_id == own_id) == CHILDREN[which]
    assert lines[0] == root
    position = {line.current_id: place for place, line in enumerate(lines)}
    for line in lines[1:]:
        assert position[line.parent_id] < position[line.current_id]


def test_lines_of_one_request_form_the_tree_of_its_tasks(system: System) -> None:
    """One request, eleven tasks: ordered and parented from the log alone; each is received, and ends, in a line."""
    request_id = system.send(DEMO)
    tree = system.lines(request_id, 11, "Debug task")
    check_tree(tree)
    for words in (" received", " success "):
        ends = system.lines(request_id, 11, words)
        assert len(ends) == 11
        assert {line.current_id for line in ends} == {line.current_id for line in tree}
    print_lines({"service": system.service, "worker": system.worker}, request_id)


def test_retried_task_keeps_its_id_and_its_parent(system: System) -> None:
    request_id = system.send("/probe/canvas/flaky")
    attempts = system.lines(request_id, 3, "attempt")
    assert [line.message for line in attempts] == ["attempt 1", "attempt 2", "attempt 3"]
    assert {line.parent_id for line in attempts} == {"-"}
    (own_id,) = {line.current_id for line in attempts}
    assert {line.parent_id for line in system.lines(request_id, 3, "step ")} == {own_id}
    system.lines(request_id, 1, "flaky success ")
    ends = [line.message.split()[1] for line in system.lines(request_id, 3, "flaky ") if line.message.endswith("s")]
    assert sorted(ends) == ["retry", "retry", "success"]


@pytest.mark.parametrize(("name", "count"), [("chain", 3), ("group", 2), ("chord", 4)])
def test_tasks_of_a_canvas_have_the_origin_and_their_sender_as_parent(system: System, name: str, count: int) -> None:
    """The next task of a chain, and the end of a chord, are children of a task."""
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
    ("name", "words"),
    [("stubborn", "Can't retry app.integrations.celery_probe.stubborn"), ("unknown", "no.such.task is no task that")],
)
def test_arguments_that_celery_would_log_are_in_no_line(system: System, name: str, words: str) -> None:
    request_id = system.send(f"/probe/canvas/{name}")

    def found() -> list[AppLine]:
        return [
            line for line in app_lines_of(system.processes, request_id) if words in f"{line.message}{line.exception}"
        ]

    assert {line.parent_id for line in wait_for(found, f"the line about {name}")} == {"-"}
    assert "hunter2" not in system.worker.output()


@on_rabbitmq
@pytest.mark.parametrize(("task", "words"), [("dies", "WorkerLostError"), ("hangs", "Hard time limit")])
def test_lines_of_the_first_process_about_a_lost_task_have_its_ids(system: System, task: str, words: str) -> None:
    request_id = system.send(f"/probe/canvas/{task}")
    system.lines(request_id, 1, "errback")

    def found() -> list[AppLine]:
        return [
            line for line in app_lines_of(system.processes, request_id) if words in f"{line.message}{line.exception}"
        ]

    (line,) = wait_for(found, f"the line of a task that {task}")
    (began,) = [line for line in app_lines_of(system.processes, request_id) if line.message == task]
    assert (line.current_id, line.parent_id) == (began.current_id, "-")


def test_request_that_a_task_makes_has_the_origin(system: System) -> None:
    request_id = system.send(f"/probe/calls?url=http://127.0.0.1:{system.service.port}/api/demo")
    system.lines(request_id, 1, "answered 200")
    paths = [line.target for line in system.service.access_lines(request_id, 2)]
    assert sorted(path.partition("?")[0] for path in paths) == ["/api/demo", "/probe/calls"]


@on_rabbitmq
def test_tasks_of_beat_have_an_origin_of_their_own_and_no_parent(system: System, tmp_path: Path) -> None:
    words = ["celery", "-A", "app.integrations.celery_probe", "beat", "-s", str(tmp_path / "schedule"), "--pidfile="]

    def ticks() -> list[AppLine]:
        return [line for line in parse_app(system.worker.app_text())[0] if line.message == "tick"]

    with Worker(system.service.project, tmp_path, words, {**system.worker.env, "PROBE_BEAT": "1"}, name="beat"):
        wait_for(lambda: len(ticks()) >= 3, "three ticks")
    found = ticks()
    assert len({line.request_id for line in found} - {"-"}) == len(found)
    assert {line.parent_id for line in found} == {"-"}


def test_lines_of_many_requests_at_once_do_not_mix(system: System) -> None:
    """Each of 300 requests, 20 at a time, sends a chain of three tasks: every ID has exactly its own lines."""
    sent = [SentRequest("POST", "/probe/canvas/chain", new_id("mix")) for _ in range(300)]
    before = system.worker.app_text().count(" success ")
    send_all(system.service.port, sent, connections=20)
    assert {one.status for one in sent} == {202}
    wait_for(lambda: system.worker.app_text().count(" success ") >= before + 900, "900 tasks", seconds=120)
    found: dict[str, list[AppLine]] = {one.request_id: [] for one in sent}
    records = [line for place in system.processes for line in parse_app(place.app_text())[0]]
    for line in sorted(records, key=lambda line: line.timestamp):
        if line.request_id in found:
            found[line.request_id].append(line)
    own_ids = set()
    for lines in found.values():
        steps = [line for line in lines if line.message.startswith("step ")]
        assert [line.message for line in lines].count("sending") == 1
        assert [line.parent_id for line in steps] == ["-", steps[0].current_id, steps[1].current_id]
        assert sum(" success " in line.message for line in lines) == 3
        own_ids |= {line.current_id for line in steps}
    assert len(own_ids) == 900


def test_every_line_of_the_worker_has_the_form_and_those_of_tasks_an_id(system: System) -> None:
    system.lines(system.send(DEMO), 11, " success ")
    system.lines(system.send("/probe/canvas/fails"), 1, " failure ")
    for line in system.worker.app_text().split("\n"):
        assert "Traceback" not in line or line.startswith(("    ", "{")), line
        assert not line.startswith("[20"), line
        if "Debug task" in line or "celery_probe" in line:
            assert '"request_id":"-"' not in line, line
            assert " [-] " not in line, line


def test_worker_and_service_reconnect_to_a_broker_that_was_away(system: System) -> None:
    system.broker.stop()
    system.check_refused(DEMO, NO_ANSWER, "celery")
    system.broker.start()
    system.service.wait_ready()
    check_tree(system.lines(system.send(DEMO), 11, "Debug task"))
    assert system.worker.process.poll() is None


def test_broker_that_hangs_keeps_no_request_waiting(system: System) -> None:
    """It takes connections, and answers nothing; service and worker go on when it does."""
    system.broker.tell(SIGSTOP)
    try:
        began = time.monotonic()
        assert system.service.request("POST", DEMO).status == 503
        assert time.monotonic() - began < scaled(10)
        assert system.service.request("GET", "/readyz").status == 503
    finally:
        system.broker.tell(SIGCONT)
    system.service.wait_ready()
    check_tree(system.lines(system.send(DEMO), 11, "Debug task"))


@on_rabbitmq
def test_password_that_the_broker_refuses_is_in_no_line(system: System, tmp_path: Path) -> None:
    env = {"CELERY_BROKER_URL": system.broker.url.replace("://", "://guest:hunter2@")}
    with Service(system.service.project, tmp_path, app="app.main:app", env=env, workers=1) as service:
        answer = service.request("POST", DEMO)
        assert (answer.status, answer.json()["cause"]) == (503, NO_ANSWER)
        assert service.request("GET", "/readyz").json()["cause"] == f"celery: {NO_ANSWER}"
        assert "hunter2" not in service.output()
        assert "Traceback" not in service.output()


def test_tasks_outlive_a_killed_worker_and_a_stopped_broker(system: System, tmp_path: Path) -> None:
    """What the worker was at, and what is sent before the next one starts, is done by that under the same IDs."""
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
    wait_for(lambda: "Cannot connect to" in system.worker.output(), "a worker that has not found its broker")
    system.broker.start()
    check_tree(system.lines(waiting, 11, "Debug task"))
    (ended,) = system.lines(killed, 1, "slow ends")
    begun = system.lines(killed, 2, "slow begins")
    assert len({line.pid for line in begun}) == 2
    assert {line.current_id for line in begun} == {first.current_id} == {ended.current_id}
    assert system.worker.stop() == 0
    assert system.service.stop() == 0


def test_worker_with_a_wrong_setting_ends_with_a_sentence_without_the_password(probed: Path, tmp_path: Path) -> None:
    running = worker(probed, tmp_path, {"CELERY_BROKER_URL": "http://user:hunter2@example.org"})
    running.start(wait=False)
    assert running.process.wait(60) == 1
    assert "The environment variable CELERY_BROKER_URL is invalid" in running.output()
    assert "hunter2" not in running.output()
