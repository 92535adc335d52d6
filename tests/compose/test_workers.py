"""`docker compose up` with workers and brokers: all are healthy, and one ID is in the logs of all containers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.combinations import options
from tests.support.baking import bake, must
from tests.support.client import new_id
from tests.support.engine import engine, fetch_images
from tests.support.stack import Stack, docker, image_of, image_with_owner
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full
BROKERS = {"celery": "redis", "saq": "redis", "faststream": "nats"}
WORKERS = [f"{name}-worker" for name in BROKERS]
# Minimum number of lines with the ID that the worker of each option writes for the demo.
LINES = {"celery": 33, "saq": 6, "faststream": 4}


def bake_with(names: list[str], repository: Path, output: Path) -> Path:
    """Generate a service with Docker, these options and no others."""
    answers = dict.fromkeys(options(), False) | {"docker": True} | dict.fromkeys(names, True)
    return bake(repository, output, project_slug="workers", **answers)


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with all three options, started by `docker compose up`."""
    project = bake_with(list(BROKERS), repository, tmp_path_factory.mktemp("workers") / "output")
    fetch_images(project)
    workers = {name: {"healthcheck": {"interval": "3s"}} for name in WORKERS}
    (project / "override.yaml").write_text(json.dumps({"services": workers}))  # JSON is YAML
    redis = image_with_owner("redis:8-alpine", "/data", "999:1000")
    with Stack(project, "workers", COMPOSE_FILE="compose.yaml:override.yaml", REDIS_IMAGE=redis) as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def check_propagation(stack: Stack, name: str) -> None:
    """Check that one ID is in the response, in nginx's line, in the access log line, and in the lines of the worker."""
    request_id = new_id(name)
    response = stack.request("POST", f"/api/{name}/demo", request_id=request_id)
    assert (response.status, response.header(), response.json()["request_id"]) == (202, request_id, request_id)
    lines = stack.wait_for_lines(request_id, LINES[name], f"{name}-worker", seconds=60)
    assert all(line["current_id"] != line["parent_id"] for line in lines)
    front = stack.wait_for_lines(request_id, 2, "nginx", "api")
    assert {line.get("logger", "access") for line in front} >= {"nginx", "access"}


def accepts_work(stack: Stack, name: str) -> bool:
    """Return whether the demo endpoint accepts a task (202)."""
    return stack.request("POST", f"/api/{name}/demo").status == 202


@pytest.mark.parametrize("names", [*([name] for name in BROKERS), list(BROKERS)], ids="+".join)
def test_compose_file_has_a_hardened_worker_and_broker_for_each_option(
    names: list[str], repository: Path, tmp_path: Path
) -> None:
    """They have the same restrictions as nginx and the service, and no port. The development file is valid, too."""
    engine()
    stack = Stack(bake_with(names, repository, tmp_path / "output"), "config")
    development = must(stack.compose("--file", "compose.yaml", "--file", "compose.dev.yaml", "config", "--quiet"))
    assert development.stdout + development.stderr == ""
    services: dict[str, Any] = json.loads(must(stack.compose("config", "--format", "json")).stdout)["services"]
    brokers = {BROKERS[name] for name in names}
    assert set(services) == {"nginx", "api", *(f"{name}-worker" for name in names), *brokers}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) <= 1 << 30, name
        assert service["pids_limit"] <= 1024, name
        assert ("ports" in service) == (name == "nginx"), name


def test_up_waits_for_healthy_workers_and_brokers(stack: Stack) -> None:
    rows = [json.loads(row) for row in must(stack.compose("ps", "--format", "json")).stdout.splitlines()]
    expected = {"nginx", "api", *WORKERS, *BROKERS.values()}
    assert {row["Service"]: row["Health"] for row in rows} == dict.fromkeys(expected, "healthy")
    assert stack.request("GET", "/readyz").status == 200


@pytest.mark.parametrize("name", BROKERS)
def test_request_and_its_task_have_one_id_in_the_logs_of_all_containers(stack: Stack, name: str) -> None:
    """Each log line of the worker is a JSON object, like those of the service."""
    check_propagation(stack, name)
    assert [line for line in stack.logs(f"{name}-worker") if not line.startswith("{")] == []


def test_work_is_refused_during_a_broker_outage_and_accepted_afterwards(stack: Stack) -> None:
    """The name of a stopped container cannot be resolved; requests that need no broker are served."""
    brokers = set(BROKERS.values())
    must(stack.compose("stop", *brokers))
    for name in BROKERS:
        response = stack.request("POST", f"/api/{name}/demo", request_id=new_id("outage"))
        assert (response.status, response.json()["message"]) == (503, "failed")
    assert stack.request("GET", "/api/demo").status == 200
    must(stack.compose("start", *brokers))
    wait_for(lambda: stack.request("GET", "/readyz").status == 200, "readiness")
    wait_for(lambda: all(accepts_work(stack, name) for name in BROKERS), "connections to the brokers")
    for name in BROKERS:
        check_propagation(stack, name)


def test_stopped_workers_exit_with_0(stack: Stack) -> None:
    must(stack.up(*WORKERS))
    containers = [container for worker in WORKERS for container in stack.containers(worker)]
    must(stack.compose("stop", *WORKERS))
    states = [json.loads(docker("inspect", "--format", "{{json .State}}", one).stdout) for one in containers]
    assert [(state["ExitCode"], state["OOMKilled"]) for state in states] == [(0, False)] * len(WORKERS)
