"""Replicas come, go and are replaced while 60 requests a second arrive: none is lost, and each has its lines."""

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
# Short ones and ones that take a while; a third of them must not be sent twice.
MIXED = (("GET", "/api/demo"), ("POST", "/probe/slow?seconds=0.2"), ("GET", "/probe/slow?seconds=0.2"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector.running() as running:
        yield running


@pytest.fixture(scope="module")
def changing(composed: Path, collector: Collector) -> Iterator[Stack]:
    """Two replicas with an image of their own name."""
    files = write_override(composed, nginx=collector.logging, api=collector.logging)
    image = f"trail-changing-{os.getpid()}"
    must(docker("tag", image_of(composed), image))
    variables = {"COMPOSE_FILE": files, "IMAGE": image, "API_REPLICAS": str(REPLICAS), "WORKERS": "1"}
    with Stack(composed, "changing", **variables) as running:
        yield running
    docker("image", "rm", "--force", image)


@pytest.fixture
def pair(changing: Stack) -> Stack:
    """Two healthy replicas, whatever the test before has left."""
    if changing.healthy() != {"nginx": 1, "api": REPLICAS}:
        must(changing.up())
    return changing


def load_on(stack: Stack, mix: Sequence[tuple[str, str]] = MIXED) -> Load:
    """Give a load that a busy machine can bear beside starting replicas; `clients` are as many as could ever wait."""
    return Load(stack.port, rate=60 / slowness(), mix=mix, clients=1000)


def assert_nothing_lost(load: Load, collector: Collector) -> None:
    """Each request was served under its ID, and has one line of nginx and one access line, with 200."""
    assert load.failed == []
    assert load.dropped == 0
    request_ids = {sent.request_id for sent in load.sent}
    for service in ("nginx", "api"):
        lines = collector.wait_for(request_ids, service)
        assert {request_id: lines[request_id] for request_id in request_ids if lines[request_id] != [200]} == {}


def make_new_image(stack: Stack) -> str:
    """Give the stack's image another ID, and return that."""
    name = stack.variables["IMAGE"]
    must(docker("build", "--quiet", "--tag", name, "-", typed=f"FROM {name}\nLABEL version={new_id()}\n"))
    return must(docker("image", "inspect", "--format", "{{.Id}}", name)).stdout.strip()


def images(stack: Stack) -> list[str]:
    return must(docker("inspect", "--format", "{{.Image}}", *stack.containers("api"))).stdout.split()


def workers(stack: Stack) -> set[str]:
    """Give the process IDs of all workers, which are children of other processes of their container."""
    rows = [
        row.split()
        for container in stack.containers("api")
        for row in must(docker("top", container, "-eo", "pid,ppid")).stdout.splitlines()[1:]
    ]
    pids = {pid for pid, _ in rows}
    return {pid for pid, parent in rows if parent in pids}


def test_sighup_of_all_replicas_loses_nothing(pair: Stack, collector: Collector) -> None:
    old = workers(pair)
    with load_on(pair) as load:
        must(pair.compose("kill", "--signal", "HUP", "api"))
        wait_for(lambda: len(workers(pair) - old) == len(old) and not workers(pair) & old, "new workers")
        load.more(100)
    assert_nothing_lost(load, collector)


def test_scaled_replicas_get_equal_shares_and_lose_nothing(pair: Stack, collector: Collector) -> None:
    def is_balanced() -> bool:
        shares = collector.shares({sent.request_id for sent in load.sent[-300:]})
        return len(shares) == REPLICAS + 1 and min(shares.values()) >= 0.2 * 300

    with load_on(pair) as load:
        must(pair.up("--scale", f"api={REPLICAS + 1}"))
        wait_for(is_balanced, "a share of each replica")
        must(pair.up("--scale", "api=1"))
        assert len(pair.containers("api")) == 1
        load.more(100)
    assert_nothing_lost(load, collector)


def test_new_image_for_all_replicas_at_once_loses_nothing(pair: Stack, collector: Collector) -> None:
    image, proxy = make_new_image(pair), pair.containers("nginx")
    with load_on(pair) as load:
        must(pair.up())
    assert_nothing_lost(load, collector)
    assert images(pair) == [image] * REPLICAS
    assert pair.containers("nginx") == proxy
    assert max(sent.took for sent in load.sent) > 0.9  # or no request had to wait


def test_new_image_one_by_one_lets_no_request_wait(pair: Stack, collector: Collector) -> None:
    lines = (pair.project / "docs/compose.md").read_text("utf-8").splitlines()
    (command,) = (line for line in lines if line.startswith("all=$(docker compose ps"))
    image = make_new_image(pair)
    with load_on(pair) as load:
        must(run(["sh", "-euc", command], pair.project, pair.variables))
    assert_nothing_lost(load, collector)
    assert images(pair) == [image] * REPLICAS
    assert max(sent.took for sent in load.sent) < scaled(3)


def test_killed_replica_loses_only_what_must_not_be_sent_again(pair: Stack, collector: Collector) -> None:
    slow = [("GET", "/probe/slow?seconds=1"), ("POST", "/probe/slow?seconds=1")]
    with load_on(pair, slow) as load:
        load.more(50)
        killed = time.monotonic()
        must(docker("kill", "--signal", "KILL", pair.containers("api")[0]))
        dead = time.monotonic()
        load.more(200)
    # A kill between the head and the body of a response, a moment long, cuts it off: no proxy can undo a head.
    cut = {sent.request_id for sent in load.failed if sent.error and sent.began < dead and sent.ended > killed}
    assert len(cut) <= 2
    for sent in load.failed:
        is_lost = (sent.method, sent.status, sent.values(ID_HEADER)) == ("POST", 502, [sent.request_id])
        assert is_lost or sent.request_id in cut, sent
    lost = {sent.request_id for sent in load.failed} - cut
    begun = (sent for sent in load.sent if sent.began < dead and sent.ended > killed and sent.method == "POST")
    assert set() < lost < {sent.request_id for sent in begun}
    served = {sent.request_id for sent in load.sent} - lost - cut
    lines, at_nginx = collector.wait_for(served, "api"), collector.wait_for(served | lost, "nginx")
    assert all(lines[request_id] == [200] for request_id in served)
    assert not lost & lines.keys()
    assert all(at_nginx[request_id] == [502] for request_id in lost)


def test_stop_lets_requests_end(pair: Stack, collector: Collector) -> None:
    """What nginx has accepted is answered in full, and each container ends by itself, idle connections or not."""
    slow = [("GET", "/probe/slow?seconds=2"), ("POST", "/probe/slow?seconds=2")]
    containers = pair.containers("nginx") + pair.containers("api")
    with pair.connect() as idle, load_on(pair, slow) as load:
        assert idle.request("GET", "/api/demo").status == 200
        wait_for(lambda: sum(not sent.ended for sent in load.sent) > load.rate / 2, "requests in flight")
        stopping = time.monotonic()
        must(pair.compose("stop"))
    assert len([sent for sent in load.sent if sent.began < stopping < sent.ended]) > load.rate / 4
    assert [sent for sent in load.sent if sent.began < stopping and not sent.answered] == []
    # The engine's own proxy accepts connections that nginx does not, and closes them without a byte.
    assert all(not sent.status for sent in load.failed), Counter(sent.status for sent in load.failed)
    answered = set(load.answered)
    lines = collector.wait_for(answered, "nginx")
    assert {sent.request_id for sent in load.sent if sent.request_id in lines} == answered
    assert all(lines[request_id] == [200] for request_id in answered)
    ends = must(docker("inspect", "--format", "{{.State.ExitCode}} {{.State.OOMKilled}}", *containers)).stdout
    assert set(ends.splitlines()) == {"0 false"}
