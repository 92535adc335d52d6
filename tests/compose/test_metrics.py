"""`docker compose --profile metrics up`: only Prometheus can scrape the replicas."""

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
from tests.support.stack import Stack, docker, image_of, image_with_owner
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

DEPLOY = TEMPLATE_DIR / "deploy/prometheus"
REPLICAS, REQUESTS = 2, 60


@pytest.fixture(scope="module")
def stack(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Two replicas, nginx, and Prometheus with a scrape interval of one second."""
    answers = dict.fromkeys(options(), False) | {"docker": True, "metrics": True}
    project = bake(repository, tmp_path_factory.mktemp("metrics") / "output", project_slug="metrics", **answers)
    config = project / "deploy/prometheus/prometheus.yml"
    config.write_text(config.read_text("utf-8").replace("15s", "1s").replace("5s", "1s"), "utf-8")
    fetch_images(project)
    variables = {"COMPOSE_PROFILES": "metrics", "API_REPLICAS": f"{REPLICAS}", "PROMETHEUS_PORT": f"{free_port()}"}
    variables["PROMETHEUS_IMAGE"] = image_with_owner("prom/prometheus:v3.13.1", "/prometheus", "65534:65534")
    with Stack(project, "metrics", **variables) as running:
        yield running
    docker("image", "rm", "--force", image_of(project))


def query_prometheus(stack: Stack, endpoint: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON
    """Return the data of a response of Prometheus's HTTP API."""
    url = f"http://127.0.0.1:{stack.variables['PROMETHEUS_PORT']}/api/v1/{endpoint}?{urlencode(parameters)}"
    with urlopen(url, timeout=10) as response:
        return json.loads(response.read())["data"]


def values(stack: Stack, query: str) -> list[float]:
    """Return the values in the result of a query."""
    return [float(one["value"][1]) for one in query_prometheus(stack, "query", query=query)["result"]]


def test_prometheus_scrapes_each_replica(stack: Stack) -> None:
    """All are up, and their counts add up to the requests sent through nginx."""
    wait_for(lambda: values(stack, "up") == [1] * REPLICAS, "two replicas that are up")
    for _ in range(REQUESTS):
        assert stack.request("GET", "/api/demo").status == 200
    counted = 'http_requests_total{route="/api/demo",method="GET",status="200"}'
    wait_for(lambda: values(stack, f"sum({counted})") == [REQUESTS], "the count of each request")
    assert len(values(stack, counted)) == REPLICAS


def test_queries_of_dashboard_and_rules_have_results(stack: Stack) -> None:
    board = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    recorded = re.findall(r"record: (\S+)", (DEPLOY / "alerts.yml").read_text("utf-8"))
    assert queries
    assert recorded
    with Load(stack.port, rate=20, mix=[("GET", "/api/demo/wait?seconds=0.01"), ("GET", "/api/demo/fail")]):
        for query in [*queries, *recorded]:
            text = query.replace("$__rate_interval", "20s").replace("$job", "api")
            # The quantile of a route without requests in the window is NaN.
            wait_for(lambda: any(value >= 0 for value in values(stack, text)), f"a result of {text}", 120)  # noqa: B023
    request_id, bucket = new_id("exemplar"), "http_request_duration_seconds_bucket"
    assert stack.request("GET", "/api/demo/wait?seconds=0.3", request_id=request_id).status == 200

    def ids() -> set[str]:
        exemplars = query_prometheus(stack, "query_exemplars", query=bucket, start="0", end="9999999999")
        return {one["labels"]["request_id"] for series in exemplars for one in series["exemplars"]}

    wait_for(lambda: request_id in ids(), "the ID of a request")


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "/x/../metrics", "/%6Detrics", "/metrics?a=b"])
def test_metrics_are_not_served_through_nginx(stack: Stack, path: str) -> None:
    """This holds for every spelling of the path. The response has the service's envelope."""
    response = stack.request("GET", path)
    assert (response.status, response.json()["code"]) == (404, 404)
    assert response.header() == response.json()["request_id"]
    assert b"http_requests" not in response.body


def test_prometheus_is_hardened_and_listens_on_loopback(stack: Stack) -> None:
    """It has the same restrictions as the other services. Without its profile it does not run."""
    assert stack.healthy() == {"nginx": 1, "api": REPLICAS, "prometheus": 1}
    service = json.loads(must(stack.compose("config", "--format", "json")).stdout)["services"]["prometheus"]
    assert (service["read_only"], service["cap_drop"], service["pids_limit"]) == (True, ["ALL"], 128)
    assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]
    no_profile = Stack(stack.project, "without", COMPOSE_PROFILES="")
    assert set(must(no_profile.compose("config", "--services")).stdout.split()) == {"nginx", "api"}
