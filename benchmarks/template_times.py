"""Time to generate a project, and to run its `make test`: `python -m benchmarks.template_times UV`.

Generation is a run of cookiecutter in a new process, including the hooks. It may take one second on an idle machine;
the limit is compared with the CPU time, which other programs do not increase. `make test` runs in a new project with a
filled uv cache; a wrapper script in place of uv times each command.
"""

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import fresh_tests, generating
from benchmarks.generating import Duration
from benchmarks.machine import describe_machine, require_program
from benchmarks.report import publish

LIMIT = 1.0
"""Seconds of CPU time that a generation may take."""


def rows(found: Mapping[str, list[Duration]]) -> list[str]:
    """Return the table rows."""
    lines = []
    for name, figures in found.items():
        walls, cpus = [one.wall for one in figures], [one.cpu for one in figures if one.cpu is not None]
        cpu = f"{statistics.median(cpus):.2f}" if cpus else "-"
        lines.append(f"| {name} | {statistics.median(walls):.2f} | {min(walls):.2f} to {max(walls):.2f} | {cpu} |")
    return lines


def cpu_time(found: Mapping[str, list[Duration]], name: str) -> float:
    """Return the median CPU time in seconds."""
    return statistics.median(one.cpu or one.wall for one in found[name])


def too_slow(found: Mapping[str, list[Duration]]) -> list[str]:
    """Return a sentence for each generation whose CPU time reaches LIMIT."""
    names = [name for name in found if name.startswith("generation") and cpu_time(found, name) >= LIMIT]
    return [f"{name}: {cpu_time(found, name):.2f} s of CPU time; the limit is {LIMIT:.0f} s." for name in names]


def breakdown(found: Mapping[str, list[Duration]]) -> str:
    """Return a sentence on how much CPU time each part of a generation takes."""
    start = cpu_time(found, "part: start of Python")
    imported = cpu_time(found, "part: start of Python, import of cookiecutter")
    without_hooks = cpu_time(found, "part: default options, without hooks")
    hooks = cpu_time(found, "generation, default options") - without_hooks
    return (
        f"With the default options, the start of Python takes {start:.2f} s of CPU time, the import of cookiecutter "
        f"{imported - start:.2f} s, rendering and copying the files {without_hooks - imported:.2f} s, and both hooks, "
        f"each in a new Python process, {hooks:.2f} s."
    )


def main(uv: Path) -> int:
    """Measure, print the results page and write it to `benchmarks/results`; return 1 if a generation is too slow."""
    require_program("make", "make")
    require_program("git", "git")
    with TemporaryDirectory() as name:
        bench = generating.Bench(Path(name))
        generated = generating.time_generation(bench)
        tested = fresh_tests.time_make_test(bench, uv)
    intro = [
        "# Time to generate a project and to run its tests",
        "",
        f"Generation runs in a new process: medians of {generating.ROUNDS} interleaved rounds.",
        f"`make test` runs in a new project with a filled uv cache: medians of {fresh_tests.ROUNDS} runs.",
        "",
        breakdown(generated),
    ]
    publish(
        "template_times",
        intro,
        "| run | time, s | minimum and maximum | CPU time, s |",
        rows(generated | tested),
        describe_machine(sys.version.split()[0]),
    )
    slow = too_slow(generated)
    for sentence in slow:
        print(sentence, file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
