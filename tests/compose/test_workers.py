"""`docker compose up` with workers and brokers: all healthy, and one request leaves its trail in everybody's log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.combinations import options
from tests.support.baking import bake, must
from tests.support.client import new_id
from tests.support.engine import fetch_images
from tests.support.stack import Stack, docker, image_of, owned_image, say
from tests.support.waiting import wait_for

BROKERS = {"celery": "redis", "saq": "redis", "faststream": "nats"}
# How many lines with the ID the workers of each option write for the demo at least.
LINES = {"celery": 33, "saq": 6, "faststream": 4}


@pytest.fixture(scope="module", params=[[name] for name in BROKERS] + [list(BROKERS)], ids="+".join)
def chosen(request: pytest.FixtureRequest) -> list[str]:
    """The options of a service."""
    names: list[str] = request.param
    return names


@pytest.fixture(scope="module")
def stack(chosen: list[str], repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with these options, and nothing else, as `docker compose up` starts it."""
    answers = dict.fromkeys(options(), False) | {"docker": True} | dict.fromkeys(chosen, True)
    slug = "workers-" + "-".join(name[:2] for name in chosen)
    project = bake(repository, tmp_path_factory.mktemp("workers") / "output", project_slug=slug, **answers)
    fetch_images(project)
    variables = (
        {"REDIS_IMAGE": owned_image("redis:8-alpine", "/data", "999:1000")}
        if "redis" in {BROKERS[name] for name in chosen}
        else {}
    )
    workers = {f"{name}-worker": {"healthcheck": {"interval": "3s"}} for name in chosen}
    (project / "override.yaml").write_text(json.dumps({"services": workers}))  # JSON is YAML
    with Stack(project, slug, COMPOSE_FILE="compose.yaml:override.yaml", **variables) as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def test_everything_is_healthy(stack: Stack, chosen: list[str]) -> None:
    """`up --wait` has ended with 0: nginx, service, workers and brokers are there, and each is asked how it is."""
    rows = [json.loads(row) for row in must(stack.compose("ps", "--format", "json")).stdout.splitlines()]
    expected = {"nginx", "api", *(f"{name}-worker" for name in chosen), *(BROKERS[name] for name in chosen)}
    assert {row["Service"]: row["Health"] for row in rows} == dict.fromkeys(expected, "healthy")
    assert stack.request("GET", "/readyz").status == 200


def test_services_are_hardened(stack: Stack) -> None:
    """Workers and brokers have each of the restrictions that nginx and the service have, and no port."""
    services: dict[str, Any] = json.loads(must(stack.compose("config", "--format", "json")).stdout)["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) <= 1 << 30, name
        assert service["pids_limit"] <= 1024, name
        assert ("ports" in service) == (name == "nginx"), name


def test_development_is_valid(stack: Stack) -> None:
    """With the file for development as well, Compose has nothing to say against it."""
    result = must(stack.compose("--file", "compose.yaml", "--file", "compose.dev.yaml", "config", "--quiet"))
    assert result.stdout + result.stderr == ""


def test_trail_of_one_request(stack: Stack, chosen: list[str]) -> None:
    """One ID in the answer, in nginx's line, in the access line, and in the lines of each worker."""
    for name in chosen:
        request_id = new_id(name)
        answer = stack.request("POST", f"/api/{name}/demo", request_id=request_id)
        assert (answer.status, answer.one(), answer.json()["request_id"]) == (202, request_id, request_id)
        lines = stack.wait_for_lines(request_id, LINES[name], f"{name}-worker", seconds=30)
        assert all(line["current_id"] != line["parent_id"] for line in lines)
        edge = stack.wait_for_lines(request_id, 2, "nginx", "api")
        assert {line.get("logger", "access") for line in edge} >= {"nginx", "access"}
        for line in sorted(stack.lines_of(request_id), key=lambda line: str(line["timestamp"])):
            say(
                {
                    key: line.get(key)
                    for key in ("timestamp", "logger", "request_id", "current_id", "parent_id", "message")
                }
            )


def test_lines_are_those_of_the_service(stack: Stack, chosen: list[str]) -> None:
    """Each line of a worker is a JSON object, as those of the service are."""
    for name in chosen:
        assert [line for line in stack.logs(f"{name}-worker") if not line.startswith("{")] == []


def test_broker_gone_and_back(stack: Stack, chosen: list[str]) -> None:
    """Without its broker the service says so and goes on; when that is back, so are the workers."""
    name = chosen[0]
    must(stack.compose("stop", BROKERS[name]))
    answer = stack.request("POST", f"/api/{name}/demo", request_id=new_id("gone"))
    assert (answer.status, answer.json()["message"]) == (503, "failed")
    assert stack.request("GET", "/api/demo").status == 200
    must(stack.compose("start", BROKERS[name]))
    wait_for(lambda: stack.request("GET", "/readyz").status == 200, "readiness")
    request_id = new_id("back")
    wait_for(lambda: stack.request("POST", f"/api/{name}/demo", request_id=request_id).status == 202, "answer")
    stack.wait_for_lines(request_id, LINES[name], f"{name}-worker", seconds=60)


def test_end(stack: Stack, chosen: list[str]) -> None:
    """Each worker ends when it is told to, in time."""
    for name in chosen:
        (container,) = stack.containers(f"{name}-worker")
        must(stack.compose("stop", f"{name}-worker"))
        state = json.loads(docker("inspect", "--format", "{{json .State}}", container).stdout)
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    must(stack.up())
