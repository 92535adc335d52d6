"""Compares the service with other packages and with bare FastAPI: `python -m benchmarks.side_by_side UV`.

gunicorn serves each subject with one worker. All workers are pinned to one processor, and wrk to another. All subjects
run at the same time, but only one is loaded at a time, in a new random order for each round, so that disturbances
affect all of them. A ratio is the median of the ratios within each round.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.bounds import check_lines
from benchmarks.comparison import render_chart, render_page
from benchmarks.environments import (
    LOCK,
    SERVER_PACKAGES,
    Environment,
    Environments,
    installed_versions,
    third_party_modules,
)
from benchmarks.footprint import TIMES, measure_footprints, write_cost
from benchmarks.load import Cores, Figures, measure, report_command_errors, two_cores
from benchmarks.measured import Measurements
from benchmarks.process import RunningSubject
from benchmarks.report import RESULTS
from benchmarks.subject import OURS, SAME, SUBJECTS, Subject

SEED = 8


def all_rounds(served: Mapping[str, RunningSubject], rounds: int, core: int) -> dict[str, list[Figures]]:
    """Load all subjects in turn, for one warm-up round and then `rounds` measured rounds."""
    found: dict[str, list[Figures]] = {name: [] for name in served}
    draw = Random(SEED)
    for number in range(rounds + 1):
        for name in draw.sample(sorted(served), len(served)):
            figures = measure(served[name], core)
            served[name].truncate_logs()
            if number:
                found[name].append(figures)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return found


def prepare(names: list[str], folder: Path, uv: Path) -> dict[str, tuple[Subject, Environment]]:
    """Create the environments of the subjects."""
    environments = Environments(folder, uv)
    found = {}
    for name in names:
        subject, environment = SUBJECTS[name], environments.get(SUBJECTS[name])
        if name == SAME:
            modules = third_party_modules(SUBJECTS[OURS], environment, folder)
            subject = subject._replace(variables={"SAME_IMPORTS": modules})
        found[name] = (subject, environment)
        print(f"ready: {subject.title}", file=sys.stderr)
    return found


def run(names: list[str], rounds: int, uv: Path, cores: Cores, stack: ExitStack) -> tuple[Measurements, list[str]]:
    """Measure, and return the figures and the lines with the package versions."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    subjects = prepare(names, folder, uv)
    footprints = measure_footprints(subjects, folder / "alone", cores)
    served = {
        name: stack.enter_context(RunningSubject(*what, folder / f"served-{name}", cores.server))
        for name, what in subjects.items()
    }
    found = all_rounds(served, rounds, cores.load)
    write = statistics.median(write_cost(folder) for _ in range(TIMES))
    return Measurements(found, footprints, write), version_lines(subjects)


def version_lines(subjects: Mapping[str, tuple[Subject, Environment]]) -> list[str]:
    """Return the versions of the packages that all subjects use, and of those that only some use."""
    subject, environment = next(iter(subjects.values()))
    common = installed_versions(environment, SERVER_PACKAGES)
    lines = ["- All applications: " + ", ".join(f"{name} {version}" for name, version in common.items()) + "."]
    added: dict[str, str] = {}
    for subject, environment in subjects.values():
        names = [package.partition("==")[0] for package in subject.packages]
        added |= installed_versions(environment, [*names, *required_by(subject.service or ())])
    return [*lines, "- Some applications: " + ", ".join(f"{name} {version}" for name, version in added.items()) + "."]


def required_by(options: Iterable[str]) -> list[str]:
    """Return the names of the packages that options of the service require."""
    features = json.loads((LOCK.parent / "features.json").read_text("utf-8"))
    return [name for option in options for name in features[option]["requirements"]]


def publish(measured: Measurements, rounds: int, versions: list[str]) -> None:
    """Print the results page and the check of the bounds.

    If all subjects were measured, write the page and the chart to `benchmarks/results`.
    """
    text = render_page(measured, rounds, versions)
    if measured.rounds.keys() == SUBJECTS.keys():
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "side_by_side.md").write_text(text, encoding="utf-8")
        (RESULTS / "side_by_side.svg").write_text(render_chart(measured), encoding="utf-8")
    print(text)
    print("\n".join(check_lines(measured)), file=sys.stderr)


def main(arguments: list[str]) -> int:
    """Measure the subjects that the command line names, and publish the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uv", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SUBJECTS), metavar="A,B")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.only if name not in SUBJECTS]:
        parser.error(f"unknown subject: {', '.join(unknown)} (choose from {', '.join(SUBJECTS)})")
    cores = two_cores()
    with ExitStack() as stack, report_command_errors():
        measured, versions = run(given.only, given.rounds, given.uv, cores, stack)
        publish(measured, given.rounds, versions)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
