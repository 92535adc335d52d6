"""Load from wrk, and the requirements on the machine."""

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
from benchmarks.process import PATH, RunningSubject

CONNECTIONS = 16
SECONDS = 2
UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7}


class Figures(NamedTuple):
    """The figures of one run: `rate` in requests per second, the others in microseconds."""

    rate: float
    cpu: float
    p50: float
    p99: float


class Cores(NamedTuple):
    """The numbers of two processors: one for the worker, one for the load generator."""

    server: int
    load: int


def two_cores() -> Cores:
    """Choose two processors, and pin this process to the one of the load generator.

    Raises SystemExit if the machine lacks a requirement.
    """
    if not Path("/proc/self/schedstat").exists():
        raise SystemExit("This benchmark reads CPU time from /proc/<pid>/schedstat, which exists only on Linux.")
    require_program("wrk", "wrk")
    require_program("taskset", "util-linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        raise SystemExit("This benchmark needs two processors, but this process may use only one.")
    os.sched_setaffinity(0, {cores[1]})
    return Cores(cores[0], cores[1])


def measure(
    served: RunningSubject,
    core: int,
    *,
    path: str = PATH,
    connections: int = CONNECTIONS,
    seconds: int = SECONDS,
    script: Path | None = None,
) -> Figures:
    """Load a subject for some seconds and return the figures; raise RuntimeError if a response is not 2xx.

    At the end, up to `connections` requests are unfinished: they cost CPU time but are not counted.
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
    """Return the figures of wrk's report and `used` microseconds of CPU time; raise RuntimeError for failures."""
    found = re.search(r"^\s*(\d+) requests in", report, re.MULTILINE)
    if found is None or int(found[1]) == 0 or "Non-2xx" in report or "Socket errors" in report:
        raise RuntimeError(f"Not every response was 2xx:\n{report}")
    rate = re.search(r"^Requests/sec:\s*([\d.]+)", report, re.MULTILINE)
    assert rate is not None, report
    return Figures(float(rate[1]), used / int(found[1]), _percentile(report, 50), _percentile(report, 99))


def _percentile(report: str, number: int) -> float:
    found = re.search(rf"^\s*{number}%\s+([\d.]+)(us|ms|s|m)\s*$", report, re.MULTILINE)
    assert found is not None, report
    return float(found[1]) * UNITS[found[2]]


@contextmanager
def report_command_errors() -> Iterator[None]:
    """Add the standard error of a failed command to its exception; on SIGTERM, exit so that servers are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        yield
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr if isinstance(error.stderr, str) else (error.stderr or b"").decode())
        raise
