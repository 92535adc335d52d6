"""What it costs to send a message that carries the IDs, beside the bare library: `make bench`.

Each library sends to a real broker on loopback, once as its own documents show it and once as the service does, in
processes of their own that take turns. A figure is the processor time of the sending process for each message, in
microseconds: the median of all rounds, and the span between the quartiles.
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
# The sender only sends: it neither works on its messages nor writes lines about them.
QUIET = {"LOG_LEVEL": "WARNING", "FASTSTREAM_CONSUME": "false"}


class Subject(NamedTuple):
    """A library, the setting that names its broker, and the broker."""

    library: str
    setting: str
    broker: type[Broker]


SUBJECTS = (
    Subject("celery", "CELERY_BROKER_URL", Redis),
    Subject("saq", "SAQ_URL", Redis),
    Subject("faststream", "FASTSTREAM_URL", Nats),
)


def send(project: Path, library: str, way: str, variables: Mapping[str, str]) -> float:
    """Send MESSAGES in a process of its own, and give its processor time for each, in microseconds."""
    command = [str(project / ".venv/bin/python"), str(SENDER), library, way, str(MESSAGES)]
    environment = {**os.environ, **variables, "PYTHONPATH": str(project)}
    result = subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def measure(project: Path, subject: Subject) -> dict[str, list[float]]:
    """Give the figures of both ways, which take turns, so that what disturbs one disturbs the other."""
    found: dict[str, list[float]] = {"bare": [], "ours": []}
    with subject.broker() as broker:
        for number in range(ROUNDS + 1):
            for way in sorted(found, reverse=bool(number % 2)):
                figure = send(project, subject.library, way, {subject.setting: broker.url, **QUIET})
                if number:  # the first round warms up
                    found[way].append(figure)
    return found


def row(library: str, found: Mapping[str, list[float]]) -> str:
    """Give a row of the table."""
    bare, ours = (statistics.median(found[way]) for way in ("bare", "ours"))
    spans = {way: statistics.quantiles(found[way], n=4) for way in found}
    shown = [f"{statistics.median(found[way]):.0f} ({spans[way][0]:.0f} to {spans[way][2]:.0f})" for way in found]
    return f"| {library} | {' | '.join(shown)} | {ours - bare:+.1f} | {ours / bare:.3f} |"


def versions(project: Path) -> str:
    """Give the libraries' versions, and what they ran on."""
    code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in %r}))" % (OPTIONS,)  # noqa: UP031
    python = str(project / ".venv/bin/python")
    found = json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout)
    named = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"{named}; Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} processors"


def main(uv: Path) -> int:
    """Make a service with all three, measure, print the table, and write it to `benchmarks/results`."""
    with TemporaryDirectory() as name:
        project = generate(Path(name) / "build", **dict.fromkeys(OPTIONS, True))
        install(project, uv)
        rows = [row(subject.library, measure(project, subject)) for subject in SUBJECTS]
        about = [
            "# Cost of sending a message",
            "",
            f"Processor time of the sender for each of {MESSAGES} messages in µs; medians of {ROUNDS} rounds.",
            "Bare: as the library's own documents send. Ours: with origin and parent in the message, under a request.",
        ]
        publish("publishing", about, "| library | bare | ours | difference | ratio |", rows, versions(project))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
