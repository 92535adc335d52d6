"""Metrics of a running service: as many as were sent, whatever becomes of the workers that have counted them."""

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
from tests.support.collectors import Sample, samples
from tests.support.load import Load
from tests.support.programs import program
from tests.support.service import Service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

SENT = "/probe/async"
"""What `send` and `steady` ask for."""
HEALTH = ("/livez", "/readyz")
"""What is asked for while tests wait for workers; left out of each sum."""


@pytest.fixture(scope="module")
def measured(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with this integration, and no other."""
    return bake_with(project, tmp_path_factory.mktemp("metrics") / "project", "metrics")


@pytest.fixture(scope="module")
def service(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two workers, which tests may kill or replace as long as others serve when they end."""
    env = {"LOG_FORMAT": "json", "GRACEFUL_TIMEOUT": "3"}
    with Service(measured, tmp_path_factory.mktemp("service"), env=env) as running:
        yield running


def total(service: Service, name: str = "http_requests_total", **labels: str) -> float:
    """Return the sum of what has these labels."""
    return sum_of(samples(service), name, labels)


def sum_of(found: list[Sample], name: str, labels: dict[str, str]) -> float:
    return sum(
        one.value
        for one in found
        if one.name == name and labels.items() <= one.labels.items() and one.labels.get("route") not in HEALTH
    )


@pytest.fixture
def grown(service: Service) -> Callable[..., float]:
    """Return a function that tells by how much a metric has grown since the test began."""
    service.wait_ready()  # what workers log when they start has been counted
    before = samples(service)
    return lambda name="http_requests_total", **labels: total(service, name, **labels) - sum_of(before, name, labels)


def folder_of(service: Service) -> Path:
    """Return the folder that a worker has open."""

    def look() -> set[Path]:
        maps = Path(f"/proc/{service.workers()[0]}/maps").read_text()
        return {Path(path).parent for path in re.findall(r"\S+/counter_\S+\.db", maps)}

    (folder,) = wait_for(look, "a worker that counts")
    return folder


def count_files(service: Service) -> int:
    return len(list(folder_of(service).glob("*.db")))


def send(service: Service, count: int) -> None:
    """Send requests, eight at a time, each on a connection of its own, so that both workers get some."""
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(lambda _: service.request("GET", SENT), range(count))} == {200}


def wait_for_requests_in_flight(service: Service, count: int) -> None:
    wait_for(lambda: total(service, "http_requests_in_flight") == count, f"{count} request(s) in flight")


def change_workers(service: Service, change: Callable[[], None], count: int = 2, *, renewed: bool = True) -> None:
    """Do what changes the workers, and wait until there are so many, all of them new ones or not, and they serve."""
    before = set(service.workers())
    change()

    def settled() -> bool:
        now = service.workers()
        return len(now) == count and not (renewed and before & set(now)) and service.is_ready()

    wait_for(settled, f"{count} workers")


def steady(service: Service) -> Load:
    """Return requests that are sent as long as it lasts."""
    return Load(service.port, mix=[("GET", SENT)])


def counts_of(service: Service) -> Counter[tuple[str, str, str]]:
    """Return how many requests there were by method, route and status, health aside."""
    return Counter(
        {
            (one.labels["method"], one.labels["route"], one.labels["status"]): int(one.value)
            for one in samples(service)
            if one.name == "http_requests_total" and one.labels["route"] not in HEALTH
        }
    )


def records(text: str, ids: set[str]) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines(keepends=True) if line[0] == "{" and line.endswith("\n")]
    return [one for one in found if one["request_id"] in ids]


def test_each_request_and_record_is_counted_once_as_in_the_logs(service: Service, grown: Callable[..., float]) -> None:
    """By method, route and status, or level; every worker reports the same."""
    kinds = [
        ("GET", SENT, SENT, 200),
        ("GET", "/probe/sync", "/probe/sync", 200),
        ("GET", "/probe/items/no-{n}", "/probe/items/{number}", 422),
        ("HEAD", "/probe/head", "/probe/head", 200),
        ("GET", "/probe/fail", "/probe/fail", 500),
        ("GET", "/nowhere/{n}", "_UNMATCHED", 404),
        ("GET", "/probe/nested/api/demo?n={n}", "/probe/nested/api/demo", 200),
    ]
    sent = kinds * 60
    before = counts_of(service)

    def ask(number: int) -> str:
        method, target, _, status = sent[number]
        answer = service.request(method, target.replace("{n}", str(number)))
        assert answer.status == status
        return answer.one()

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(ask, range(len(sent))))
    expected = Counter((method, route, str(status)) for method, _, route, status in sent)
    # A request counts when it is over, a moment after its client has the answer.
    wait_for(lambda: counts_of(service) - before == expected, f"the counts {expected}")
    assert all(counts_of(service) - before == expected for _ in range(20))
    assert count_files(service) == 3 * 2
    assert grown("http_request_duration_seconds_count") == len(sent)
    wait_for(lambda: len(records(service.access_text(), ids)) == len(ids), "the access lines")
    lines = records(service.access_text(), ids)
    assert Counter((line["method"], line["status"]) for line in lines) == Counter((one[0], one[3]) for one in sent)
    assert grown("http_response_size_bytes_sum") == sum(line["bytes"] for line in lines)
    assert '"/metrics"' not in service.access_text()
    levels = Counter(one["level"] for one in records(service.app_text(), ids))
    assert levels == {"INFO": 3 * 60, "ERROR": 60}
    for level, count in levels.items():
        wait_for(lambda: grown("log_messages_total", level=level) == count, f"{count} records of {level}")  # noqa: B023
    wait_for_requests_in_flight(service, 0)


def test_requests_that_the_server_refuses_are_counted(service: Service, grown: Callable[..., float]) -> None:
    refused = {
        414: build_request("GET", "/x" * 5000),
        431: build_request("GET", "/", [("X-Big", "x" * 40000)]),
        400: b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
    }
    for status, data in refused.items():
        assert service.raw(data).status == status
        wait_for(lambda: grown(route="_UNMATCHED", status=str(status)) == 1, f"the count of {status}")  # noqa: B023


def test_request_that_a_reload_cancels_is_counted(service: Service, grown: Callable[..., float]) -> None:
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for_requests_in_flight(service, 1)
        change_workers(service, lambda: service.signal(SIGHUP))
        assert connection.answer().status == 503
    wait_for(lambda: grown(route="/probe/wait", status="503") == 1, "the count of the request")
    wait_for_requests_in_flight(service, 0)


def test_killed_worker_s_counts_stay(service: Service, grown: Callable[..., float]) -> None:
    def kill() -> None:
        for victim in service.workers():
            os.kill(victim, SIGKILL)

    known = count_files(service)
    send(service, 200)
    wait_for(lambda: grown(route=SENT) == 200, "the counts of both workers")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for_requests_in_flight(service, 1)
        change_workers(service, kill)
    wait_for(lambda: grown(route=SENT) == 200, "the counts of the killed workers")
    wait_for_requests_in_flight(service, 0)
    send(service, 100)
    wait_for(lambda: grown(route=SENT) == 300, "the counts of the new workers")
    assert count_files(service) == known


def test_reloads_lose_no_count_and_count_nothing_twice(service: Service, grown: Callable[..., float]) -> None:
    """Under load, four times, with another worker for a while; files stay few."""
    with steady(service) as load:
        for number in (SIGHUP, SIGTTIN, SIGTTOU, SIGHUP, SIGTTIN, SIGHUP, SIGHUP):
            count = 3 if number == SIGTTIN else 2
            change_workers(service, lambda: service.signal(number), count, renewed=number == SIGHUP)  # noqa: B023
            load.more(20)
    assert load.failed == []
    wait_for(lambda: grown(route=SENT) == len(load.sent), "the count of each request")
    assert count_files(service) <= 3 * 2 * 3


def test_option_that_comes_while_the_service_runs_counts_after_a_reload(measured: Path, tmp_path: Path) -> None:
    """The first workers knew nothing of it; none of them, and no request, is lost."""
    project = tmp_path / "project"
    shutil.copytree(measured, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.move(project / "app/integrations/metrics", tmp_path / "metrics")
    with Service(project, tmp_path / "service") as service:
        assert service.request("GET", "/metrics").status == 404
        with steady(service) as load:
            shutil.move(tmp_path / "metrics", project / "app/integrations/metrics")
            for _ in range(2):
                change_workers(service, lambda: service.signal(SIGHUP))
            assert {service.request("GET", "/metrics").status for _ in range(20)} == {200}
        assert load.failed == []
        service.wait_ready()  # each worker has counted what it had answered before
        counted = total(service, route=SENT)
        send(service, 100)
        wait_for(lambda: total(service, route=SENT) == counted + 100, "the counts of both workers")
        assert "Traceback" not in service.app_text()
        assert service.stop() == 0


def test_upgrade_in_place_goes_on_counting(measured: Path, tmp_path: Path) -> None:
    """Two first processes count together (USR2); the new one begins with nothing of an earlier start, and tidies up."""
    left = tmp_path / "left"  # by a service that was killed
    left.mkdir()
    env = {"PID_FILE": str(tmp_path / "pid"), "PROMETHEUS_MULTIPROC_DIR": str(left)}
    with Service(measured, tmp_path / "service", env=env) as service:
        folder, new = folder_of(service), tmp_path / "pid.2"
        assert (folder.stat().st_mode & 0o777, list(left.iterdir())) == (0o700, [])
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


# The rules of Prometheus

UP = "up{job='api',instance='a'} 1x60"
IN_FLIGHT = "http_requests_in_flight{job='api',type='%s',instance='%s'} %dx60"
LOGGED = "log_messages_total{job='api',level='%s'} 0+%dx60"


def requests(status: int, values: str, route: str = "/orders") -> str:
    """Return the requests of a route with a status, one value a minute."""
    labels = f"job='api',instance='a',method='GET',route='{route}',status='{status}'"
    return f"http_requests_total{{{labels}}} {values}"


def durations(route: str, fast: int, all_of_them: int) -> list[str]:
    """Return requests of which so many a minute took less than 0.5 seconds, and all less than 5."""
    labels = f"job='api',instance='a',method='GET',route='{route}',status='200'"
    counts = {"0.5": fast, "5.0": all_of_them, "+Inf": all_of_them}
    buckets = [
        f"http_request_duration_seconds_bucket{{{labels},le='{le}'}} 0+{count}x60" for le, count in counts.items()
    ]
    return [*buckets, requests(200, f"0+{all_of_them}x60", route)]


CALM = [UP, requests(200, "0+600x60"), requests(503, "0+6x60")]
SLOW = durations("/slow", 500, 600) + durations("/fast", 600, 600)
ALERTS = {"ServiceDown": "critical", "RequestsFail": "critical", "RequestsSlow": "warning",
          "RequestsPileUp": "warning", "ErrorsLogged": "warning"}  # fmt: skip
# What is the case; the alert that fires after half an hour, its summary, and its labels besides the job.
CASES: dict[str, tuple[list[str], str, str, dict[str, str]]] = {
    "calm": ([*CALM, IN_FLIGHT % ("http", "a", 20), LOGGED % ("ERROR", 3)], "", "", {}),
    "down": (["up{job='api',instance='a'} 1x5 0x60", "up{job='api',instance='b'} 1x60"],
             "ServiceDown", "a does not answer.", {"instance": "a"}),
    "gone": (["up{job='other'} 1x60"], "ServiceDown", "There is no replica.", {}),
    "failing": ([UP, requests(200, "0+90x60"), requests(503, "0+10x60")],
                "RequestsFail", "10% of the requests end with a 5xx.", {}),
    "all fail": ([UP, requests(500, "0+90x60")], "RequestsFail", "100% of the requests end with a 5xx.", {}),
    "probes fail": ([UP, requests(200, "0+90x60"), requests(503, "0+90x60", "/readyz")], "", "", {}),
    "nobody asks": ([UP, requests(500, "1x60")], "", "", {}),
    "slow": ([UP, *SLOW],
             "RequestsSlow", "One in a hundred requests to /slow takes 4.73s or longer.", {"route": "/slow"}),
    "waiting": ([UP, *(IN_FLIGHT % ("http", instance, 60) for instance in "ab")],
                "RequestsPileUp", "120 requests are under way at a time.", {}),
    "websockets": ([UP, IN_FLIGHT % ("websocket", "a", 900)], "", "", {}),
    "errors": ([UP, LOGGED % ("ERROR", 60)], "ErrorsLogged", "1 errors a second are logged.", {}),
    "warnings": ([UP, LOGGED % ("WARNING", 60)], "", "", {}),
}  # fmt: skip
# The share of errors; where there are none at all, it is nought and not nothing.
RATIOS = {"all fail": 1, "slow": 0}


def rule_test(case: str) -> dict[str, Any]:
    """Return a case as promtool wants it: its alert fires after half an hour, none before, and no other."""
    inputs, fires, summary, labels = CASES[case]
    labels = {"job": "api", **labels, "severity": ALERTS.get(fires, "")}
    fired = [{"exp_labels": labels, "exp_annotations": {"summary": summary}}]
    ratio = {"labels": "job:http_errors:ratio_rate5m{job='api'}", "value": RATIOS.get(case)}
    return {
        "name": case,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, _, values in (i.partition(" ") for i in inputs)],
        "alert_rule_test": [
            {"eval_time": time, "alertname": alert, "exp_alerts": fired if (time, alert) == ("30m", fires) else []}
            for alert in ALERTS
            for time in ("1m", "30m")
        ],
        "promql_expr_test": [{"expr": "job:http_errors:ratio_rate5m", "eval_time": "30m", "exp_samples": [ratio]}]
        if case in RATIOS
        else [],
    }


def test_alerts_fire_in_their_case_alone(tmp_path: Path) -> None:
    assert {fires for _, fires, *_ in CASES.values()} == {"", *ALERTS}
    rules = TEMPLATE_DIR / "deploy/prometheus/alerts.yml"
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"rule_files": [str(rules)], "tests": [*map(rule_test, CASES)]}))  # JSON is YAML
    assert re.findall(r"alert: (\S+)", rules.read_text("utf-8")) == [*ALERTS]
    assert "SUCCESS" in must(run([program("promtool", "prometheus"), "test", "rules", file], tmp_path)).stdout
