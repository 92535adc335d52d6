"""The results page and the chart of `side_by_side`."""

import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from benchmarks.bounds import ratio_rows
from benchmarks.chart import Bar, bar_chart
from benchmarks.footprint import TIMES, Footprint
from benchmarks.load import CONNECTIONS, SECONDS
from benchmarks.machine import describe_machine
from benchmarks.measured import Measurements
from benchmarks.report import footer
from benchmarks.subject import BASE, JSON, OURS, SAME, SHORTEST, SUBJECTS
from benchmarks.table import median_with_quartiles, quartiles, table

METHOD = """\
gunicorn runs one worker on its own processor. wrk sends requests from another processor, over {connections}
connections for {seconds} s per round. The figures are medians of {rounds} interleaved rounds, with the quartiles in
parentheses.

- **CPU** is the CPU time of all threads of the worker, from `/proc/<pid>/task/*/schedstat`.
- **CPU ratio** is relative to FastAPI without an access log.
- **Throughput ratio** is the inverse: the requests per second of a worker that uses a full processor, independent of
  the rest of the machine. Both ratios are medians of the ratios within each round.

Every application returns the same JSON. Every access log is written to a file. Before the measurement, one request
checks that each application returns the response and writes the access log line that its row describes.

- **FastAPI with a minimal request ID and access log** adds a random ID to the response and writes each line with one
  `os.write`. It ignores the client's ID, escapes nothing, enforces no limits and does not use `logging`.
- **2020 design** is starlette-context's `ContextMiddleware` with two plugins, and a subclass of uvicorn's worker whose
  access log has the request ID and the duration. It is built on Starlette's `BaseHTTPMiddleware`.
- **This template** is the generated service with its default options. With a named option, that option is on as well,
  and the log format is text.
"""
SAME_IMPORTS = """\
"FastAPI with the same imports" is FastAPI with one route, in the environment of this template. It first imports every
third-party module that this template imports, in the same order. An option that is off costs nothing: the generated
service contains none of its code.
"""
STARTUP = f"""\
Medians of {TIMES} runs that take turns, while no other application runs.

- **Boot** is the time from the start of gunicorn to the first response.
- **Import** is the time that a new interpreter takes to import the application.
- **Memory** is that of the worker after one second of load. RSS counts shared pages in full. PSS divides each page by
  the number of processes that share it. PSS is lower where gunicorn's master has loaded much of the same code: the
  master of this template reads the settings.
"""


def cost_rows(measured: Measurements) -> Iterator[str]:
    """Yield the rows of the table of CPU time, throughput and latency."""
    for name, figures in measured.rounds.items():
        cells = [median_with_quartiles(measured.cpu(name))]
        if BASE in measured.rounds:
            cells += [f"{measured.ratio(name, BASE):.2f}", f"{measured.ratio(BASE, name):.2f}"]
        else:
            cells += ["", ""]
        cells += [f"{statistics.median(one.rate for one in figures):.0f}"]
        cells += [f"{statistics.median(one[place] for one in figures) / 1000:.2f}" for place in (2, 3)]
        yield f"| {SUBJECTS[name].title} | {' | '.join(cells)} |"


def footprint_rows(footprints: Mapping[str, Footprint]) -> Iterator[str]:
    """Yield the rows of the table of startup times in milliseconds and memory in megabytes."""
    for name, footprint in footprints.items():
        times = (footprint.boot, footprint.import_wall, footprint.import_cpu)
        cells = [f"{seconds * 1000:.0f}" for seconds in times] + [f"{size / 1e6:.1f}" for size in footprint.memory]
        yield f"| {SUBJECTS[name].title} | {' | '.join(cells)} |"


def minimum_cost_lines(measured: Measurements) -> list[str]:
    """Return the lowest possible cost of an ID and an access log line, and that of the service."""
    lines = [f"One `os.write` of 150 bytes to the same file system takes {measured.write:.1f} µs of CPU time."]
    if all(name in measured.rounds for name in (BASE, SHORTEST, OURS)):
        base, least, own = (statistics.median(measured.cpu(name)) for name in (BASE, SHORTEST, OURS))
        lines += [
            f"A minimal request ID and access log cost {least - base:.0f} µs more than FastAPI without an access log.",
            f"Those of this template (text log) cost {own - base:.0f} µs more than FastAPI without an access log, and",
            f"{own - least:.0f} µs more than the minimal version.",
        ]
    return [*lines, ""]


def render_page(measured: Measurements, rounds: int, versions: Sequence[str]) -> str:
    """Return the results page as Markdown."""
    cost = "| application | CPU, µs per request | CPU ratio | throughput ratio | requests/s | p50, ms | p99, ms |"
    startup = "| application | boot, ms | import, ms | import CPU, ms | PSS, MB | RSS, MB |"
    parts = [
        "# CPU time per request, compared with other packages\n",
        METHOD.format(connections=CONNECTIONS, seconds=SECONDS, rounds=rounds),
        "![CPU time per request](side_by_side.svg)\n",
        *table(cost, cost_rows(measured)),
        "## Ratios\n",
        *table("| compared | ratio |", ratio_rows(measured)),
        SAME_IMPORTS,
        "## Minimum cost of a request ID and an access log\n",
        *minimum_cost_lines(measured),
        "## Startup time and memory\n",
        STARTUP,
        *table(startup, footprint_rows(measured.footprints)),
        *versions,
        "",
        f"{footer(describe_machine(platform.python_version()))}\n",
    ]
    return "\n".join(parts)


def render_chart(measured: Measurements) -> str:
    """Return the chart as SVG, lowest CPU time first, without the application that only measures import time."""
    bars = []
    for name in measured.rounds:
        if name != SAME:
            cpu, title = measured.cpu(name), SUBJECTS[name].title.translate({ord(mark): None for mark in "*`"})
            low, high = quartiles(cpu)
            bars.append(Bar(title, statistics.median(cpu), low, high, measured.ratio(name, BASE), bar_kind(name)))
    remark = f"CPU time of the worker, median and quartiles; ratio relative to {SUBJECTS[BASE].title}"
    ordered = sorted(bars, key=lambda bar: bar.value)
    base = statistics.median(measured.cpu(BASE))
    return bar_chart("CPU time per request", remark, ordered, base=base, base_name=SUBJECTS[BASE].title, unit="µs")


def bar_kind(name: str) -> Literal["ours", "option", "peer"]:
    """Return the style of a subject's bar."""
    if name in {OURS, JSON}:
        return "ours"
    return "option" if SUBJECTS[name].is_ours else "peer"
