"""`docker compose --profile metrics up`: Prometheus asks every replica, and no one else can."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from scripts.combinations import options
from tests.support.baking import TEMPLATE_DIR, bake, must
from tests.support.client import new_id
from tests.support.engine import fetch_images
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.stack import Stack, docker, image_of, owned_image
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

DEPLOY = TEMPLATE_DIR / "deploy/prometheus"
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


def ask(stack: Stack, what: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
    """Return what Prometheus answers."""
    url = f"http://127.0.0.1:{stack.variables['PROMETHEUS_PORT']}/api/v1/{what}?{urlencode(parameters)}"
    with urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())["data"]


def values(stack: Stack, query: str) -> list[float]:
    """Return the values of a query's result."""
    return [float(one["value"][1]) for one in ask(stack, "query", query=query)["result"]]


def test_prometheus_asks_each_replica(stack: Stack) -> None:
    """All are up, and together they have counted as many requests as nginx has let in."""
    wait_for(lambda: values(stack, "up") == [1] * REPLICAS, "two replicas that are up")
    for _ in range(REQUESTS):
        assert stack.request("GET", "/api/demo").status == 200
    counted = 'http_requests_total{route="/api/demo",method="GET",status="200"}'
    wait_for(lambda: values(stack, f"sum({counted})") == [REQUESTS], "the count of each request")
    assert len(values(stack, counted)) == REPLICAS


def test_dashboard_rules_and_ids_of_requests_have_results(stack: Stack) -> None:
    board = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    recorded = re.findall(r"record: (\S+)", (DEPLOY / "alerts.yml").read_text("utf-8"))
    assert queries
    assert recorded
    with Load(stack.port, rate=20, mix=[("GET", "/api/demo/wait?seconds=0.01"), ("GET", "/api/demo/fail")]):
        for query in [*queries, *recorded]:
            text = query.replace("$__rate_interval", "20s").replace("$job", "api")
            # A route without requests in the window has NaN as its quantile beside the others' numbers.
            wait_for(lambda: any(value >= 0 for value in values(stack, text)), f"a result of {text}", 120)  # noqa: B023
    request_id, bucket = new_id("exemplar"), "http_request_duration_seconds_bucket"
    assert stack.request("GET", "/api/demo/wait?seconds=0.3", request_id=request_id).status == 200

    def ids() -> set[str]:
        found = ask(stack, "query_exemplars", query=bucket, start="0", end="9999999999")
        return {one["labels"]["request_id"] for series in found for one in series["exemplars"]}

    wait_for(lambda: request_id in ids(), "the ID of a request")


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6Detrics", "/metrics?a=b"])
def test_metrics_are_not_served_through_nginx(stack: Stack, path: str) -> None:
    """However the path is written; the response has the service's envelope."""
    answer = stack.request("GET", path)
    assert (answer.status, answer.json()["code"]) == (404, 404)
    assert answer.one() == answer.json()["request_id"]
    assert b"http_requests" not in answer.body


def test_prometheus_is_hardened_and_listens_on_loopback(stack: Stack) -> None:
    """It has the restrictions of the others; without its profile it is not there."""
    assert stack.healthy() == {"nginx": 1, "api": REPLICAS, "prometheus": 1}
    service = json.loads(must(stack.compose("config", "--format", "json")).stdout)["services"]["prometheus"]
    assert (service["read_only"], service["cap_drop"], service["pids_limit"]) == (True, ["ALL"], 128)
    assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    without = Stack(stack.project, "without", COMPOSE_PROFILES="")
    assert set(must(without.compose("config", "--services")).stdout.split()) == {"nginx", "api"}
