"""The page and the chart of `side_by_side`."""

import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from benchmarks.bounds import bound_rows
from benchmarks.chart import Bar, bar_chart
from benchmarks.footprint import TIMES, Footprint
from benchmarks.load import CONNECTIONS, SECONDS
from benchmarks.machine import about
from benchmarks.measured import Measured
from benchmarks.subject import BASE, JSON, OURS, SAME, SHORTEST, SUBJECTS
from benchmarks.table import shown, span, table

METHOD = """\
gunicorn with one worker on a processor of its own; wrk with {connections} connections for {seconds} s from another;
medians of {rounds} interleaved rounds, and the span between the quartiles. CPU is that of all threads of the worker, by
`/proc/<pid>/task/*/schedstat`. CPU ratio: beside bare FastAPI; throughput ratio: its inverse, the requests per second
of a worker whose processor is full, whatever else runs on the machine; each the median of the rounds' ratios. Every
subject gives the same JSON, and each line goes to a file. Before anything is measured, a request has shown that answer
and line say what the row claims.
"""
SAME_IMPORTS = """\
The bare application with the same imports runs in the service's environment and imports every module of other people's
packages that the service imports, in the same order, then FastAPI with one route. An option that is off costs nothing:
none of its code is in the generated service.
"""
ALONE = f"""\
Medians of {TIMES}, in turns, while no other subject runs. Boot: from the start of gunicorn to the first answer. Import:
a fresh interpreter that imports the application. Memory: of the worker after a second of load. RSS counts the pages
that processes share as a whole, PSS in parts: it is lower where gunicorn's master holds much of the same, as the
service's does, which reads the settings.
"""


def cost_rows(measured: Measured) -> Iterator[str]:
    """Give the rows of the first table."""
    for name, figures in measured.rounds.items():
        cells = [shown(measured.cpu(name))]
        if BASE in measured.rounds:
            cells += [f"{measured.ratio(name, BASE):.2f}", f"{measured.ratio(BASE, name):.2f}"]
        else:
            cells += ["", ""]
        cells += [f"{statistics.median(one.rate for one in figures):.0f}"]
        cells += [f"{statistics.median(one[place] for one in figures) / 1000:.2f}" for place in (2, 3)]
        yield f"| {SUBJECTS[name].title} | {' | '.join(cells)} |"


def footprint_rows(footprints: Mapping[str, Footprint]) -> Iterator[str]:
    """Give the rows of the second table, in milliseconds and megabytes."""
    for name, found in footprints.items():
        times = (found.boot, found.import_wall, found.import_cpu)
        cells = [f"{seconds * 1000:.0f}" for seconds in times] + [f"{size / 1e6:.1f}" for size in found.memory]
        yield f"| {SUBJECTS[name].title} | {' | '.join(cells)} |"


def floor_lines(measured: Measured) -> list[str]:
    """Tell what nobody can go below, and how far the service is above it."""
    lines = [f"A bare `os.write` of 150 bytes to the same file system takes {measured.write:.1f} µs of CPU."]
    if all(name in measured.rounds for name in (BASE, SHORTEST, OURS)):
        base, least, own = (statistics.median(measured.cpu(name)) for name in (BASE, SHORTEST, OURS))
        lines += [
            f"The shortest ID and line cost {least - base:.0f} µs above FastAPI without a line.",
            f"Those of the service cost {own - base:.0f} µs: {own - least:.0f} µs for what the shortest leaves out.",
        ]
    return [*lines, ""]


def page(measured: Measured, rounds: int, versions: Sequence[str]) -> str:
    """Give the page."""
    cost = "| subject | CPU, µs per request | CPU ratio | throughput ratio | req/s | p50, ms | p99, ms |"
    alone = "| subject | boot, ms | import, ms | import CPU, ms | PSS, MB | RSS, MB |"
    parts = [
        "# Side by side\n",
        METHOD.format(connections=CONNECTIONS, seconds=SECONDS, rounds=rounds),
        "![CPU per request](side_by_side.svg)\n",
        *table(cost, cost_rows(measured)),
        "## The bars\n",
        *table("| what | bar | measured | |", bound_rows(measured)),
        SAME_IMPORTS,
        "## The floor\n",
        *floor_lines(measured),
        "## Before the first request\n",
        ALONE,
        *table(alone, footprint_rows(measured.footprints)),
        *versions,
        f"{about(platform.python_version())}. `make bench` measures anew.\n",
    ]
    return "\n".join(parts)


def picture(measured: Measured) -> str:
    """Give the chart, the cheapest first; without the subject that only shows what imports cost."""
    bars = []
    for name in measured.rounds:
        if name != SAME:
            cpu, title = measured.cpu(name), SUBJECTS[name].title.translate({ord(mark): None for mark in "*`"})
            bars.append(Bar(title, statistics.median(cpu), *span(cpu), measured.ratio(name, BASE), kind_of(name)))
    remark = "processor time of the worker, median and quartiles; ratio: beside bare FastAPI"
    ordered = sorted(bars, key=lambda bar: bar.value)
    return bar_chart("What a request costs", remark, ordered, statistics.median(measured.cpu(BASE)), "µs")


def kind_of(name: str) -> Literal["ours", "option", "peer"]:
    """Tell whose a subject is."""
    if name in {OURS, JSON}:
        return "ours"
    return "option" if SUBJECTS[name].is_ours else "peer"
