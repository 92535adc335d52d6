"""How long generation takes, and `make test` of a fresh project: `python -m benchmarks.template_times UV`.

Generation is cookiecutter in a fresh process, hooks included. The bar is a second on a machine that does nothing else,
so it is compared with the processors' time. `make test` runs in a fresh project, with what uv has in its cache; each
command of it is timed by a script that stands in for uv.
"""

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import fresh_tests, generating
from benchmarks.generating import Taken
from benchmarks.machine import about, require_program
from benchmarks.report import publish

BAR = 1.0
"""Seconds of processors that a generation may take."""


def rows(found: Mapping[str, list[Taken]]) -> list[str]:
    """Give the rows of the table."""
    lines = []
    for name, figures in found.items():
        walls, cpus = [one.wall for one in figures], [one.cpu for one in figures if one.cpu is not None]
        cpu = f"{statistics.median(cpus):.2f}" if cpus else "-"
        lines.append(f"| {name} | {statistics.median(walls):.2f} | {min(walls):.2f} to {max(walls):.2f} | {cpu} |")
    return lines


def processor_time(found: Mapping[str, list[Taken]], name: str) -> float:
    """Give the median of the seconds that processors took."""
    return statistics.median(one.cpu or one.wall for one in found[name])


def too_slow(found: Mapping[str, list[Taken]]) -> list[str]:
    """Give the generations above the bar; by processors' seconds, which other programs do not make longer."""
    return [name for name in found if name.startswith("generation") and processor_time(found, name) >= BAR]


def verdict(found: Mapping[str, list[Taken]]) -> str:
    """Say whether the bar holds, and where the time goes."""
    start = processor_time(found, "part: Python started")
    imported = processor_time(found, "part: Python started, cookiecutter imported")
    without_hooks = processor_time(found, "part: defaults, without hooks")
    hooks = processor_time(found, "generation, defaults") - without_hooks
    return (
        f"{'Not every' if too_slow(found) else 'Each'} generation takes less than {BAR:.0f} s of processors. With "
        f"defaults, Python's start takes {start:.2f} s, cookiecutter's import {imported - start:.2f} s, its copying "
        f"{without_hooks - imported:.2f} s, and both hooks, each in a Python of its own, {hooks:.2f} s."
    )


def main(uv: Path) -> int:
    """Measure, print the table, and write it to `benchmarks/results`; 1 when a generation takes longer than it may."""
    require_program("make", "make")
    require_program("git", "git")
    with TemporaryDirectory() as name:
        bench = generating.Bench(Path(name))
        generated = generating.generation(bench)
        tested = fresh_tests.testing(bench, uv)
    words = [
        "# Time to generate, and to test",
        "",
        f"Seconds, and their span: generation in a fresh process, medians of {generating.ROUNDS} interleaved rounds;",
        f"`make test` in a fresh project, with uv's cache filled, medians of {fresh_tests.ROUNDS}.",
        "",
        verdict(generated),
    ]
    publish(
        "template_times",
        words,
        "| what | s | span | of processors |",
        rows(generated | tested),
        about(sys.version.split()[0]),
    )
    return 1 if too_slow(generated) else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
