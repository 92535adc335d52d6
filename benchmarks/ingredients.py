"""CPU time of each step of a request in the service's own code: `python -m benchmarks.ingredients UV`.

Each round runs `hot_loops.py` in two new processes, one with text and one with JSON log lines. A figure is the CPU time
of one call in µs: the median of all rounds, with the quartiles. In a loop the code stays in the processor's caches; in
a server the same call takes a few times as long.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import describe_machine, format_versions, versions
from benchmarks.report import publish
from scripts.generate import generate, install
from scripts.snapshot import ROOT

ROUNDS = 9
COUNT = 5000
HOT_LOOPS = ROOT / "benchmarks" / "hot_loops.py"
PACKAGES = ("fastapi", "pydantic", "starlette", "starlette-context")


def measure(project: Path, log: Path, log_format: str) -> dict[str, float]:
    """Return the µs of each step, measured in a new process with a new log folder."""
    logging = {"LOG_PATH": str(log), "LOG_FORMAT": log_format, "ACCESS_LOG_EXCLUDE": "/none"}
    done = subprocess.run(
        [str(project / ".venv/bin/python"), str(HOT_LOOPS), str(COUNT)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), **logging},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # receives the log lines of the stream handlers
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def all_rounds(project: Path, folder: Path) -> dict[str, list[float]]:
    """Return the figures of all rounds; a step that does not depend on the log format has two figures per round."""
    found: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        for log_format in sorted(("text", "json"), reverse=bool(number % 2)):
            for name, figure in measure(project, folder / f"{number}-{log_format}", log_format).items():
                found.setdefault(name, []).append(figure)
    return found


def rows(found: Mapping[str, list[float]]) -> list[str]:
    """Return the table rows, grouped by the part of the name before the colon."""
    groups = list(dict.fromkeys(name.partition(":")[0] for name in found))
    lines = []
    for name in sorted(found, key=lambda name: groups.index(name.partition(":")[0])):
        low, median, high = statistics.quantiles(found[name], n=4)
        lines.append(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} |")
    return lines


def minimum_cost(found: Mapping[str, list[float]]) -> str:
    """Return a sentence that compares the service's access log line with the system call alone."""
    bare = statistics.median(found["write: the same bytes, by `os.write`"])
    total = statistics.median(found["access log: format and write a line, text"])
    return (
        f"The system call that writes an access log line takes {bare:.2f} µs. Formatting and writing the line takes "
        f"{total:.2f} µs, {total / bare:.1f} times as long (text)."
    )


def main(uv: Path) -> int:
    """Generate a service, measure it, print the results page and write it to `benchmarks/results`."""
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build")
        install(project, uv)
        by = versions(project, PACKAGES)
        found = all_rounds(project, Path(name) / "log")
    intro = [
        "# CPU time of each step of a request",
        "",
        f"CPU time per call in µs, in a loop of {COUNT}: medians of {ROUNDS} rounds, with the quartiles.",
        "The log files are on disk. Each figure includes the cost of an empty call. The service writes access log",
        "lines through `logging` only if other handlers, filters or tools need the log record.",
        "",
        minimum_cost(found),
    ]
    remark = f"{format_versions(by)}; {describe_machine(by['python'])}"
    publish("ingredients", intro, "| step | µs | quartiles |", rows(found), remark)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
