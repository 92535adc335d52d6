"""`docker compose --profile metrics up`: Prometheus asks every replica, and no one else can."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from scripts.combinations import options
from tests.support.baking import bake, must
from tests.support.engine import fetch_images
from tests.support.ports import free_port
from tests.support.stack import Stack, docker, image_of, owned_image, say
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

REPLICAS, REQUESTS = 2, 60


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two replicas, nginx and Prometheus, which looks every second."""
    answers = dict.fromkeys(options(), False) | {"docker": True, "metrics": True}
    project = bake(repository, tmp_path_factory.mktemp("metrics") / "output", project_slug="metrics", **answers)
    config = project / "deploy/prometheus/prometheus.yml"
    config.write_text(config.read_text("utf-8").replace("15s", "1s").replace("5s", "1s"), "utf-8")
    fetch_images(project)
    variables = {"COMPOSE_PROFILES": "metrics", "API_REPLICAS": f"{REPLICAS}", "PROMETHEUS_PORT": f"{free_port()}"}
    variables["PROMETHEUS_IMAGE"] = owned_image("prom/prometheus:v3.13.1", "/prometheus", "65534:65534")
    with Stack(project, "metrics", **variables) as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def ask(stack: Stack, query: str) -> list[dict[str, Any]]:
    """Return what Prometheus answers to a query."""
    port = stack.variables["PROMETHEUS_PORT"]
    with urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}", timeout=10) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())["data"]["result"]
    return found


def test_prometheus_asks_each_replica(stack: Stack) -> None:
    """All are up, and together they have counted as many requests as nginx has let in."""
    wait_for(lambda: [one["value"][1] for one in ask(stack, "up")] == ["1"] * REPLICAS, "two replicas that are up")
    for _ in range(REQUESTS):
        assert stack.request("GET", "/api/demo").status == 200
    counted = 'sum(http_requests_total{route="/api/demo",method="GET",status="200"})'
    wait_for(lambda: [one["value"][1] for one in ask(stack, counted)] == [f"{REQUESTS}"], "the count of each request")
    shares = {
        one["metric"]["instance"]: one["value"][1] for one in ask(stack, 'http_requests_total{route="/api/demo"}')
    }
    say(f"of {REQUESTS} requests: {shares}")
    assert len(shares) == REPLICAS


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6Detrics", "/metrics?a=b"])
def test_metrics_are_not_served_through_nginx(stack: Stack, path: str) -> None:
    """However the path is written; the response has the service's envelope."""
    answer = stack.request("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, 404)
    assert answer.one() == answer.json()["request_id"]
    assert b"http_requests" not in answer.body


def test_prometheus_is_hardened_and_listens_on_loopback(stack: Stack) -> None:
    """It is healthy, and has the restrictions of the others; without its profile it is not there."""
    rows = [json.loads(row) for row in must(stack.compose("ps", "--format", "json")).stdout.splitlines()]
    assert {row["Service"]: row["Health"] for row in rows} == dict.fromkeys(("nginx", "api", "prometheus"), "healthy")
    services = json.loads(must(stack.compose("config", "--format", "json")).stdout)["services"]
    service = services["prometheus"]
    assert (service["read_only"], service["cap_drop"], service["pids_limit"]) == (True, ["ALL"], 128)
    assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    stack.variables["COMPOSE_PROFILES"] = ""
    assert set(must(stack.compose("config", "--services")).stdout.split()) == {"nginx", "api"}
    stack.variables["COMPOSE_PROFILES"] = "metrics"
