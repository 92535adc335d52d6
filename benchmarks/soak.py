"""Sends a million requests of mixed kinds to two workers: `python -m benchmarks.soak UV [--requests 1000000]`.

Each request must get one response and one access log line. No ID may occur twice, no log line may be torn, no worker
may die, and neither memory nor file descriptors may grow. Each violation is reported in a sentence; with any violation
the exit code is 1.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import describe_machine, format_versions, require_program, versions
from benchmarks.report import publish
from benchmarks.soaking import faults, mixed, page
from benchmarks.soaking.kinds import SentCounts
from benchmarks.soaking.lines import LogContents, read_all
from benchmarks.soaking.odd import EdgeCaseClient
from benchmarks.soaking.watch import (
    INTERVAL,
    LineCounter,
    Sample,
    WorkerSamples,
    compute_trend,
    sample_workers,
    wait_until_idle,
)
from scripts.generate import generate, install
from tests.support.service import Service

WORKERS = 2
LIMIT = 20 * 60
"""Time limit in seconds for all requests; it is shorter for fewer requests."""
SLOWEST = 500
"""Requests per second; a slower run is aborted."""
PACKAGES = ("fastapi", "gunicorn", "httptools", "starlette", "uvicorn", "uvloop")


def send_requests(service: Service, log: Path, folder: Path, requests: int) -> tuple[WorkerSamples, SentCounts]:
    """Run both clients and sample the workers; raise SystemExit if a worker dies or the time limit is reached."""
    workers, counter = sorted(service.workers()), LineCounter(log / "access.log")
    time.sleep(INTERVAL)  # the connection of the readiness check closes meanwhile
    before, began = sample_workers(workers, 0), time.monotonic()
    under_load: dict[int, list[Sample]] = {pid: [] for pid in workers}
    edge_cases = EdgeCaseClient(service.port)
    edge_cases.start()
    with mixed.run_wrk(service.port, requests, folder, min(LIMIT, 60 + requests / SLOWEST)) as wrk:
        while wrk.poll() is None:
            time.sleep(INTERVAL)
            if sorted(service.workers()) != workers:
                raise SystemExit(f"A worker died:\n{service.stderr.read_text()[-2000:]}")
            for pid, one in sample_workers(workers, counter.count()).items():
                under_load[pid].append(one)
        bulk = mixed.read_counts(wrk)
    edge_cases.stop()
    seconds = time.monotonic() - began
    after = wait_until_idle(before, counter.count())
    sent = SentCounts(bulk.kinds + edge_cases.sent.kinds, bulk.statuses + edge_cases.sent.statuses, bulk.without_id)
    return WorkerSamples(before, under_load, after, service.workers(), seconds), sent


def run(project: Path, folder: Path, requests: int) -> tuple[WorkerSamples, SentCounts, LogContents]:
    """Run the service, send all requests, stop it and read its log files."""
    log = folder / "log"
    with Service(project, folder / "work", app="app.main:app", workers=WORKERS, log_path=log) as service:
        samples, sent = send_requests(service, log, folder, requests)
        service.stop()
    return samples, sent, read_all(log)


def main(arguments: Sequence[str]) -> int:
    """Run the soak test, print its page and write it to `benchmarks/results`; return 1 if a check fails."""
    parser = ArgumentParser(prog="python -m benchmarks.soak", description="Sends many requests of mixed kinds.")
    parser.add_argument("uv", type=Path)
    parser.add_argument(
        "--requests", type=int, default=1_000_000, help="number of requests from wrk; the edge cases are added"
    )
    given = parser.parse_args(arguments)
    require_program("wrk", "wrk")
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build")
        install(project, given.uv)
        samples, sent, logs = run(project, Path(name), given.requests)
        by = versions(project, PACKAGES)
    trends = {pid: compute_trend(found) for pid, found in samples.under_load.items()}
    found = faults.response_faults(sent) + faults.log_faults(sent, logs) + faults.worker_faults(samples, trends)
    remark = f"{format_versions(by)}; {describe_machine(by['python'])}"
    intro = page.intro(sent, samples, trends, found)
    publish("soak", intro, page.HEAD, page.rows(sent, logs), remark, command="make soak")
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
