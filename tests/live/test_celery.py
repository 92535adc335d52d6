"""Celery with real brokers: one request, the tasks that it sets off, and every line of every process under its ID."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import NamedTuple

import pytest

from tests.support.brokers import Broker, RabbitMQ, Redis
from tests.support.client import build_request, new_id
from tests.support.lines import AppLine, parse_app
from tests.support.service import Service
from tests.support.waiting import wait_for
from tests.support.workers import Worker, show, trail, wait_for_trail

HERE = Path(__file__).parent
READY = " ready."
# Which tasks each task of the demo sends, and so how many there are of each.
CHILDREN = {1: [2, 2], 2: [3, 4], 3: [4, 4], 4: []}
WAYS = [
    ("redis", "prefork", "json"),
    ("redis", "threads", "text"),
    ("rabbitmq", "prefork", "text"),
    ("rabbitmq", "solo", "json"),
]
# The other pools end with a task that ends its process, and know no time limits.
PREFORK = [way for way in WAYS if "prefork" in way]


class System(NamedTuple):
    """A service, a worker, and the broker between them."""

    broker: Broker
    service: Service
    worker: Worker
    pool: str

    @property
    def places(self) -> tuple[Service, Worker]:
        """Where lines are written."""
        return self.service, self.worker

    def ask(self, target: str, request_id: str | None = None) -> str:
        """Send a request that is answered well, and return its ID."""
        request_id = request_id or new_id("celery")
        answer = self.service.request("POST", target, request_id=request_id)
        assert answer.status in (200, 202), answer
        return request_id

    def lines(self, request_id: str, count: int, containing: str = "") -> list[AppLine]:
        """Wait for lines of a request with these words."""
        return wait_for_trail(self.places, request_id, count, containing)


def with_probe(connected: Path, folder: Path) -> Path:
    """Return a copy of the service that has tasks to probe it by."""
    project = folder / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for other in ("saq", "faststream"):
        shutil.rmtree(project / "app/integrations" / other, ignore_errors=True)
    probe = project / "app/integrations/celery_probe"
    probe.mkdir()
    shutil.copy(HERE / "celery_probe.py", probe / "__init__.py")
    return project


@pytest.fixture(scope="module")
def probed(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service with the probe."""
    return with_probe(connected, tmp_path_factory.mktemp("celery"))


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis that runs for all tests of this module: broker of some, keeper of results for all."""
    with Redis() as running:
        yield running


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ that runs for all tests of this module."""
    with RabbitMQ() as running:
        yield running


def variables(broker: Broker, redis: Redis, log_format: str = "json", **more: str) -> dict[str, str]:
    """Return what service and worker read from the environment."""
    results = redis.url.replace("/0", "/1")
    return {"CELERY_BROKER_URL": broker.url, "CELERY_RESULT_BACKEND": results, "LOG_FORMAT": log_format, **more}


def worker(project: Path, work: Path, env: dict[str, str], pool: str = "prefork") -> Worker:
    """Return a worker, not started yet."""
    words = ["celery", "-A", "app.integrations.celery", "worker", "-I", "app.integrations.celery_probe"]
    size = [] if pool == "solo" else ["-c", "3"]
    quick = ["--without-mingle", "--without-gossip", "-n", f"{new_id('worker')}@localhost"]
    return Worker(project, work, [*words, "-P", pool, *size, *quick], env, ready=READY, name="worker")


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def system(
    request: pytest.FixtureRequest,
    probed: Path,
    redis: Redis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """Service and worker with one of the brokers, one of the pools, one of the formats."""
    kind, pool, log_format = request.param
    broker = request.getfixturevalue(kind)
    env = variables(broker, redis, log_format)
    work = tmp_path_factory.mktemp(f"{kind}-{pool}")
    service = Service(probed, work / "service", app="app.main:app", env=env)
    with service, worker(probed, work, env, pool) as running:
        yield System(broker, service, running, pool)


def assert_tree(lines: list[AppLine]) -> None:
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


def test_tree(system: System) -> None:
    """One request, eleven tasks: ordered and parented from the log alone; each is received, and ends, in a line."""
    request_id = system.ask("/api/celery/demo")
    assert_tree(system.lines(request_id, 11, "Debug task"))
    for words in (" received", " success "):
        ends = system.lines(request_id, 11, words)
        assert len(ends) == 11
        assert {line.current_id for line in ends} == {line.current_id for line in system.lines(request_id, 11, "Debug")}
    show({"service": system.service, "worker": system.worker}, request_id)


def test_retry(system: System) -> None:
    """A task that is tried again keeps its ID and its parent, and is not its own; what it sends is its child."""
    request_id = system.ask("/probe/canvas/flaky")
    attempts = system.lines(request_id, 3, "attempt")
    assert [line.message for line in attempts] == ["attempt 1", "attempt 2", "attempt 3"]
    assert {line.parent_id for line in attempts} == {"-"}
    (own_id,) = {line.current_id for line in attempts}
    assert {line.parent_id for line in system.lines(request_id, 3, "step ")} == {own_id}
    states = [line.message.split()[1] for line in system.lines(request_id, 3, "flaky ") if line.message.endswith("s")]
    assert sorted(state for state in states if state != "received") == ["retry", "retry", "success"]


@pytest.mark.parametrize(("name", "count"), [("chain", 3), ("group", 2), ("chord", 4)])
def test_canvas(system: System, name: str, count: int) -> None:
    """What belongs together keeps the origin; the next of a chain, and the end of a chord, are children of a task."""
    request_id = system.ask(f"/probe/canvas/{name}")
    wait_for_trail(system.places, request_id, count, " success ")
    lines = [line for line in trail(system.places, request_id) if line.message.startswith(("step ", "total "))]
    assert len({line.current_id for line in lines}) == len(lines) == count
    if name == "chain":
        assert [line.parent_id for line in lines] == ["-", lines[0].current_id, lines[1].current_id]
    else:
        assert {line.parent_id for line in lines if line.message.startswith("step ")} == {"-"}
    if name == "chord":
        assert lines[-1].message == "total 9"
        assert lines[-1].parent_id in {line.current_id for line in lines[:-1]}


def test_failure(system: System) -> None:
    """One traceback under the IDs, no argument in any line, the errback under the same origin, and a last line."""
    request_id = system.ask("/probe/canvas/fails")
    system.lines(request_id, 1, "errback")
    system.lines(request_id, 1, " failure ")
    lines = trail(system.places, request_id)
    (told,) = [line for line in lines if line.exception]
    assert "ValueError: it fails on purpose" in told.exception
    assert told.level == "ERROR"
    assert told.current_id not in (None, "-")
    assert "hunter2" not in system.worker.output()


@pytest.mark.parametrize(
    ("name", "words"),
    [("stubborn", "Can't retry app.integrations.celery_probe.stubborn"), ("unknown", "no.such.task is no task that")],
)
def test_no_argument_in_a_line(system: System, name: str, words: str) -> None:
    """Where Celery itself would print what a task was called with, ours has the IDs instead."""
    request_id = system.ask(f"/probe/canvas/{name}")
    wait_for(
        lambda: any(words in f"{line.message}{line.exception}" for line in trail(system.places, request_id)),
        "TODO-WHAT",
    )
    lines = [line for line in trail(system.places, request_id) if words in f"{line.message}{line.exception}"]
    assert {line.parent_id for line in lines} == {"-"}
    assert "hunter2" not in system.worker.output()


@pytest.mark.parametrize("system", PREFORK, indirect=True, ids="-".join, scope="module")
def test_worker_lost(system: System) -> None:
    """What only the first process can tell, and the errback that it sends, carry the IDs."""
    request_id = system.ask("/probe/canvas/dies")
    system.lines(request_id, 1, "errback")
    (line,) = [line for line in trail(system.places, request_id) if "WorkerLostError" in line.exception]
    (began,) = [other for other in trail(system.places, request_id) if other.message == "dies"]
    assert (line.current_id, line.parent_id) == (began.current_id, "-")


@pytest.mark.parametrize("system", PREFORK, indirect=True, ids="-".join, scope="module")
def test_time_limit(system: System) -> None:
    """So does a task that takes too long."""
    request_id = system.ask("/probe/canvas/hangs")
    (line,) = system.lines(request_id, 1, "Hard time limit")
    (began,) = [other for other in trail(system.places, request_id) if other.message == "hangs"]
    assert (line.current_id, line.parent_id) == (began.current_id, "-")
    system.lines(request_id, 1, "errback")


def test_no_line_without_an_id_is_of_a_task(system: System) -> None:
    """After all of the above: whatever names a task carries an ID, and each line is one of ours."""
    for line in system.worker.app_text().split("\n"):
        assert "Traceback" not in line or line.startswith(("    ", "{")), line
        assert not line.startswith("[20"), line
        if "Debug task" in line or "celery_probe" in line:
            assert '"request_id":"-"' not in line, line
            assert " [-] " not in line, line


def test_call_from_a_task(system: System) -> None:
    """A task that calls the service takes the origin along: the access line of that call has it."""
    host = f"127.0.0.1:{system.service.port}"
    if "OUTBOUND_HOSTS" not in system.worker.env:
        system.worker.stop()
        system.worker.env["OUTBOUND_HOSTS"] = host
        system.worker.start()
    request_id = system.ask(f"/probe/calls?url=http://{host}/api/demo")
    system.lines(request_id, 1, "answered 200")
    paths = [line.target for line in system.service.access_lines(request_id, 2)]
    assert sorted(path.partition("?")[0] for path in paths) == ["/api/demo", "/probe/calls"]


def test_nothing_mixes(probed: Path, redis: Redis, tmp_path: Path) -> None:
    """1,000 requests at a time, each with a chain of three tasks: every ID has exactly its own."""
    env = variables(redis, redis)
    service = Service(probed, tmp_path / "service", app="app.main:app", env=env)
    with service, worker(probed, tmp_path, env) as running:
        ids = [new_id("mix") for _ in range(1000)]

        def ask(some: list[str]) -> None:
            with service.connect() as connection:
                for request_id in some:
                    connection.send(build_request("POST", "/probe/canvas/chain", request_id=request_id, close=False))
                    assert connection.answer("POST").status == 200

        with ThreadPoolExecutor(20) as threads:
            list(threads.map(ask, [ids[start::20] for start in range(20)]))
        wait_for(lambda: running.app_text().count(" success ") >= 3000, "3000 tasks", seconds=120)
        found: dict[str, list[AppLine]] = {request_id: [] for request_id in ids}
        for line in trail_of_all(service, running):
            if line.request_id in found:
                found[line.request_id].append(line)
    for lines in found.values():
        steps = [line for line in lines if line.message.startswith("step ")]
        assert [line.message for line in lines].count("sending") == 1
        assert [line.parent_id for line in steps] == ["-", steps[0].current_id, steps[1].current_id]
        assert sum(" success " in line.message for line in lines) == 3
    tasks = [line.current_id for lines in found.values() for line in lines if line.message.startswith("step ")]
    assert len(set(tasks)) == len(tasks) == 3000


def trail_of_all(*places: Service | Worker) -> list[AppLine]:
    """Return every application line, in the order of time."""
    lines = [line for place in places for line in parse_app(place.app_text())[0]]
    return sorted(lines, key=lambda line: line.timestamp)


@pytest.mark.parametrize("kind", [Redis, RabbitMQ])
def test_killed_worker(kind: type[Broker], probed: Path, redis: Redis, tmp_path: Path) -> None:
    """A worker that is killed in the middle of a task: the next one does it under the same origin and the same ID."""
    with ExitStack() as stack:
        broker = stack.enter_context(kind())
        env = variables(broker, redis, CELERY_VISIBILITY_TIMEOUT="4")
        service = stack.enter_context(Service(probed, tmp_path / "service", app="app.main:app", env=env))
        running = stack.enter_context(worker(probed, tmp_path, env))
        request_id = new_id("killed")
        service.request("POST", "/probe/slow?seconds=2", request_id=request_id)
        (first,) = wait_for_trail([running], request_id, 1, "slow begins")
        os.killpg(running.process.pid, SIGKILL)
        running.process.wait(10)
        time.sleep(0.5)
        running.start()
        (ended,) = wait_for_trail([running], request_id, 1, "slow ends", timeout=40)
        begun = wait_for_trail([running], request_id, 2, "slow begins")
        assert {line.current_id for line in begun} == {first.current_id, ended.current_id}
        assert len({line.pid for line in begun}) == 2
        assert len({line.current_id for line in begun}) == 1


@pytest.mark.parametrize("kind", [Redis, RabbitMQ])
def test_broker_down(kind: type[Broker], probed: Path, tmp_path: Path) -> None:
    """Down at start, up, down in the middle, back: the API answers 503 with a sentence, and all heals."""
    with kind() as broker, ExitStack() as stack:
        broker.stop()
        env = {"CELERY_BROKER_URL": broker.url, "LOG_FORMAT": "json"}
        service = stack.enter_context(Service(probed, tmp_path / "service", app="app.main:app", env=env))
        running = worker(probed, tmp_path, env)
        stack.callback(running.kill)
        running.start(wait=False)
        system = System(broker, service, running, "prefork")
        assert_unreachable(system)
        broker.start()
        wait_for(lambda: READY in running.output(), "the worker", seconds=40)
        assert_reachable(system)
        broker.stop()
        assert_unreachable(system)
        broker.start()
        # Sent before the worker is back, and done when it is.
        service.wait_ready()
        assert_reachable(system)
        running.stop()
        kept = system.ask("/api/celery/demo")
        broker.restart()
        running.start()
        assert_tree(system.lines(kept, 11, "Debug task"))
        assert running.process.poll() is None
        assert service.stop() == 0


@pytest.mark.parametrize("kind", [Redis, RabbitMQ])
def test_broker_hangs(kind: type[Broker], probed: Path, tmp_path: Path) -> None:
    """A broker that takes connections and says nothing: nobody waits for long, and no thread is lost to it."""
    with ExitStack() as stack:
        broker = stack.enter_context(kind())
        env = {"CELERY_BROKER_URL": broker.url, "LOG_FORMAT": "json"}
        service = Service(probed, tmp_path / "service", app="app.main:app", env=env, workers=1)
        stack.enter_context(service)
        assert service.request("POST", "/api/celery/demo").status == 202
        broker.tell(SIGSTOP)
        stack.callback(broker.tell, SIGCONT)
        for _ in range(3):
            began = time.monotonic()
            assert service.request("POST", "/api/celery/demo").status == 503
            assert time.monotonic() - began < 10
        for _ in range(8):
            assert service.request("GET", "/readyz").status == 503
        (worker_pid,) = service.workers()
        threads = len(list(Path(f"/proc/{worker_pid}/task").iterdir()))
        for _ in range(8):
            assert service.request("GET", "/readyz").status == 503
        assert len(list(Path(f"/proc/{worker_pid}/task").iterdir())) <= threads
        broker.tell(SIGCONT)
        service.wait_ready()
        wait_for(lambda: service.request("POST", "/api/celery/demo").status == 202, "a task that is sent")


def test_wrong_password(probed: Path, tmp_path: Path) -> None:
    """A broker that lets nobody in is one that does not answer; the password is nowhere."""
    with RabbitMQ() as broker:
        env = {"CELERY_BROKER_URL": broker.url.replace("://", "://guest:hunter2@"), "LOG_FORMAT": "json"}
        with Service(probed, tmp_path / "service", app="app.main:app", env=env, workers=1) as service:
            answer = service.request("POST", "/api/celery/demo")
            assert (answer.status, answer.json()["cause"]) == (503, "The broker of the tasks does not answer.")
            assert service.request("GET", "/readyz").json()["cause"].startswith("celery: The broker of the tasks")
            assert "hunter2" not in service.output()
            assert "Traceback" not in service.output()


def assert_unreachable(system: System) -> None:
    """Sending is refused quickly, with the envelope and the ID; readiness tells; everything else is served."""
    request_id = new_id("down")
    began = time.monotonic()
    answer = system.service.request("POST", "/api/celery/demo", request_id=request_id)
    assert time.monotonic() - began < 5
    assert (answer.status, answer.one(), answer.json()["request_id"]) == (503, request_id, request_id)
    assert answer.json()["cause"] == "The broker of the tasks does not answer."
    ready = system.service.request("GET", "/readyz")
    assert (ready.status, ready.json()["cause"]) == (503, "celery: The broker of the tasks does not answer.")
    assert system.service.request("GET", "/api/demo").status == 200


def assert_reachable(system: System) -> None:
    """A request is followed through all of its tasks."""
    assert_tree(system.lines(system.ask("/api/celery/demo"), 11, "Debug task"))
    assert system.service.request("GET", "/readyz").status == 200


def test_beat(probed: Path, redis: Redis, tmp_path: Path) -> None:
    """Nobody's request: each task that the clock sends has a new origin, and no parent."""
    env = variables(redis, redis, PROBE_BEAT="1")
    words = ["celery", "-A", "app.integrations.celery_probe", "beat", "-s", str(tmp_path / "schedule"), "--pidfile="]
    with worker(probed, tmp_path, env) as running, Worker(probed, tmp_path, words, env, name="beat"):
        wait_for(lambda: running.app_text().count('"tick"') >= 3, "three ticks")
        ticks = [line for line in trail_of_all(running) if line.message == "tick"]
        assert len({line.request_id for line in ticks}) == len(ticks)
        assert {line.parent_id for line in ticks} == {"-"}
        assert all(line.request_id != "-" for line in ticks)


def test_each_run_has_an_id(probed: Path, redis: Redis, tmp_path: Path) -> None:
    """With CELERY_USE_TASK_ID=false, the runs of a task that is tried again are told apart."""
    env = variables(redis, redis, CELERY_USE_TASK_ID="false")
    service = Service(probed, tmp_path / "service", app="app.main:app", env=env)
    with service, worker(probed, tmp_path, env) as running:
        system = System(redis, service, running, "prefork")
        request_id = system.ask("/probe/canvas/flaky")
        attempts = system.lines(request_id, 3, "attempt")
        assert len({line.current_id for line in attempts}) == 3
        assert {line.parent_id for line in attempts} == {"-"}
        steps = system.lines(request_id, 3, "step ")
        assert {line.parent_id for line in steps} == {line.current_id for line in attempts}
        assert_tree(system.lines(system.ask("/api/celery/demo"), 11, "Debug task"))


def test_a_bad_setting(probed: Path, tmp_path: Path) -> None:
    """The worker says what is wrong, and what would be right, without the password."""
    env = {"CELERY_BROKER_URL": "http://user:hunter2@example.org"}
    running = worker(probed, tmp_path, env)
    running.start(wait=False)
    assert running.process.wait(20) == 1
    assert "The environment variable CELERY_BROKER_URL is not what it should be" in running.output()
    assert "hunter2" not in running.output()
