"""Metrics of a running service: as many as were sent, whatever becomes of the workers that have counted them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR2
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.support.baking import TEMPLATE_DIR, must, run
from tests.support.client import build_request, new_id
from tests.support.collectors import Sample, exemplar_of, samples
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.service import Service
from tests.support.waiting import wait_for

pytestmark = pytest.mark.full

DEPLOY = TEMPLATE_DIR / "deploy/prometheus"
SENT = "/probe/async"
"""What `send` and `steady` ask for."""
HEALTH = ("/livez", "/readyz")
"""What is asked for while tests wait for workers; left out of each sum."""


@pytest.fixture(scope="module")
def measured(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with this integration, and no other."""
    project = tmp_path_factory.mktemp("metrics") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for other in (project / "app/integrations").iterdir():
        if other.is_dir() and other.name != "metrics":
            shutil.rmtree(other)
    return project


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
    """Return the sum of those samples that have these labels."""
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


def files(service: Service) -> list[str]:
    """Return the files in which the workers count."""
    return sorted(path.name for path in folder_of(service).glob("*.db"))


def send(service: Service, count: int, target: str = SENT, status: int = 200) -> set[str]:
    """Send requests, eight at a time, each on a connection of its own, so that both workers get some; return IDs."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.request("GET", target), range(count)))
    assert {answer.status for answer in answers} == {status}
    return {answer.one() for answer in answers}


def counts_of(service: Service) -> Counter[tuple[str, str, str]]:
    """Return how many requests there were by method, route and status, health aside."""
    return Counter(
        {
            (one.labels["method"], one.labels["route"], one.labels["status"]): int(one.value)
            for one in samples(service)
            if one.name == "http_requests_total" and one.labels["route"] not in HEALTH
        }
    )


def test_each_request_is_counted_once_as_in_the_access_log(service: Service, grown: Callable[..., float]) -> None:
    """By method, route and status; every worker reports the same."""
    kinds = [
        ("GET", SENT, SENT, 200),
        ("GET", "/probe/sync", "/probe/sync", 200),
        ("GET", "/probe/items/{n}", "/probe/items/{number}", 200),
        ("GET", "/probe/items/no-{n}", "/probe/items/{number}", 422),
        ("POST", "/probe/items/1", "/probe/items/{number}", 405),
        ("HEAD", "/probe/head", "/probe/head", 200),
        ("GET", "/probe/fail", "/probe/fail", 500),
        ("GET", "/nowhere/{n}", "_UNMATCHED", 404),
        ("GET", "/probe/nested/api/demo?n={n}", "/probe/nested/api/demo", 200),
    ]
    sent = [kinds[number % len(kinds)] for number in range(450)]
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
    assert len(files(service)) == 3 * 2
    assert grown("http_request_duration_seconds_count") == len(sent)
    lines = wait_for(
        lambda: found if len(found := records(service.access_text(), ids)) == len(ids) else [], "the lines"
    )
    by_lines = Counter((line["method"], line["status"]) for line in lines)
    assert by_lines == Counter((method, status) for method, _, _, status in sent)
    assert grown("http_response_size_bytes_sum") == sum(line["bytes"] for line in lines)
    wait_for(lambda: total(service, "http_requests_in_flight") == 0, "no request in flight")
    assert '"/metrics"' not in service.access_text()


def records(text: str, ids: set[str]) -> list[dict[str, Any]]:
    """Return the log records of these requests."""
    found = [json.loads(line) for line in text.splitlines(keepends=True) if line[0] == "{" and line.endswith("\n")]
    return [one for one in found if one["request_id"] in ids]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (build_request("GET", "/x" * 5000), 414),
        (build_request("GET", "/", [("X-Big", "x" * 40000)]), 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
    ],
    ids=["414", "431", "400"],
)
def test_request_that_the_server_refuses_is_counted(
    data: bytes, status: int, service: Service, grown: Callable[..., float]
) -> None:
    """Under no route, and under no invented method."""
    assert service.raw(data).status == status
    wait_for(lambda: grown(route="_UNMATCHED", status=str(status)) == 1, f"the count of {status}")


def test_log_records_are_counted_by_level(service: Service, grown: Callable[..., float]) -> None:
    """As many of each level as the workers have written; access lines are none."""
    ids = send(service, 100) | send(service, 30, "/probe/fail", 500) | send(service, 50, "/probe/sync")
    assert Counter(one["level"] for one in records(service.app_text(), ids)) == {"INFO": 150, "ERROR": 30}
    wait_for(lambda: grown("log_messages_total", level="ERROR") == 30, "the count of errors")
    wait_for(lambda: grown("log_messages_total", level="INFO") == 150, "the count of other log records")


def test_request_is_found_by_its_id(service: Service) -> None:
    """In the bucket of its duration; of two workers, the one that has served it has it."""
    request_id = new_id("exemplar")
    service.request("GET", "/probe/wait?seconds=0.3", request_id=request_id)
    found = wait_for(lambda: exemplar_of(service, request_id), "the exemplar of the request")
    assert found
    assert (found.name, found.labels["route"]) == ("http_request_duration_seconds_bucket", "/probe/wait")
    lower = {"0.5": 0.3, "1.0": 0.5, "2.5": 1}[found.labels["le"]]
    assert lower <= service.access_line(request_id).duration <= float(found.labels["le"])


def test_request_that_a_reload_cancels_is_counted(service: Service, grown: Callable[..., float]) -> None:
    """As what it was answered with, and it is no longer in flight."""
    before = service.workers()
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for(lambda: total(service, "http_requests_in_flight", type="http") == 1, "a request in flight")
        service.signal(SIGHUP)
        assert connection.answer().status == 503
    wait_for(lambda: grown(route="/probe/wait", status="503") == 1, "the count of the request")
    wait_for(lambda: total(service, "http_requests_in_flight") == 0, "no request in flight")
    wait_for(lambda: settled(service, before, 2, renewed=True), "two new workers")


def test_killed_worker_s_counts_stay(service: Service, grown: Callable[..., float]) -> None:
    """What it had in flight goes, and there are no more files."""
    known = len(files(service))
    send(service, 200)
    wait_for(lambda: grown(route=SENT) == 200, "the counts of both workers")
    with service.connect() as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for(lambda: total(service, "http_requests_in_flight") == 1, "a request in flight")
        before = service.workers()
        for victim in before:
            os.kill(victim, SIGKILL)
        wait_for(lambda: settled(service, before, 2, renewed=True), "two new workers")
    wait_for(lambda: grown(route=SENT) == 200, "the counts of the killed workers")
    wait_for(lambda: total(service, "http_requests_in_flight") == 0, "no request in flight")
    send(service, 100)
    wait_for(lambda: grown(route=SENT) == 300, "the counts of the new workers")
    assert len(files(service)) == known


def answers(service: Service) -> bool:
    """Tell whether somebody serves."""
    with suppress(OSError, EOFError):
        return service.request("GET", "/livez").status == 200
    return False


def steady(service: Service) -> Load:
    """Return requests that are sent as long as it lasts."""
    return Load(service.port, mix=[("GET", SENT)])


def settled(service: Service, before: list[int], count: int, *, renewed: bool) -> bool:
    """Tell whether the workers are those that a signal asks for, and serve."""
    now = service.workers()
    return len(now) == count and (not renewed or not set(before) & set(now)) and answers(service)


def test_reloads_lose_no_count_and_count_nothing_twice(service: Service, grown: Callable[..., float]) -> None:
    """Under load, four times, with another worker for a while; files stay few."""
    with steady(service) as load:
        for number in (SIGHUP, SIGTTIN, SIGTTOU, SIGHUP, SIGTTIN, SIGHUP, SIGHUP):
            before, count = service.workers(), 3 if number == SIGTTIN else 2
            service.signal(number)
            wait_for(lambda: settled(service, before, count, renewed=number == SIGHUP), f"{count} workers")  # noqa: B023
            load.more(20)
    assert load.failed == []
    wait_for(lambda: grown(route=SENT) == len(load.sent), "the count of each request")
    assert len(files(service)) <= 3 * 2 * 3


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
                before = service.workers()
                service.signal(SIGHUP)
                wait_for(lambda: settled(service, before, 2, renewed=True), "two new workers")  # noqa: B023
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
        folder, old = folder_of(service), service.process.pid
        assert (folder.stat().st_mode & 0o777, list(left.iterdir())) == (0o700, [])
        send(service, 100)
        service.signal(SIGUSR2)
        new = tmp_path / "pid.2"
        successor = int(wait_for(lambda: new.read_text() if new.exists() else "", "the successor's PID file"))
        wait_for(lambda: len(list(folder.glob("counter_*.db"))) == 4, "the files of four workers")
        send(service, 200)
        wait_for(lambda: total(service, route=SENT) == 300, "the counts of all workers")
        assert {total(service, route=SENT) for _ in range(20)} == {300}
        os.kill(old, SIGQUIT)
        wait_for(lambda: not is_running(old), "the end of the old first process")
        send(service, 100)
        wait_for(lambda: total(service, route=SENT) == 400, "the counts of the old and the new workers")
        os.kill(successor, SIGTERM)
        wait_for(lambda: not is_running(successor), "the end of the successor")
        assert not folder.exists()


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has only to be collected does not."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


# Prometheus itself


@contextmanager
def prometheus(service: Service, folder: Path) -> Iterator[Callable[[str], Any]]:
    """Run Prometheus with the configuration that comes along, but for the address; yield a function that asks it."""
    path, port = program("prometheus", "prometheus"), free_port()
    config = (DEPLOY / "prometheus.yml").read_text("utf-8")
    by_name = config[config.index("    # The name has") :]
    config = config.replace(by_name, f"    static_configs: [{{targets: ['127.0.0.1:{service.port}']}}]\n")
    folder.mkdir()
    (folder / "prometheus.yml").write_text(config.replace("15s", "1s").replace("5s", "1s"))
    shutil.copy(DEPLOY / "alerts.yml", folder)
    words = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    words += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage"]

    def ask(target: str) -> Any:  # noqa: ANN401 - JSON
        with urlopen(f"http://127.0.0.1:{port}/api/v1/{target}", timeout=10) as answer:
            content = json.loads(answer.read())
        assert content["status"] == "success"
        return content["data"]

    with (folder / "output").open("wb") as output:
        running = subprocess.Popen([path, *words], stdout=output, stderr=output)
    try:
        wait_for(lambda: is_ready(port), "Prometheus")
        yield ask
    finally:
        running.terminate()
        running.wait(20)


def is_ready(port: int) -> bool:
    """Tell whether Prometheus may be asked."""
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10) as answer:
        return bool(answer.status == 200)
    return False


def of_dashboard() -> list[str]:
    """Return the queries of the dashboard, with what Grafana puts in."""
    board = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "20s").replace("$job", "api") for query in queries]


def test_prometheus_has_what_was_sent(service: Service, grown: Callable[..., float], tmp_path: Path) -> None:
    """As many requests; each query of the dashboard has a result; the ID of a request is there."""
    with prometheus(service, tmp_path / "prometheus") as ask:
        assert of_dashboard()
        wait_for(lambda: ask("query?query=up")["result"], "a scrape")
        request_id = new_id("exemplar")
        service.request("GET", "/probe/wait?seconds=0.3", request_id=request_id)
        send(service, 100)
        service.request("GET", "/probe/fail")
        wait_for(lambda: grown(route=SENT) == 100, "the counts of both workers")
        counted = total(service, route=SENT)

        def value(query: str) -> float:
            found = ask(f"query?query={quote(query)}")["result"]
            return float(found[0]["value"][1]) if found else -1

        wait_for(lambda: value(f'http_requests_total{{route="{SENT}",status="200"}}') == counted, "all requests")
        assert value("up") == 1
        recorded = re.findall(r"record: (\S+)", (DEPLOY / "alerts.yml").read_text("utf-8"))
        with steady(service):
            for query in [*of_dashboard(), *recorded]:
                wait_for(lambda: value(query) >= 0, f"a result of {query}")  # noqa: B023

        def ids() -> set[str]:
            found = ask("query_exemplars?query=http_request_duration_seconds_bucket&start=0&end=9999999999")
            return {one["labels"]["request_id"] for series in found for one in series["exemplars"]}

        wait_for(lambda: request_id in ids(), "the ID of a request")


def test_files_are_valid() -> None:
    """promtool finds no fault with configuration and rules."""
    promtool = program("promtool", "prometheus")
    said = must(run([promtool, "check", "config", DEPLOY / "prometheus.yml"], DEPLOY)).stdout
    assert "SUCCESS: 1 rule files found" in said
    assert "10 rules found" in must(run([promtool, "check", "rules", DEPLOY / "alerts.yml"], DEPLOY)).stdout


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Return a series of a test of rules: one value a minute."""
    pairs = ", ".join(f'{key}="{value}"' for key, value in {"job": "api", **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def requests(status: str, values: str, route: str = "/orders") -> dict[str, str]:
    """Return the requests of a route with a status."""
    return series("http_requests_total", values, instance="a", method="GET", route=route, status=status)


def durations(route: str, fast: str, slow: str) -> list[dict[str, str]]:
    """Return requests of which so many took less than 0.5 seconds, and all less than 5."""
    labels = {"instance": "a", "method": "GET", "route": route, "status": "200"}
    bucket = "http_request_duration_seconds_bucket"
    return [
        series(bucket, fast, le="0.5", **labels),
        series(bucket, slow, le="5.0", **labels),
        series(bucket, slow, le="+Inf", **labels),
        requests("200", slow, route),
    ]


UP = series("up", "1x60", instance="a")
CALM = [UP, requests("200", "0+600x60"), requests("503", "0+6x60")]
FEW = series("http_requests_in_flight", "20x60", type="http")
MANY = [series("http_requests_in_flight", "60x60", type="http", instance=instance) for instance in "ab"]
SLOW = durations("/slow", "0+500x60", "0+600x60")
FAST = durations("/fast", "0+600x60", "0+600x60")
# What is the case, and which alerts fire after half an hour.
CASES: dict[str, tuple[list[dict[str, str]], list[str]]] = {
    "calm": ([*CALM, FEW, series("log_messages_total", "0+3x60", level="ERROR")], []),
    "down": ([series("up", "1x5 0x60", instance="a"), series("up", "1x60", instance="b")], ["ServiceDown"]),
    "gone": ([series("up", "1x60", instance="a", other="1") | {"series": 'up{job="other"}'}], ["ServiceDown"]),
    "failing": ([UP, requests("200", "0+90x60"), requests("503", "0+10x60")], ["RequestsFail"]),
    "all fail": ([UP, requests("500", "0+90x60")], ["RequestsFail"]),
    "probes fail": ([UP, requests("200", "0+90x60"), requests("503", "0+90x60", "/readyz")], []),
    "nobody asks": ([UP, requests("500", "1x60")], []),
    "slow": ([UP, *SLOW, *FAST], ["RequestsSlow"]),
    "waiting": ([UP, *MANY], ["RequestsPileUp"]),
    "websockets": ([UP, series("http_requests_in_flight", "900x60", type="websocket")], []),
    "errors": ([UP, series("log_messages_total", "0+60x60", level="ERROR")], ["ErrorsLogged"]),
    "warnings": ([UP, series("log_messages_total", "0+60x60", level="WARNING")], []),
}  # fmt: skip


def ratio(value: float) -> list[dict[str, Any]]:
    """Return what the share of errors should be."""
    sample = {"labels": 'job:http_errors:ratio_rate5m{job="api"}', "value": value}
    return [{"expr": "job:http_errors:ratio_rate5m", "eval_time": "30m", "exp_samples": [sample]}]


# Where there are no errors at all, the share is nought and not nothing.
RATIOS = {"all fail": ratio(1), "slow": ratio(0)}
ALERTS = ["ServiceDown", "RequestsFail", "RequestsSlow", "RequestsPileUp", "ErrorsLogged"]
LABELS = {"ServiceDown": {"job": "api"}, "RequestsSlow": {"job": "api", "route": "/slow"}}
SAYS = {
    "down": "a does not answer.",
    "gone": "There is no replica.",
    "failing": "10% of the requests end with a 5xx.",
    "all fail": "100% of the requests end with a 5xx.",
    "slow": "One in a hundred requests to /slow takes 4.73s or longer.",
    "waiting": "120 requests are under way at a time.",
    "errors": "1 errors a second are logged.",
}


def expected(case: str, alert: str) -> list[dict[str, Any]]:
    """Return what should fire in a case."""
    if alert not in CASES[case][1]:
        return []
    severity = "critical" if alert in {"ServiceDown", "RequestsFail"} else "warning"
    labels = {"severity": severity, **LABELS.get(alert, {"job": "api"})} | ({"instance": "a"} if case == "down" else {})
    return [{"exp_labels": labels, "exp_annotations": {"summary": SAYS[case]}}]


def test_rules_do_what_they_say(tmp_path: Path) -> None:
    """In each case exactly the alerts that belong to it, with a sentence; and nothing is told too early."""
    tests = [
        {
            "name": case,
            "interval": "1m",
            "input_series": inputs,
            "alert_rule_test": [
                {"eval_time": time, "alertname": alert, "exp_alerts": expected(case, alert) if time == "30m" else []}
                for alert in ALERTS
                for time in ("1m", "30m")
            ],
            "promql_expr_test": RATIOS.get(case, []),
        }
        for case, (inputs, _) in CASES.items()
    ]
    assert {alert for _, fires in CASES.values() for alert in fires} == set(ALERTS)
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"rule_files": [str(DEPLOY / "alerts.yml")], "tests": tests}))  # JSON is YAML
    result = run([program("promtool", "prometheus"), "test", "rules", file], tmp_path)
    assert "SUCCESS" in must(result).stdout
