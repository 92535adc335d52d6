"""CPU time to send a message that carries the IDs, compared with the library alone: `make bench`.

Each library sends to a real broker on the loopback interface: as its documentation shows (`bare`), and as the service
does (`ours`). Both run in separate processes that take turns. A figure is the CPU time of the sending process per
message in microseconds: the median of all rounds, with the quartiles.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.report import publish
from scripts.generate import generate, install
from scripts.snapshot import ROOT
from tests.support.brokers import Broker, Nats, Redis

ROUNDS = 9
MESSAGES = 2000
SENDER = ROOT / "benchmarks" / "sender.py"
OPTIONS = ("celery", "saq", "faststream")
# The sender neither consumes its messages nor logs them.
QUIET = {"LOG_LEVEL": "WARNING", "FASTSTREAM_CONSUME": "false"}


class Subject(NamedTuple):
    """A library, the setting for the URL of its broker, and the broker."""

    library: str
    setting: str
    broker: type[Broker]


SUBJECTS = (
    Subject("celery", "CELERY_BROKER_URL", Redis),
    Subject("saq", "SAQ_URL", Redis),
    Subject("faststream", "FASTSTREAM_URL", Nats),
)


def send(project: Path, library: str, variant: str, variables: Mapping[str, str]) -> float:
    """Send MESSAGES from a new process, and return its CPU time per message in microseconds."""
    command = [str(project / ".venv/bin/python"), str(SENDER), library, variant, str(MESSAGES)]
    environment = {**os.environ, **variables, "PYTHONPATH": str(project)}
    result = subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def measure(project: Path, subject: Subject) -> dict[str, list[float]]:
    """Return the figures of both variants; they take turns, so that disturbances affect both."""
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    with subject.broker() as broker:
        for number in range(ROUNDS + 1):
            for variant in sorted(found, reverse=bool(number % 2)):
                figure = send(project, subject.library, variant, {subject.setting: broker.url, **QUIET})
                if number:  # the first round warms up
                    found[variant].append(figure)
    return found


def row(library: str, found: Mapping[str, list[float]]) -> str:
    """Return the table row of a library."""
    bare, ours = (statistics.median(found[variant]) for variant in ("bare", "ours"))
    cells = []
    for figures in found.values():
        low, median, high = statistics.quantiles(figures, n=4)
        cells.append(f"{median:.0f} ({low:.0f} to {high:.0f})")
    return f"| {library} | {' | '.join(cells)} | {ours - bare:+.1f} | {ours / bare:.3f} |"


def versions(project: Path) -> str:
    """Return the versions of the libraries and of Python, and the machine, in one line."""
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))" % (OPTIONS,)  # noqa: UP031
    python = str(project / ".venv/bin/python")
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    named = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{named}; Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors"


def main(uv: Path) -> int:
    """Generate a service with all libraries, measure, print the results page and write it to `benchmarks/results`."""
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build", **dict.fromkeys(OPTIONS, True))
        install(project, uv)
        rows = [row(subject.library, measure(project, subject)) for subject in SUBJECTS]
        intro = [
            "# CPU time to send a message to a task queue or broker",
            "",
            f"CPU time of the sending process per message in µs: medians of {ROUNDS} rounds of {MESSAGES} messages",
            "each, with the quartiles.",
            "",
            "- **Library alone** sends as the library's documentation shows.",
            "- **This template** sends while it handles a request. The message carries the ID of the origin request",
            "  and a parent ID.",
        ]
        publish(
            "publishing",
            intro,
            "| library | library alone | this template | difference | ratio |",
            rows,
            versions(project),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
