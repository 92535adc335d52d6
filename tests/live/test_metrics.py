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
from typing import Any, NamedTuple
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.support.baking import TEMPLATE_DIR, must, run
from tests.support.client import build_request, new_id
from tests.support.ports import free_port
from tests.support.programs import program
from tests.support.service import Service
from tests.support.waiting import wait_for

DEPLOY = TEMPLATE_DIR / "deploy/prometheus"
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)(?: # \{(.*)\} (\S+) (\S+))?")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
OPENMETRICS = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")]


class Sample(NamedTuple):
    """A line of a scrape."""

    name: str
    labels: dict[str, str]
    value: float
    exemplar: dict[str, str]


def samples(service: Service, headers: list[tuple[str, str]] | None = None) -> list[Sample]:
    """Scrape once; no line is anything else."""
    answer = service.request("GET", "/metrics", headers or [])
    assert answer.status == 200, answer
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    found = [SAMPLE.fullmatch(line) for line in lines]
    assert all(found)
    return [
        Sample(match[1], dict(LABEL.findall(match[2] or "")), float(match[3]), dict(LABEL.findall(match[4] or "")))
        for match in found
        if match
    ]


def total(service: Service, name: str = "http_requests_total", **labels: str) -> float:
    """Give the sum of what has these labels."""
    return sum(one.value for one in samples(service) if one.name == name and labels.items() <= one.labels.items())


def served(service: Service) -> float:
    """Give how many requests for the endpoint of these tests were counted."""
    return total(service, route="/probe/async")


def files(service: Service) -> list[str]:
    """Give the files in which the workers count."""
    return sorted(path.name for path in folder_of(service).glob("*.db"))


def folder_of(service: Service) -> Path:
    """Give the folder that a worker has open."""

    def look() -> set[Path]:
        maps = Path(f"/proc/{service.workers()[0]}/maps").read_text()
        return {Path(path).parent for path in re.findall(r"\S+/counter_\S+\.db", maps)}

    (folder,) = wait_for(look, "a worker that counts")
    return folder


@pytest.fixture(scope="module")
def measured(connected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with this integration, and no other."""
    project = tmp_path_factory.mktemp("metrics") / "project"
    shutil.copytree(connected, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for other in (project / "app/integrations").iterdir():
        if other.is_dir() and other.name != "metrics":
            shutil.rmtree(other)
    return project


@pytest.fixture
def start(measured: Path, tmp_path: Path) -> Callable[..., Service]:
    """Give a function that makes a service with two workers."""
    return lambda **options: Service(measured, tmp_path / "service", **options)


def send(service: Service, count: int, target: str = "/probe/async") -> None:
    """Send requests, eight at a time, each on a connection of its own, so that both workers get some."""
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: service.request("GET", target).status, range(count))
        assert set(answers) == {200}


def counts_of(service: Service) -> dict[tuple[str, str, str], float]:
    """Give how many requests there were by method, route and status, health aside."""
    return {
        (one.labels["method"], one.labels["route"], one.labels["status"]): one.value
        for one in samples(service)
        if one.name == "http_requests_total" and one.labels["route"] != "/livez"
    }


def test_as_many_as_were_sent(start: Callable[..., Service]) -> None:
    """By method, route and status; every worker tells the same, and the access lines as well."""
    kinds = [
        ("GET", "/probe/async", "/probe/async", 200),
        ("GET", "/probe/sync", "/probe/sync", 200),
        ("GET", "/probe/items/{n}", "/probe/items/{number}", 200),
        ("GET", "/probe/items/no-{n}", "/probe/items/{number}", 422),
        ("POST", "/probe/items/1", "/probe/items/{number}", 405),
        ("HEAD", "/probe/head", "/probe/head", 200),
        ("GET", "/probe/fail", "/probe/fail", 500),
        ("GET", "/nowhere/{n}", "_UNMATCHED", 404),
        ("GET", "/probe/nested/api/demo?n={n}", "/probe/nested/api/demo", 200),
    ]
    sent = [kinds[number % len(kinds)] for number in range(900)]

    def ask(number: int) -> tuple[str, str, str]:
        method, target, route, status = sent[number]
        assert service.request(method, target.replace("{n}", str(number))).status == status
        return method, route, str(status)

    with start(env={"LOG_FORMAT": "json"}) as service:
        with ThreadPoolExecutor(8) as pool:
            expected = Counter(pool.map(ask, range(len(sent))))
        # A request counts when it is over, a moment after its client has the answer.
        wait_for(lambda: counts_of(service) == expected, f"the counts {expected}")
        for _ in range(20):
            assert counts_of(service) == expected
        assert len(files(service)) == 3 * 2
        histogram = total(service, "http_request_duration_seconds_count") - total(service, route="/livez")
        assert histogram == len(sent)
        lines = [json.loads(line) for line in service.access_text().splitlines()]
        assert [line for line in lines if line["path"] == "/metrics"] == []
        by_lines = Counter((line["method"], str(line["status"])) for line in lines)
        assert by_lines == sum_over_routes(expected)
        assert total(service, "http_response_size_bytes_sum") - total(
            service, "http_response_size_bytes_sum", route="/livez"
        ) == sum(line["bytes"] for line in lines)
        assert total(service, "http_requests_in_flight") == 0


def sum_over_routes(counts: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str]]:
    """Leave the route out."""
    summed: Counter[tuple[str, str]] = Counter()
    for (method, _, status), count in counts.items():
        summed[method, status] += count
    return summed


def test_refused_at_the_door(start: Callable[..., Service]) -> None:
    """What the server itself finds fault with is counted, under no route and under no invented method."""
    with start() as service:
        for data, status in (
            (build_request("GET", "/x" * 5000), 414),
            (build_request("GET", "/", [("X-Big", "x" * 40000)]), 431),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n", 400),
        ):
            assert service.raw(data).status == status
            wait_for(lambda: total(service, route="_UNMATCHED", status=str(status)) == 1, "TODO-WHAT")  # noqa: B023


def test_cancelled(start: Callable[..., Service]) -> None:
    """A request that a reload cuts off is counted as what it was answered with, and is no more in flight."""
    with start(env={"GRACEFUL_TIMEOUT": "3"}) as service, service.connect(30) as connection:
        connection.send(build_request("GET", "/probe/wait?seconds=60"))
        wait_for(lambda: total(service, "http_requests_in_flight", type="http") == 1, "TODO-WHAT")
        service.signal(SIGHUP)
        assert connection.answer().status == 503
        wait_for(lambda: total(service, route="/probe/wait", status="503") == 1, "TODO-WHAT")
        assert total(service, "http_requests_in_flight") == 0


def test_killed_worker(start: Callable[..., Service]) -> None:
    """What it has counted stays, what it had in flight goes, and its files are those of the next one."""
    with start() as service:
        send(service, 400)
        with service.connect() as connection:
            connection.send(build_request("GET", "/probe/wait?seconds=60"))
            wait_for(lambda: total(service, "http_requests_in_flight") == 1, "TODO-WHAT")
            before = service.workers()
            for victim in before:
                os.kill(victim, SIGKILL)
            wait_for(lambda: len(set(service.workers()) - set(before)) == 2, "TODO-WHAT")
            wait_for(lambda: answers(service), "TODO-WHAT")
        assert served(service) == 400
        assert total(service, "http_requests_in_flight") == 0
        send(service, 300)
        assert served(service) == 700
        assert len(files(service)) == 3 * 2


def answers(service: Service) -> bool:
    """Tell whether somebody serves."""
    with suppress(OSError, EOFError):
        return service.request("GET", "/livez").status == 200
    return False


@contextmanager
def load(service: Service) -> Iterator[Counter[int]]:
    """Send requests as long as it lasts; give what was answered, complete at the end."""
    answered: Counter[int] = Counter()
    goes_on = True

    def ask() -> Counter[int]:
        own: Counter[int] = Counter()
        while goes_on:
            own[service.request("GET", "/probe/async").status] += 1
        return own

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            yield answered
        finally:
            goes_on = False
        for one in asking:
            answered.update(one.result())


def test_reload(start: Callable[..., Service]) -> None:
    """Under load, four times, with another worker for a while: no request is lost or counted twice; files stay few."""
    with start() as service:
        with load(service) as answered:
            for number in (SIGHUP, SIGTTIN, SIGTTOU, SIGHUP, SIGTTIN, SIGHUP, SIGHUP):
                before = service.workers()
                service.signal(number)
                count = 3 if number == SIGTTIN else 2
                wait_for(lambda: settled(service, before, count, renewed=number == SIGHUP), "TODO-WHAT")  # noqa: B023
        assert set(answered) == {200}
        assert served(service) == answered[200]
        assert len(files(service)) <= 3 * 2 * 3


def settled(service: Service, before: list[int], count: int, *, renewed: bool) -> bool:
    """Tell whether the workers are those that a signal asks for, and serve."""
    now = service.workers()
    return len(now) == count and (not renewed or not set(before) & set(now)) and answers(service)


def test_recycled_workers(start: Callable[..., Service]) -> None:
    """Workers that are replaced all the time count on where others ended."""
    with start(env={"MAX_REQUESTS": "60"}) as service:
        first = set(service.workers())
        send(service, 1500)
        wait_for(lambda: len(service.workers()) == 2 and answers(service), "TODO-WHAT")
        assert served(service) == 1500
        assert not first & set(service.workers())
        assert service.app_text().count("Booting worker") >= 6
        assert len(files(service)) <= 3 * 4


def test_an_option_that_comes_while_the_service_runs(measured: Path, tmp_path: Path) -> None:
    """A reload begins to count, where the first workers knew nothing of it; none of them, and no request, is lost."""
    project = tmp_path / "project"
    shutil.copytree(measured, project, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.move(project / "app/integrations/metrics", tmp_path / "metrics")
    with Service(project, tmp_path / "service") as service:
        assert service.request("GET", "/metrics").status == 404
        with load(service) as answered:
            shutil.move(tmp_path / "metrics", project / "app/integrations/metrics")
            for _ in range(2):
                before = service.workers()
                service.signal(SIGHUP)
                wait_for(lambda: settled(service, before, 2, renewed=True), "TODO-WHAT")  # noqa: B023
            assert {service.request("GET", "/metrics").status for _ in range(20)} == {200}
        assert set(answered) == {200}
        counted = served(service)
        send(service, 100)
        assert served(service) == counted + 100
        assert "Traceback" not in service.app_text()
        assert service.stop() == 0


@pytest.mark.parametrize("stays", ["new", "old"])
def test_upgrade_in_place(start: Callable[..., Service], tmp_path: Path, stays: str) -> None:
    """Two first processes count together (USR2), and whichever stays goes on, and tidies up at the end."""
    with start(env={"PID_FILE": str(tmp_path / "pid")}) as service:
        folder = folder_of(service)
        send(service, 200)
        service.signal(SIGUSR2)
        successor = int(
            wait_for(lambda: (tmp_path / "pid.2").read_text() if (tmp_path / "pid.2").exists() else "", "TODO-WHAT")
        )
        wait_for(lambda: len(list(folder.glob("counter_*.db"))) == 4, "TODO-WHAT")
        send(service, 400)
        assert {served(service) for _ in range(20)} == {600}
        ends, goes_on = (service.process.pid, successor) if stays == "new" else (successor, service.process.pid)
        os.kill(ends, SIGQUIT)
        wait_for(lambda: not is_running(ends), "TODO-WHAT")
        send(service, 100)
        assert {served(service) for _ in range(20)} == {700}
        os.kill(goes_on, SIGTERM)
        wait_for(lambda: not is_running(goes_on), "TODO-WHAT")
        assert not folder.exists()


def is_running(pid: int) -> bool:
    """Tell whether a process runs; one that has only to be collected does not."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def test_a_start_begins_with_nothing(start: Callable[..., Service]) -> None:
    """What another start has left behind does not count, even when that was killed."""
    with start() as service:
        send(service, 50)
        folder = folder_of(service)
    try:
        assert folder.exists()
        with start(env={"PROMETHEUS_MULTIPROC_DIR": str(folder)}) as service:
            assert served(service) == 0
            send(service, 10)
            assert served(service) == 10
            assert folder_of(service) != folder
            assert folder_of(service).stat().st_mode & 0o777 == 0o700
            assert service.stop() == 0
    finally:
        shutil.rmtree(folder)


def test_log_records(start: Callable[..., Service]) -> None:
    """As many of each level as the workers have written lines; access lines are none."""
    with start(env={"LOG_FORMAT": "json"}) as service:
        send(service, 200)
        for _ in range(30):
            service.request("GET", "/probe/fail")
        send(service, 100, "/probe/sync")

        def written() -> Counter[str]:
            lines = [json.loads(line) for line in service.app_text().splitlines() if line.startswith("{")]
            return Counter(line["level"] for line in lines if line["request_id"] != "-")

        assert written()["INFO"] == 300
        assert written()["ERROR"] == 30
        wait_for(lambda: total(service, "log_messages_total", level="ERROR") == 30, "TODO-WHAT")
        before_requests = total(service, "log_messages_total", level="INFO") - 300
        assert 0 <= before_requests < 30
        send(service, 100)
        wait_for(lambda: total(service, "log_messages_total", level="INFO") == before_requests + 400, "TODO-WHAT")


def exemplar_of(service: Service, request_id: str) -> Sample | None:
    """Look for a request in one scrape."""
    found = [one for one in samples(service, OPENMETRICS) if one.exemplar.get("request_id") == request_id]
    return found[0] if found else None


@pytest.mark.parametrize(("server", "workers"), [("gunicorn", 2), ("uvicorn", 1)])
def test_a_request_is_found_by_its_id(start: Callable[..., Service], server: str, workers: int) -> None:
    """In the bucket of its duration; of two workers, the one that has served it tells."""
    with start(server=server, workers=workers, env={"LOG_FORMAT": "json"}) as service:
        request_id = new_id("exemplar")
        service.request("GET", "/probe/wait?seconds=0.3", request_id=request_id)
        found = wait_for(lambda: exemplar_of(service, request_id), "TODO-WHAT")
        assert found
        assert (found.name, found.labels["route"]) == ("http_request_duration_seconds_bucket", "/probe/wait")
        assert found.labels["le"] == "0.5"
        assert 0.3 <= service.access_line(request_id).duration <= 0.5
        assert served(service) == 0
        send(service, 100)
        assert served(service) == 100


# Prometheus itself


@contextmanager
def prometheus(service: Service, folder: Path) -> Iterator[Callable[[str], Any]]:
    """Run Prometheus with the configuration that comes along, but for the address; give a function that asks it."""
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
    """Give the queries of the dashboard, with what Grafana puts in."""
    board = json.loads((DEPLOY / "dashboard.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [query.replace("$__rate_interval", "20s").replace("$job", "api") for query in queries]


def test_prometheus_reads_it(start: Callable[..., Service], tmp_path: Path) -> None:
    """It has as many requests as were sent; each query of the dashboard has an answer; the ID of a request is there."""
    with start() as service, prometheus(service, tmp_path / "prometheus") as ask:
        assert of_dashboard()
        wait_for(lambda: ask("query?query=up")["result"], "a scrape")
        request_id = new_id("exemplar")
        service.request("GET", "/probe/wait?seconds=0.3", request_id=request_id)
        send(service, 250)
        service.request("GET", "/probe/fail")

        def value(query: str) -> float:
            found = ask(f"query?query={quote(query)}")["result"]
            return float(found[0]["value"][1]) if found else -1

        wait_for(lambda: value('http_requests_total{route="/probe/async",status="200"}') == 250, "TODO-WHAT")
        assert value("up") == 1
        recorded = re.findall(r"record: (\S+)", (DEPLOY / "alerts.yml").read_text("utf-8"))
        with load(service):
            for query in [*of_dashboard(), *recorded]:
                wait_for(lambda: value(query) >= 0, query)  # noqa: B023

        def ids() -> set[str]:
            found = ask("query_exemplars?query=http_request_duration_seconds_bucket&start=0&end=9999999999")
            return {one["labels"]["request_id"] for series in found for one in series["exemplars"]}

        wait_for(lambda: request_id in ids(), "the ID of a request")


# The rules


def test_files_are_valid() -> None:
    """promtool finds no fault with configuration and rules."""
    promtool = program("promtool", "prometheus")
    said = must(run([promtool, "check", "config", DEPLOY / "prometheus.yml"], DEPLOY)).stdout
    assert "SUCCESS: 1 rule files found" in said
    assert "10 rules found" in must(run([promtool, "check", "rules", DEPLOY / "alerts.yml"], DEPLOY)).stdout


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Give a series of a test of rules: one value a minute."""
    pairs = ", ".join(f'{key}="{value}"' for key, value in {"job": "api", **labels}.items())
    return {"series": f"{name}{{{pairs}}}", "values": values}


def requests(status: str, values: str, route: str = "/orders") -> dict[str, str]:
    """Give the requests of a route with a status."""
    return series("http_requests_total", values, instance="a", method="GET", route=route, status=status)


def durations(route: str, fast: str, slow: str) -> list[dict[str, str]]:
    """Give requests of which so many took less than 0.5 seconds, and all less than 5."""
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
    """Give what the share of errors shall be."""
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
    """Give what shall fire in a case."""
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
