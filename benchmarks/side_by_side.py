"""The service beside its peers and beside a bare application: `python -m benchmarks.side_by_side UV`.

Every subject is served by gunicorn with one worker on a processor of its own, and wrk asks from another. All run at the
same time and one is loaded at a time, in rounds whose order is drawn anew, so that what disturbs one disturbs the
others. A ratio is the median of the ratios within each round.
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

from benchmarks.comparison import page, picture
from benchmarks.environments import LOCK, SERVED_BY, Environment, Environments, installed_versions, third_party_modules
from benchmarks.footprint import TIMES, all_footprints, write_cost
from benchmarks.load import Cores, Figures, measure, told_errors, two_cores
from benchmarks.measured import Measured
from benchmarks.process import Served
from benchmarks.report import RESULTS
from benchmarks.subject import OURS, SAME, SUBJECTS, Subject

SEED = 8


def all_rounds(served: Mapping[str, Served], rounds: int, core: int) -> dict[str, list[Figures]]:
    """Load all subjects in turns, `rounds` times after a round that warms up."""
    found: dict[str, list[Figures]] = {name: [] for name in served}
    draw = Random(SEED)
    for number in range(rounds + 1):
        for name in draw.sample(sorted(served), len(served)):
            figures = measure(served[name], core)
            served[name].forget_lines()
            if number:
                found[name].append(figures)
        print(f"round {number} of {rounds}", file=sys.stderr)
    return found


def prepared(names: list[str], folder: Path, uv: Path) -> dict[str, tuple[Subject, Environment]]:
    """Make the environments of the subjects."""
    environments = Environments(folder, uv)
    found = {}
    for name in names:
        subject, environment = SUBJECTS[name], environments.of(SUBJECTS[name])
        if name == SAME:
            modules = third_party_modules(SUBJECTS[OURS], environment, folder)
            subject = subject._replace(variables={"SAME_IMPORTS": modules})
        found[name] = (subject, environment)
        print(f"ready: {subject.title}", file=sys.stderr)
    return found


def run(names: list[str], rounds: int, uv: Path, cores: Cores, stack: ExitStack) -> tuple[Measured, list[str]]:
    """Measure, and give the figures and the lines that tell the versions."""
    folder = Path(stack.enter_context(TemporaryDirectory()))
    subjects = prepared(names, folder, uv)
    footprints = all_footprints(subjects, folder / "alone", cores)
    served = {
        name: stack.enter_context(Served(*what, folder / f"served-{name}", cores.server))
        for name, what in subjects.items()
    }
    found = all_rounds(served, rounds, cores.load)
    write = statistics.median(write_cost(folder) for _ in range(TIMES))
    return Measured(found, footprints, write), version_lines(subjects)


def version_lines(subjects: Mapping[str, tuple[Subject, Environment]]) -> list[str]:
    """Tell the versions of what serves, and of what single subjects add."""
    subject, environment = next(iter(subjects.values()))
    common = installed_versions(environment, SERVED_BY)
    lines = ["All: " + ", ".join(f"{name} {version}" for name, version in common.items()) + "."]
    added: dict[str, str] = {}
    for subject, environment in subjects.values():
        names = [package.partition("==")[0] for package in subject.packages]
        added |= installed_versions(environment, [*names, *required_by(subject.service or ())])
    return [*lines, "Some: " + ", ".join(f"{name} {version}" for name, version in added.items()) + "."]


def required_by(options: Iterable[str]) -> list[str]:
    """Give the names of the packages that options of the service bring."""
    features = json.loads((LOCK.parent / "features.json").read_text("utf-8"))
    return [name for option in options for name in features[option]["requirements"]]


def publish(measured: Measured, rounds: int, versions: list[str]) -> None:
    """Print the page; where everything was measured, write it and the chart to `benchmarks/results`."""
    text = page(measured, rounds, versions)
    if measured.rounds.keys() == SUBJECTS.keys():
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "side_by_side.md").write_text(text, encoding="utf-8")
        (RESULTS / "side_by_side.svg").write_text(picture(measured), encoding="utf-8")
    print(text)


def main(arguments: list[str]) -> int:
    """Measure what the command line names, and publish it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uv", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SUBJECTS), metavar="A,B")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.only if name not in SUBJECTS]:
        parser.error(f"there is no subject {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    cores = two_cores()
    with ExitStack() as stack, told_errors():
        measured, versions = run(given.only, given.rounds, given.uv, cores, stack)
        publish(measured, given.rounds, versions)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
