"""Load by wrk, and what a machine must have to be measured on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import require_program
from benchmarks.process import PATH, Served

CONNECTIONS = 16
SECONDS = 2
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


class Figures(NamedTuple):
    """What one run has shown: requests per second, and microseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


class Cores(NamedTuple):
    """The two processors: one for the worker, one for whoever asks."""

    server: int
    load: int


def two_cores() -> Cores:
    """Take two processors, and bind this process to that of the load.

    Raises SystemExit with a sentence where the machine lacks something.
    """
    if not Path("/proc/self/schedstat").exists():
        raise SystemExit("Processor time is read from /proc/<pid>/schedstat, which only Linux has: run this there.")
    require_program("wrk", "wrk")
    require_program("taskset", "util-linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        raise SystemExit("Worker and load need a processor each, and this process has one: run it where it has two.")
    os.sched_setaffinity(0, {cores[1]})
    return Cores(cores[0], cores[1])


def measure(
    served: Served,
    core: int,
    *,
    path: str = PATH,
    connections: int = CONNECTIONS,
    seconds: int = SECONDS,
    script: Path | None = None,
) -> Figures:
    """Load a subject for some seconds, and give the figures; raise RuntimeError if an answer is not 2xx.

    At most `connections` requests are unfinished at the end: they cost processor time and are not counted.
    """
    extra = ["-s", str(script)] if script else []
    command = [
        "taskset",
        "-c",
        str(core),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        "30s",
        *extra,
    ]
    before = served.processor_time()
    result = subprocess.run(
        [*command, f"http://127.0.0.1:{served.port}{path}"], check=True, capture_output=True, text=True
    )
    used = served.processor_time() - before
    return read_report(result.stdout, used)


def read_report(report: str, used: float) -> Figures:
    """Give the figures of wrk's report for `used` microseconds of processor time; raise RuntimeError for failures."""
    found = re.search(r"^\s*(\d+) requests in", report, re.MULTILINE)
    if found is None or int(found[1]) == 0 or "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(f"Not every request was answered with 2xx:\n{report}")
    rate = re.search(r"^Requests/sec:\s*([\d.]+)", report, re.MULTILINE)
    assert rate is not None, report
    return Figures(float(rate[1]), used / int(found[1]), _percentile(report, 50), _percentile(report, 99))


def _percentile(report: str, number: int) -> float:
    found = re.search(rf"^\s*{number}%\s+([\d.]+)(us|ms|s|m)\s*$", report, re.MULTILINE)
    assert found is not None, report
    return float(found[1]) * UNITS[found[2]]


@contextmanager
def told_errors() -> Iterator[None]:
    """Show what a command said that has failed; leave no server behind when this process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        yield
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr if isinstance(error.stderr, str) else (error.stderr or b"").decode())
        raise
