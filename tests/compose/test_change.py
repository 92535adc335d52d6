"""Scaling, updates, reloads and shutdown under a load of 60 requests per second: no request and no log line is lost."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.baking import must, run
from tests.support.client import ID_HEADER, new_id
from tests.support.load import Load
from tests.support.speed import scaled, slowness
from tests.support.stack import Stack, docker, image_of, write_override
from tests.support.waiting import wait_for

from .collector import Collector

pytestmark = pytest.mark.full

REPLICAS = 2
# Fast and slow requests; a third of them are POST requests, which must not be sent twice.
MIXED = (("GET", "/api/demo"), ("POST", "/probe/slow?seconds=0.2"), ("GET", "/probe/slow?seconds=0.2"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector.run() as running:
        yield running


@pytest.fixture(scope="module")
def replicas(built_project: Path, collector: Collector) -> Iterator[Stack]:
    """The stack with two replicas, and with an image name that no other stack uses."""
    files = write_override(built_project, nginx=collector.logging, api=collector.logging)
    image = f"trail-changing-{os.getpid()}"
    must(docker("tag", image_of(built_project), image))
    variables = {"COMPOSE_FILE": files, "IMAGE": image, "API_REPLICAS": str(REPLICAS), "WORKERS": "1"}
    with Stack(built_project, "changing", **variables) as running:
        yield running
    docker("image", "rm", "--force", image)


@pytest.fixture
def stack(replicas: Stack) -> Stack:
    """The stack with two healthy replicas; they are started again if the previous test left another state."""
    if replicas.healthy() != {"nginx": 1, "api": REPLICAS}:
        must(replicas.up())
    return replicas


def load_on(stack: Stack, mix: Sequence[tuple[str, str]] = MIXED) -> Load:
    """Return a load that a busy machine can serve while replicas start; `clients` is more than can ever wait."""
    return Load(stack.port, rate=60 / slowness(), mix=mix, clients=1000)


def assert_nothing_lost(load: Load, collector: Collector) -> None:
    """Assert that each request got a 200 with its ID, and has one access log line of nginx and one of the service."""
    assert load.failed == []
    assert load.dropped == 0
    request_ids = {sent.request_id for sent in load.sent}
    for service in ("nginx", "api"):
        lines = collector.wait_for(request_ids, service)
        assert {request_id: lines[request_id] for request_id in request_ids if lines[request_id] != [200]} == {}


def build_new_image(stack: Stack) -> str:
    """Build a new image under the name of the stack's image, and return its ID."""
    name = stack.variables["IMAGE"]
    must(docker("build", "--quiet", "--tag", name, "-", typed=f"FROM {name}\nLABEL version={new_id()}\n"))
    return must(docker("image", "inspect", "--format", "{{.Id}}", name)).stdout.strip()


def image_ids(stack: Stack) -> list[str]:
    return must(docker("inspect", "--format", "{{.Image}}", *stack.containers("api"))).stdout.split()


def workers(stack: Stack) -> set[str]:
    """Return the process IDs of all workers: those whose parent is in the same container."""
    rows = [
        row.split()
        for container in stack.containers("api")
        for row in must(docker("top", container, "-eo", "pid,ppid")).stdout.splitlines()[1:]
    ]
    pids = {pid for pid, _ in rows}
    return {pid for pid, parent in rows if parent in pids}


def test_sighup_of_all_replicas_loses_nothing(stack: Stack, collector: Collector) -> None:
    old = workers(stack)
    with load_on(stack) as load:
        must(stack.compose("kill", "--signal", "HUP", "api"))
        wait_for(lambda: len(workers(stack) - old) == len(old) and not workers(stack) & old, "new workers")
        load.wait_for_requests(100)
    assert_nothing_lost(load, collector)


def test_new_replicas_get_a_share_of_the_requests_and_scaling_down_loses_nothing(
    stack: Stack, collector: Collector
) -> None:
    def is_balanced() -> bool:
        counts = collector.requests_per_container({sent.request_id for sent in load.sent[-300:]})
        return len(counts) == REPLICAS + 1 and min(counts.values()) >= 0.2 * 300

    with load_on(stack) as load:
        must(stack.up("--scale", f"api={REPLICAS + 1}"))
        wait_for(is_balanced, "requests at each replica")
        must(stack.up("--scale", "api=1"))
        assert len(stack.containers("api")) == 1
        load.wait_for_requests(100)
    assert_nothing_lost(load, collector)


def test_new_image_for_all_replicas_at_the_same_time_loses_nothing(stack: Stack, collector: Collector) -> None:
    image, proxy = build_new_image(stack), stack.containers("nginx")
    with load_on(stack) as load:
        must(stack.up())
    assert_nothing_lost(load, collector)
    assert image_ids(stack) == [image] * REPLICAS
    assert stack.containers("nginx") == proxy
    assert max(sent.duration for sent in load.sent) > 0.9  # or the test is void: no request had to wait


def test_rolling_update_delays_no_request(stack: Stack, collector: Collector) -> None:
    lines = (stack.project / "docs/compose.md").read_text("utf-8").splitlines()
    (command,) = (line for line in lines if line.startswith("all=$(docker compose ps"))
    image = build_new_image(stack)
    with load_on(stack) as load:
        must(run(["sh", "-euc", command], stack.project, stack.variables))
    assert_nothing_lost(load, collector)
    assert image_ids(stack) == [image] * REPLICAS
    assert max(sent.duration for sent in load.sent) < scaled(3)


def test_killed_replica_loses_only_requests_that_must_not_be_repeated(stack: Stack, collector: Collector) -> None:
    slow = [("GET", "/probe/slow?seconds=1"), ("POST", "/probe/slow?seconds=1")]
    with load_on(stack, slow) as load:
        load.wait_for_requests(50)
        killed = time.monotonic()
        must(docker("kill", "--signal", "KILL", stack.containers("api")[0]))
        dead = time.monotonic()
        load.wait_for_requests(200)
    # If a replica is killed between head and body, the response is truncated: nginx has already sent the head.
    truncated = {sent.request_id for sent in load.failed if sent.error and sent.began < dead and sent.ended > killed}
    assert len(truncated) <= 2
    for sent in load.failed:
        is_lost = (sent.method, sent.status, sent.values(ID_HEADER)) == ("POST", 502, [sent.request_id])
        assert is_lost or sent.request_id in truncated, sent
    lost = {sent.request_id for sent in load.failed} - truncated
    in_flight = (sent for sent in load.sent if sent.began < dead and sent.ended > killed and sent.method == "POST")
    assert set() < lost < {sent.request_id for sent in in_flight}
    served = {sent.request_id for sent in load.sent} - lost - truncated
    lines, at_nginx = collector.wait_for(served, "api"), collector.wait_for(served | lost, "nginx")
    assert all(lines[request_id] == [200] for request_id in served)
    assert not lost & lines.keys()
    assert all(at_nginx[request_id] == [502] for request_id in lost)


def test_stop_lets_requests_finish(stack: Stack, collector: Collector) -> None:
    """Each accepted request gets its full response, and each container exits by itself, despite idle connections."""
    slow = [("GET", "/probe/slow?seconds=2"), ("POST", "/probe/slow?seconds=2")]
    containers = stack.containers("nginx") + stack.containers("api")
    with stack.connect() as idle, load_on(stack, slow) as load:
        assert idle.request("GET", "/api/demo").status == 200
        wait_for(lambda: sum(not sent.ended for sent in load.sent) > load.rate / 2, "requests in flight")
        stopping = time.monotonic()
        must(stack.compose("stop"))
    assert len([sent for sent in load.sent if sent.began < stopping < sent.ended]) > load.rate / 4
    assert [sent for sent in load.sent if sent.began < stopping and not sent.answered] == []
    # After nginx has stopped, the engine's own proxy still accepts connections, and closes them without a response.
    assert all(not sent.status for sent in load.failed), Counter(sent.status for sent in load.failed)
    answered = set(load.answered)
    lines = collector.wait_for(answered, "nginx")
    assert {sent.request_id for sent in load.sent if sent.request_id in lines} == answered
    assert all(lines[request_id] == [200] for request_id in answered)
    states = must(docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", *containers)).stdout
    assert set(states.splitlines()) == {"0 false"}
