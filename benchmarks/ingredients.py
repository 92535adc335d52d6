"""What each ingredient of a request costs in the service's own code: `python -m benchmarks.ingredients UV`.

`hot_loops.py` measures them one after the other in a process of its own, once with text lines and once with JSON, and
the processes take turns. A figure is the processor time of one, in µs: the median of all rounds, and the span between
the quartiles. In a loop the code is warm in the processor's caches; in a server the same takes a few times as long.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.machine import about, as_text, versions
from benchmarks.report import publish
from scripts.generate import generate, install
from scripts.snapshot import ROOT

ROUNDS = 9
COUNT = 5000
HOT_LOOPS = ROOT / "benchmarks" / "hot_loops.py"
PACKAGES = ("fastapi", "pydantic", "starlette", "starlette-context")


def measure(project: Path, log: Path, log_format: str) -> dict[str, float]:
    """Give the µs of each ingredient, measured in a fresh process with a fresh log folder."""
    lines = {"LOG_PATH": str(log), "LOG_FORMAT": log_format, "ACCESS_LOG_EXCLUDE": "/none"}
    done = subprocess.run(
        [str(project / ".venv/bin/python"), str(HOT_LOOPS), str(COUNT)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), **lines},
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # where the lines on the stream go
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def all_rounds(project: Path, folder: Path) -> dict[str, list[float]]:
    """Give the figures of all rounds; what both forms of lines have in common is measured twice in each."""
    found: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        for log_format in sorted(("text", "json"), reverse=bool(number % 2)):
            for name, figure in measure(project, folder / f"{number}-{log_format}", log_format).items():
                found.setdefault(name, []).append(figure)
    return found


def rows(found: Mapping[str, list[float]]) -> list[str]:
    """Give the rows of the table: what belongs together stands together."""
    groups = list(dict.fromkeys(name.partition(":")[0] for name in found))
    lines = []
    for name in sorted(found, key=lambda name: groups.index(name.partition(":")[0])):
        low, median, high = statistics.quantiles(found[name], n=4)
        lines.append(f"| {name} | {median:.2f} | {low:.2f} to {high:.2f} |")
    return lines


def floor(found: Mapping[str, list[float]]) -> str:
    """Say what a line costs at least, and how far above it the service's is."""
    bare = statistics.median(found["write: the same bytes, by `os.write`"])
    whole = statistics.median(found["access line: formatted and written, text"])
    return (
        f"The floor of an access line is the system call that writes it: {bare:.2f} µs. The service's takes "
        f"{whole:.2f} µs, {whole / bare:.1f} times as long."
    )


def main(uv: Path) -> int:
    """Generate a service, measure, print the table, and write it to `benchmarks/results`."""
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build")
        install(project, uv)
        by = versions(project, PACKAGES)
        found = all_rounds(project, Path(name) / "log")
    words = [
        "# Cost of each ingredient",
        "",
        f"Processor time of one in µs, in a loop of {COUNT}; medians of {ROUNDS} rounds, with the quartiles' span.",
        "Files are those of the service, on disk. Each figure contains a call of nothing.",
        "",
        floor(found),
    ]
    publish("ingredients", words, "| ingredient | µs | span |", rows(found), f"{as_text(by)}; {about(by['python'])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
