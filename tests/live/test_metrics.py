"""Metrics of a running service: counts stay exact while workers are killed, reloaded or replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR2
from typing import Any

import pytest

from tests.support.baked import bake_with
from tests.support.baking import TEMPLATE_DIR, must, run
from tests.support.client import build_request
from tests.support.collectors import Sample, scrape
from tests.support.load import Load
from tests.support.programs import program
from tests.support.service import Service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

SENT = "/probe/async"
"""The path that `send` and `steady_load` request."""
HEALTH = ("/livez", "/readyz")
"""Paths that tests request while they wait for workers; sums leave them out."""


@pytest.fixture(scope="module")
def metrics_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with this integration only."""
    return bake_with(project, tmp_path_factory.mktemp("metrics") / "project", "metrics")


@pytest.fixture(scope="module")
def service(metrics_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two workers. Tests may kill or replace them, but must leave two that serve."""
    env = {"LOG_FORMAT": "json", "GRACEFUL_TIMEOUT": "3"}
    with Service(metrics_project, tmp_path_factory.mktemp("service"), env=env) as running:
        yield running


def total(service: Service, name: str = "http_requests_total", **labels: str) -> float:
    """Return the sum of a metric's samples with these labels, from a new scrape."""
    return sum_of(scrape(service), name, labels)


def sum_of(samples: list[Sample], name: str, labels: dict[str, str]) -> float:
    return sum(
        one.value
        for one in samples
        if one.name == name and labels.items() <= one.labels.items() and one.labels.get("route") not in HEALTH
    )


@pytest.fixture
def growth(service: Service) -> Callable[..., float]:
    """Return a function for a metric's growth since the test began."""
    service.wait_ready()  # so that the records of the startup are counted already
    before = scrape(service)
    return lambda name="http_requests_total", **labels: total(service, name, **labels) - sum_of(before, name, labels)


def folder_of(service: Service) -> Path:
    """Return the metrics folder, from the files that a worker has mapped."""

    def mapped_folders() -> set[Path]:
        maps = Path(f"/proc/{service.workers()[0]}/maps").read_text()
        return {Path(path).parent for path in re.findall(r"\S+/counter_\S+\.db", maps)}

    (folder,) = wait_for(mapped_folders, "a worker that counts")
    return folder


def count_files(service: Service) -> int:
    return len(list(folder_of(service).glob("*.db")))


def send(service: Service, count: int) -> None:
    """Send requests, eight at a time, each on a connection of its own, so that both workers get some."""
    with ThreadPoolExecutor(8) as pool:
        assert {response.status for response in pool.map(lambda _: service.request("GET", SENT), range(count))} == {200}


def wait_for_requests_in_flight(service: Service, count: int) -> None:
    wait_for(lambda: total(service, "http_requests_in_flight") == count, f"{count} request(s) in flight")


def change_workers(service: Service, change: Callable[[], None], count: int = 2, *, renewed: bool = True) -> None:
    """Call `change`, and wait until `count` workers serve, all of them new unless `renewed` is false."""
    before = set(service.workers())
    change()

    def is_settled() -> bool:
        now = service.workers()
        return len(now) == count and not (renewed and before & set(now)) and service.is_ready()

    wait_for(is_settled, f"{count} workers")


def steady_load(service: Service) -> Load:
    """Return a context manager that sends requests until it exits."""
    return Load(service.port, mix=[("GET", SENT)])


def counts_of(service: Service) -> Counter[tuple[str, str, str]]:
    """Return the number of requests by method, route and status, without health checks."""
    return Counter(
        {
            (one.labels["method"], one.labels["route"], one.labels["status"]): int(one.value)
            for one in scrape(service)
            if one.name == "http_requests_total" and one.labels["route"] not in HEALTH
        }
    )


def records_of(text: str, ids: set[str]) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line[0] == "{" and line.endswith("\n")]
    return [record for record in records if record["request_id"] in ids]


def test_counts_equal_the_log_lines(service: Service, growth: Callable[..., float]) -> None:
    """Requests count by method, route and status, records by level. Every worker reports the same counts."""
    targets = [
        ("GET", SENT, SENT, 200),
        ("GET", "/probe/sync", "/probe/sync", 200),
        ("GET", "/probe/items/no-{n}", "/probe/items/{number}", 422),
        ("HEAD", "/probe/head", "/probe/head", 200),
        ("GET", "/probe/fail", "/probe/fail", 500),
        ("GET", "/nowhere/{n}", "_UNMATCHED", 404),
        ("GET", "/probe/nested/api/demo?n={n}", "/probe/nested/api/demo", 200),
    ]
    sent = targets * 60
    before = counts_of(service)

    def send_request(number: int) -> str:
        method, target, _, status = sent[number]
        response = service.request(method, target.replace("{n}", str(number)))
        assert response.status == status
        return response.header()

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(send_request, range(len(sent))))
    expected = Counter((method, route, str(status)) for method, _, route, status in sent)
    # A request is counted when it completes, shortly after its client has read the response.
    wait_for(lambda: counts_of(service) - before == expected, f"the counts {expected}")
    assert all(counts_of(service) - before == expected for _ in range(20))
    assert count_files(service) == 3 * 2
    assert growth("http_request_duration_seconds_count") == len(sent)
    wait_for(lambda: len(records_of(service.access_text(), ids)) == len(ids), "the access log lines")
    lines = records_of(service.access_text(), ids)
    assert Counter((line["method"], line["status"]) for line in lines) == Counter((one[0], one[3]) for one in sent)
    assert growth("http_response_size_bytes_sum") == sum(line["bytes"] for line in lines)
    assert '"/metrics"' not in service.access_text()
    levels = Counter(one["level"] for one in records_of(service.app_text(), ids))
    assert levels == {"INFO": 3 * 60, "ERROR": 60}
    for level, count in levels.items():
        wait_for(lambda: growth("log_messages_total", level=level) == count, f"{count} records of {level}")  # noqa: B023
    wait_for_requests_in_flight(service, 0)


def test_requests_rejected_by_the_server_are_counted(service: Service, growth: Callable[..., float]) -> None:
    rejected = {
        414: build_request("GET", "/x" * 5000),
        431: build_request("GET", "/", [("X-Big", "x" * 40000)]),
        400: b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
    }
    for status, data in rejected.items():
        assert service.raw(data).status == status
        wait_for(lambda: growth(route="_UNMATCHED", status=str(status)) == 1, f"the count of {status}")  # noqa: B023


def test_request_cancelled_by_a_reload_is_counted(service: Service, growth: Callable[..., float]) -> None:
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for_requests_in_flight(service, 1)
        change_workers(service, lambda: service.signal(SIGHUP))
        assert connection.read_response().status == 503
    wait_for(lambda: growth(route="/probe/wait", status="503") == 1, "the count of the request")
    wait_for_requests_in_flight(service, 0)


def test_counts_of_killed_workers_stay(service: Service, growth: Callable[..., float]) -> None:
    def kill() -> None:
        for pid in service.workers():
            os.kill(pid, SIGKILL)

    files = count_files(service)
    send(service, 200)
    wait_for(lambda: growth(route=SENT) == 200, "the counts of both workers")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for_requests_in_flight(service, 1)
        change_workers(service, kill)
    wait_for(lambda: growth(route=SENT) == 200, "the counts of the killed workers")
    wait_for_requests_in_flight(service, 0)
    send(service, 100)
    wait_for(lambda: growth(route=SENT) == 300, "the counts of the new workers")
    assert count_files(service) == files


def test_counts_stay_exact_during_reloads_under_load(service: Service, growth: Callable[..., float]) -> None:
    """Four reloads, and a third worker at times. The number of files stays small."""
    with steady_load(service) as load:
        for number in (SIGHUP, SIGTTIN, SIGTTOU, SIGHUP, SIGTTIN, SIGHUP, SIGHUP):
            count = 3 if number == SIGTTIN else 2
            change_workers(service, lambda: service.signal(number), count, renewed=number == SIGHUP)  # noqa: B023
            load.wait_for_requests(20)
    assert load.failed == []
    wait_for(lambda: growth(route=SENT) == len(load.sent), "the count of each request")
    assert count_files(service) <= 3 * 2 * 3


def test_integration_added_at_run_time_counts_after_a_reload(metrics_project: Path, tmp_path: Path) -> None:
    """The first workers run without it. No request fails."""
    project = tmp_path / "project"
    shutil.copytree(metrics_project, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.move(project / "app/integrations/metrics", tmp_path / "metrics")
    with Service(project, tmp_path / "service") as service:
        assert service.request("GET", "/metrics").status == 404
        with steady_load(service) as load:
            shutil.move(tmp_path / "metrics", project / "app/integrations/metrics")
            for _ in range(2):
                change_workers(service, lambda: service.signal(SIGHUP))
            assert {service.request("GET", "/metrics").status for _ in range(20)} == {200}
        assert load.failed == []
        service.wait_ready()  # so that each worker has counted its earlier requests
        before = total(service, route=SENT)
        send(service, 100)
        wait_for(lambda: total(service, route=SENT) == before + 100, "the counts of both workers")
        assert "Traceback" not in service.app_text()
        assert service.stop() == 0


def test_counts_continue_through_an_upgrade_in_place(metrics_project: Path, tmp_path: Path) -> None:
    """Two masters share one folder (USR2), none of an earlier start; the last master removes it."""
    stale = tmp_path / "stale"  # the folder of a killed service
    stale.mkdir()
    env = {"PID_FILE": str(tmp_path / "pid"), "PROMETHEUS_MULTIPROC_DIR": str(stale)}
    with Service(metrics_project, tmp_path / "service", env=env) as service:
        folder, new = folder_of(service), tmp_path / "pid.2"
        assert (folder.stat().st_mode & 0o777, list(stale.iterdir())) == (0o700, [])
        send(service, 100)
        service.signal(SIGUSR2)
        successor = int(wait_for(lambda: new.read_text() if new.exists() else "", "the successor's PID file"))
        wait_for(lambda: len(list(folder.glob("counter_*.db"))) == 4, "the files of four workers")
        send(service, 200)
        wait_for(lambda: total(service, route=SENT) == 300, "the counts of all workers")
        assert {total(service, route=SENT) for _ in range(20)} == {300}
        assert service.stop(SIGQUIT) == 0
        send(service, 100)
        wait_for(lambda: total(service, route=SENT) == 400, "the counts of the old and the new workers")
        os.kill(successor, SIGTERM)
        wait_for(lambda: not folder.exists(), "the successor's end, which removes the folder")


# Recording rules and alerts

UP = "up{job='api',instance='a'} 1x60"
IN_FLIGHT = "http_requests_in_flight{job='api',type='%s',instance='%s'} %dx60"
LOGGED = "log_messages_total{job='api',level='%s'} 0+%dx60"


def requests(status: int, values: str, route: str = "/orders") -> str:
    """Return the requests of a route with a status, one value a minute."""
    labels = f"job='api',instance='a',method='GET',route='{route}',status='{status}'"
    return f"http_requests_total{{{labels}}} {values}"


def durations(route: str, fast: int, total_count: int) -> list[str]:
    """Return series of requests per minute: `fast` took less than 0.5 seconds, all took less than 5."""
    labels = f"job='api',instance='a',method='GET',route='{route}',status='200'"
    counts = {"0.5": fast, "5.0": total_count, "+Inf": total_count}
    buckets = [
        f"http_request_duration_seconds_bucket{{{labels},le='{le}'}} 0+{count}x60" for le, count in counts.items()
    ]
    return [*buckets, requests(200, f"0+{total_count}x60", route)]


CALM = [UP, requests(200, "0+600x60"), requests(503, "0+6x60")]
SLOW = durations("/slow", 500, 600) + durations("/fast", 600, 600)
ALERTS = {"ServiceDown": "critical", "RequestsFail": "critical", "RequestsSlow": "warning",
          "RequestsPileUp": "warning", "ErrorsLogged": "warning"}  # fmt: skip
# Name: input series; the alert that fires after half an hour, its summary, its labels besides `job`.
CASES: dict[str, tuple[list[str], str, str, dict[str, str]]] = {
    "calm": ([*CALM, IN_FLIGHT % ("http", "a", 20), LOGGED % ("ERROR", 3)], "", "", {}),
    "down": (["up{job='api',instance='a'} 1x5 0x60", "up{job='api',instance='b'} 1x60"],
             "ServiceDown", "a does not respond.", {"instance": "a"}),
    "gone": (["up{job='other'} 1x60"], "ServiceDown", "No replica is running.", {}),
    "failing": ([UP, requests(200, "0+90x60"), requests(503, "0+10x60")],
                "RequestsFail", "10% of requests fail with a 5xx status.", {}),
    "all fail": ([UP, requests(500, "0+90x60")], "RequestsFail", "100% of requests fail with a 5xx status.", {}),
    "probes fail": ([UP, requests(200, "0+90x60"), requests(503, "0+90x60", "/readyz")], "", "", {}),
    "no traffic": ([UP, requests(500, "1x60")], "", "", {}),
    "slow": ([UP, *SLOW],
             "RequestsSlow", "1% of requests to /slow take 4.73s or longer.", {"route": "/slow"}),
    "waiting": ([UP, *(IN_FLIGHT % ("http", instance, 60) for instance in "ab")],
                "RequestsPileUp", "120 requests are in progress at the same time.", {}),
    "websockets": ([UP, IN_FLIGHT % ("websocket", "a", 900)], "", "", {}),
    "errors": ([UP, LOGGED % ("ERROR", 60)], "ErrorsLogged", "1 errors per second are logged.", {}),
    "warnings": ([UP, LOGGED % ("WARNING", 60)], "", "", {}),
}  # fmt: skip
# The error ratio; without errors it must be 0, not empty.
RATIOS = {"all fail": 1, "slow": 0}


def rule_test(case: str) -> dict[str, Any]:
    """Return the case as a promtool test: only its alert fires, after half an hour and not before."""
    inputs, fires, summary, labels = CASES[case]
    labels = {"job": "api", **labels, "severity": ALERTS.get(fires, "")}
    alerts = [{"exp_labels": labels, "exp_annotations": {"summary": summary}}]
    ratio = {"labels": "job:http_errors:ratio_rate5m{job='api'}", "value": RATIOS.get(case)}
    return {
        "name": case,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, _, values in (i.partition(" ") for i in inputs)],
        "alert_rule_test": [
            {"eval_time": time, "alertname": alert, "exp_alerts": alerts if (time, alert) == ("30m", fires) else []}
            for alert in ALERTS
            for time in ("1m", "30m")
        ],
        "promql_expr_test": [{"expr": "job:http_errors:ratio_rate5m", "eval_time": "30m", "exp_samples": [ratio]}]
        if case in RATIOS
        else [],
    }


def test_each_alert_fires_only_in_its_case(tmp_path: Path) -> None:
    assert {fires for _, fires, *_ in CASES.values()} == {"", *ALERTS}
    rules = TEMPLATE_DIR / "deploy/prometheus/alerts.yml"
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"rule_files": [str(rules)], "tests": [*map(rule_test, CASES)]}))  # JSON is YAML
    assert re.findall(r"alert: (\S+)", rules.read_text("utf-8")) == [*ALERTS]
    assert "SUCCESS" in must(run([program("promtool", "prometheus"), "test", "rules", file], tmp_path)).stdout
