"""CPU time per request as bodies, log lines, loggers and connections grow.

`python -m benchmarks.growth UV`. The applications are served and loaded as in `side_by_side`. A figure is the median of
interleaved rounds, in microseconds of the worker's CPU time per request.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlencode

from benchmarks.environments import Environments
from benchmarks.load import CONNECTIONS, Cores, measure, report_command_errors, two_cores
from benchmarks.machine import describe_machine
from benchmarks.process import PATH, RunningSubject
from benchmarks.report import RESULTS, footer
from benchmarks.subject import Subject
from benchmarks.table import table

SEED = 8
SUBJECTS = {
    "FastAPI without an access log": Subject("bare", "growing_bare"),
    "FastAPI with uvicorn's access log": Subject("uvicorn", "growing_bare", line="yes"),
    "this template, text log": Subject("text", "growing_ours", service=()),
    "this template, JSON log": Subject("JSON", "growing_ours", service=(), variables={"LOG_FORMAT": "json"}),
}


class Point(NamedTuple):
    """The settings of one measurement; `size` is the value of the setting that grows."""

    size: int
    response: int = 4
    request: int = 0
    connections: int = CONNECTIONS
    lines: int = 0
    width: int = 100
    loggers: int = 1


SIZES = (1_000, 10_000, 100_000, 1_000_000)
SERIES = {
    "characters in the response body": [Point(size, response=size) for size in SIZES],
    "bytes in the request body": [Point(size, request=size) for size in SIZES],
    "connections": [Point(size, connections=size) for size in (1, 16, 64, 256, 512)],
    "log lines of 100 characters per request": [Point(size, lines=size) for size in (0, 1, 10)],
    "characters in one log line": [Point(size, lines=1, width=size) for size in (100, 1_000, 10_000)],
    "characters in each of ten log lines": [Point(size, lines=10, width=size) for size in (100, 1_000, 10_000)],
    "loggers, with one log line per request": [Point(size, lines=1, loggers=size) for size in (1, 100, 10_000)],
}
UNIT_OF_SLOPE = {
    "connections": 100,
    "log lines of 100 characters per request": 1,
    "loggers, with one log line per request": 1_000,
}
# The size at which a slope starts. With one connection, the worker wakes up for every request, which costs more.
FIRST_OF_SLOPE = {"connections": CONNECTIONS}

Results = Mapping[tuple[str, str, int], list[float]]
"""CPU time per request in µs, one figure per round, by series, application and size."""


def configure(served: RunningSubject, point: Point) -> None:
    """Configure what the next requests do; raise RuntimeError if the response is not 200."""
    query = urlencode({name: getattr(point, name) for name in ("response", "lines", "width", "loggers")})
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("PUT", f"{PATH}?{query}")
        status = connection.getresponse().status
    if status != HTTPStatus.OK:
        raise RuntimeError(f"{served.subject.title} responded {status} to {query}, expected 200.")


def write_post_script(folder: Path, size: int) -> Path | None:
    """Write a wrk script that posts a body of `size` bytes, and return its path; None if `size` is 0."""
    if not size:
        return None
    script = folder / f"post-{size}.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n')
    return script


def all_rounds(served: Mapping[str, RunningSubject], rounds: int, folder: Path, cores: Cores) -> Results:
    """Measure every point with every application, in a new random order for each round."""
    work = [(series, name, point) for series, points in SERIES.items() for point in points for name in served]
    found: dict[tuple[str, str, int], list[float]] = {(series, name, one.size): [] for series, name, one in work}
    draw = Random(SEED)
    for number in range(rounds):
        for series, name, point in draw.sample(work, len(work)):
            configure(served[name], point)
            script = write_post_script(folder, point.request)
            figures = measure(served[name], cores.load, connections=point.connections, seconds=1, script=script)
            served[name].truncate_logs()
            found[series, name, point.size].append(figures.cpu)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return found


def slope(sizes: Sequence[int], figures: Sequence[float]) -> float:
    """Return the microseconds per unit of size, between the first and the last size."""
    return (figures[-1] - figures[0]) / (sizes[-1] - sizes[0])


def rows(series: str, found: Results, names: Sequence[str]) -> Iterator[str]:
    """Yield the table rows of a series."""
    sizes = [point.size for point in SERIES[series]]
    unit = UNIT_OF_SLOPE.get(series, 1_000)
    for name in names:
        medians = [statistics.median(found[series, name, size]) for size in sizes]
        cells = [f"{median:.0f}" for median in medians]
        first = sizes.index(FIRST_OF_SLOPE.get(series, sizes[0]))
        yield f"| {name} | {' | '.join(cells)} | {slope(sizes[first:], medians[first:]) * unit:.2f} |"


def render_page(found: Results, rounds: int, names: Sequence[str]) -> str:
    """Return the results page as Markdown."""
    lines = [
        "# CPU time per request as bodies, log lines, loggers and connections grow",
        "",
        "CPU time of the worker in µs per request. wrk sends requests for one second per round, over",
        f"{CONNECTIONS} connections if not stated otherwise. The figures are medians of {rounds} interleaved rounds.",
        "",
        "- FastAPI's application log lines are written by a handler and a formatter of the standard library.",
        "- The CPU time of opening the connections is included. Requests that are unfinished at the end cost CPU time",
        "  but are not counted. With many connections, both add some percent.",
        "- The last column is the slope between the first and the last size. For connections, it starts at",
        f"  {CONNECTIONS} connections.",
        "",
    ]
    for series, points in SERIES.items():
        sizes = " | ".join(f"{point.size:,}" for point in points)
        head = f"| {series} | {sizes} | µs for {UNIT_OF_SLOPE.get(series, 1_000):,} more |"
        lines += [f"## {series.capitalize()}", "", *table(head, rows(series, found, names))]
    return "\n".join([*lines, footer(describe_machine(platform.python_version())), ""])


def run(rounds: int, uv: Path, cores: Cores) -> Results:
    """Start the applications, measure them and return all figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        environments = Environments(folder, uv)
        served = {
            name: stack.enter_context(RunningSubject(what, environments.get(what), folder / what.title, cores.server))
            for name, what in SUBJECTS.items()
        }
        return all_rounds(served, rounds, folder, cores)


def main(arguments: list[str]) -> int:
    """Measure, print the results page and write it to `benchmarks/results`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uv", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    cores = two_cores()
    with report_command_errors():
        text = render_page(run(given.rounds, given.uv, cores), given.rounds, list(SUBJECTS))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
