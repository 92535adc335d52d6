"""A million requests of mixed kinds through two workers: `python -m benchmarks.soak UV [--requests 1000000]`.

Each request must be answered once and leave one line, no ID may come twice, no line may be torn, no worker may die, and
neither memory nor descriptors may grow. What breaks one of these bounds is said in a sentence, with the exit code 1.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import about, as_text, require_program, versions
from benchmarks.report import publish
from benchmarks.soaking import faults, mixed, page
from benchmarks.soaking.kinds import Sent
from benchmarks.soaking.lines import Written, read_all
from benchmarks.soaking.odd import OddClient
from benchmarks.soaking.watch import INTERVAL, LineCounter, Sample, Watched, look, settled, trend
from scripts.generate import generate, install
from tests.support.service import Service

WORKERS = 2
LIMIT = 20 * 60
"""Seconds that all requests may take; fewer for few of them."""
SLOWEST = 500
"""Requests a second, below which a run is ended."""
PACKAGES = ("fastapi", "gunicorn", "httptools", "starlette", "uvicorn", "uvloop")


def ask(service: Service, log: Path, folder: Path, requests: int) -> tuple[Watched, Sent]:
    """Let both clients ask the service, and watch its workers; raises SystemExit when one dies, or time is up."""
    workers, counter = sorted(service.workers()), LineCounter(log / "access.log")
    time.sleep(INTERVAL)  # the connection goes that has asked whether the service is ready
    before, began = look(workers, 0), time.monotonic()
    under_load: dict[int, list[Sample]] = {pid: [] for pid in workers}
    odd = OddClient(service.port)
    odd.start()
    with mixed.started(service.port, requests, folder, min(LIMIT, 60 + requests / SLOWEST)) as wrk:
        while wrk.poll() is None:
            time.sleep(INTERVAL)
            if sorted(service.workers()) != workers:
                raise SystemExit(f"A worker has died:\n{service.stderr.read_text()[-2000:]}")
            for pid, one in look(workers, counter.count()).items():
                under_load[pid].append(one)
        bulk = mixed.counted(wrk)
    odd.end()
    seconds = time.monotonic() - began
    after = settled(before, counter.count())
    sent = Sent(bulk.kinds + odd.sent.kinds, bulk.statuses + odd.sent.statuses, bulk.nameless)
    return Watched(before, under_load, after, service.workers(), seconds), sent


def run(project: Path, folder: Path, requests: int) -> tuple[Watched, Sent, Written]:
    """Serve, ask, stop, and read what was written."""
    log = folder / "log"
    with Service(project, folder / "work", app="app.main:app", workers=WORKERS, log_path=log) as service:
        watched, sent = ask(service, log, folder, requests)
        service.stop()
    return watched, sent, read_all(log)


def main(arguments: Sequence[str]) -> int:
    """Run it, print what was found, and write it to `benchmarks/results`; 1 when a bound is broken."""
    parser = ArgumentParser(prog="python -m benchmarks.soak", description="Many requests of mixed kinds.")
    parser.add_argument("uv", type=Path)
    parser.add_argument("--requests", type=int, default=1_000_000, help="those of wrk; the odd ones come on top")
    given = parser.parse_args(arguments)
    require_program("wrk", "wrk")
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build")
        install(project, given.uv)
        watched, sent, written = run(project, Path(name), given.requests)
        by = versions(project, PACKAGES)
    trends = {pid: trend(samples) for pid, samples in watched.under_load.items()}
    broken = faults.of_answers(sent) + faults.of_lines(sent, written) + faults.of_workers(watched, trends)
    remark = f"{as_text(by)}; {about(by['python'])}"
    publish("soak", page.words(sent, watched, trends, broken), page.HEAD, page.rows(sent, written), remark)
    print("\n".join(broken), file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
