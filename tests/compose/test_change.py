"""Replicas come, go and are replaced while 200 requests a second arrive: none is lost, and each has its lines."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.baking import must, run
from tests.support.load import Load
from tests.support.stack import Stack, docker, say, write_override
from tests.support.waiting import wait_for

from .collector import Collector

REPLICAS = 3
# Short ones and ones that take a while; a third of them must not be sent twice.
MIXED = (("GET", "/api/demo"), ("POST", "/probe/slow?seconds=0.2"), ("GET", "/probe/slow?seconds=0.2"))
# What docs/compose.md says, for those who want nobody to wait.
ONE_BY_ONE = (
    'all=$(docker compose ps --quiet api); for old in $all; do docker stop "$old" && docker rm "$old" '
    '&& docker compose up --detach --wait --no-recreate --scale api="$(echo "$all" | wc -l)"; done'
)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Whoever keeps the lines, also those of containers that are gone."""
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def three(composed: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Three replicas of a service whose code the tests may change."""
    project = tmp_path_factory.mktemp("changing") / composed.name
    shutil.copytree(composed, project)
    files = write_override(project, nginx=collector.logging(), api=collector.logging())
    image = f"trail-changing-{id(project)}"
    try:
        with Stack(project, "changing", COMPOSE_FILE=files, API_REPLICAS=str(REPLICAS), IMAGE=image) as running:
            yield running
    finally:
        docker("image", "rm", "--force", image)


def health(container: str) -> str:
    """Give what the engine thinks of a container."""
    return docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip()


def wait_for_health(container: str) -> None:
    """Wait until a container is healthy."""
    wait_for(lambda: health(container) == "healthy", f"health of {container}")


def image_of(container: str) -> str:
    """Give the ID of the image that a container runs."""
    return must(docker("inspect", "--format", "{{.Image}}", container)).stdout.strip()


def assert_nothing_lost(load: Load, collector: Collector, what: str) -> None:
    """Each request was served under its ID, and has one line of nginx and one access line, with 200."""
    say(load.summary(what))
    assert load.failed == []
    assert load.dropped == 0
    request_ids = {sent.request_id for sent in load.sent}
    for service in ("nginx", "api"):
        lines = collector.wait_for(request_ids, service)
        assert {request_id: lines[request_id] for request_id in request_ids if lines[request_id] != [200]} == {}


def change_code(stack: Stack) -> str:
    """Change the code and build it; give the ID of the new image."""
    with (stack.project / "app/main.py").open("a") as file:
        file.write("# changed\n")
    must(stack.compose("build", "--quiet"))
    return must(docker("image", "inspect", "--format", "{{.Id}}", stack.variables["IMAGE"])).stdout.strip()


def test_rolling_restart(three: Stack, collector: Collector) -> None:
    """Three replicas are restarted one after the other."""
    with Load(three.port, mix=MIXED, clients=400) as load:
        for container in three.containers("api"):
            must(docker("restart", "--time", "40", container))
            wait_for_health(container)
    assert_nothing_lost(load, collector, "rolling restart of three")


def test_scale(three: Stack, collector: Collector) -> None:
    """A replica is stopped, another one is taken away, and both come back; then each has its share."""
    with Load(three.port, mix=MIXED, clients=400) as load:
        must(docker("stop", f"{three.name}-api-{REPLICAS}"))
        time.sleep(0.5)
        must(three.up("--scale", "api=1"))
        assert len(three.containers("api")) == 1
        must(three.up("--scale", f"api={REPLICAS}"))
        balanced = time.monotonic() + 1.5  # nginx knows the new addresses
        time.sleep(3)
    assert_nothing_lost(load, collector, "one replica stopped, scaled to one and to three")
    last = {sent.request_id for sent in load.sent if sent.began > balanced}
    shares = collector.shares(last)
    say(shares)
    assert len(shares) == REPLICAS
    assert min(shares.values()) >= 0.2 * len(last), shares


def test_reload(three: Stack, collector: Collector) -> None:
    """SIGHUP replaces the workers of all replicas, twice."""
    with Load(three.port, mix=MIXED, clients=400) as load:
        for _ in range(2):
            must(three.compose("kill", "--signal", "HUP", "api"))
            time.sleep(3)
    assert_nothing_lost(load, collector, "SIGHUP, twice")


@pytest.mark.parametrize("replicas", [REPLICAS, 1])
def test_new_image_for_all_at_once(three: Stack, collector: Collector, replicas: int) -> None:
    """`docker compose up` with a new image replaces all replicas at once: requests wait, and nginx stays."""
    must(three.up("--scale", f"api={replicas}"))
    image, proxy = change_code(three), three.containers("nginx")
    with Load(three.port, mix=MIXED, clients=400) as load:
        must(three.up("--scale", f"api={replicas}"))
    assert_nothing_lost(load, collector, f"new image for {replicas} at once")
    assert [image_of(container) for container in three.containers("api")] == [image] * replicas
    assert three.containers("nginx") == proxy


def test_new_image_one_by_one(three: Stack, collector: Collector) -> None:
    """Replicas are replaced by those of a new image one after the other: nobody waits."""
    must(three.up("--scale", f"api={REPLICAS}"))
    image = change_code(three)
    with Load(three.port, mix=MIXED, clients=400) as load:
        must(run(["sh", "-euc", ONE_BY_ONE], three.project, three.variables))
    assert_nothing_lost(load, collector, "new image one by one")
    assert [image_of(container) for container in three.containers("api")] == [image] * REPLICAS
    assert max(sent.took for sent in load.sent) < 3


def test_killed_replica(three: Stack, collector: Collector) -> None:
    """When a replica dies, only what must not be sent again and was with it fails: with 502, the ID and its line."""
    must(three.up("--scale", f"api={REPLICAS}"))
    with Load(three.port, mix=MIXED, clients=400) as load:
        time.sleep(1)
        killed = time.monotonic()
        must(docker("kill", "--signal", "KILL", three.containers("api")[0]))
        dead = time.monotonic()
        time.sleep(2)
    say(load.summary("SIGKILL of one of three"))
    for sent in load.failed:
        assert (sent.method, sent.status, sent.returned_id) == ("POST", 502, sent.request_id)
        assert sent.began < dead
        assert sent.ended > killed
    lost = {sent.request_id for sent in load.failed}
    assert 1 <= len(lost) < 0.2 * load.rate * (dead - killed + 0.2), len(lost)
    served = {sent.request_id for sent in load.sent} - lost
    lines = collector.wait_for(served, "api")
    assert all(lines[request_id] == [200] for request_id in served)
    assert not lost & lines.keys()
    at_nginx = collector.wait_for(served | lost, "nginx")
    assert all(at_nginx[request_id] == [502] for request_id in lost)


def test_stop_with_requests_in_flight(three: Stack, collector: Collector) -> None:
    """`docker compose stop`: what nginx has taken is answered in full; what comes later is not taken."""
    must(three.up("--scale", f"api={REPLICAS}"))
    with Load(
        three.port, rate=50, mix=[("GET", "/probe/slow?seconds=2"), ("POST", "/probe/slow?seconds=2")], clients=400
    ) as load:
        time.sleep(2.5)
        stopping = time.monotonic()
        must(three.compose("stop"))
        say(f"stopped in {time.monotonic() - stopping:.1f} s")
    say(load.summary("stop"))
    in_flight = [sent for sent in load.sent if sent.began < stopping and sent.ended > stopping]
    assert len(in_flight) > 50
    assert [sent for sent in load.sent if sent.began < stopping and not sent.answered] == []
    # The engine's own proxy takes connections that nginx does not, and closes them without a byte.
    assert all(not sent.status for sent in load.failed), Counter(sent.status for sent in load.failed)
    taken = {sent.request_id for sent in load.sent if sent.answered}
    lines = collector.wait_for(taken, "nginx")
    assert {sent.request_id for sent in load.sent if sent.request_id in lines} == taken
    assert all(lines[request_id] == [200] for request_id in taken)
