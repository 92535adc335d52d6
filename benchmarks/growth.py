"""How the cost of a request grows with its size, its lines, the loggers and the connections.

`python -m benchmarks.growth UV`. Served and loaded as in `side_by_side`; a figure is the median of some interleaved
rounds, in microseconds of the worker's processor time for each request.
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
from benchmarks.load import CONNECTIONS, Cores, measure, told_errors, two_cores
from benchmarks.machine import about
from benchmarks.process import PATH, Served
from benchmarks.report import RESULTS
from benchmarks.subject import Subject
from benchmarks.table import table

SEED = 8
SUBJECTS = {
    "FastAPI, no line": Subject("bare", "growing_bare"),
    "FastAPI, uvicorn's line": Subject("uvicorn", "growing_bare", line="yes"),
    "the service, text": Subject("text", "growing_ours", service=()),
    "the service, JSON": Subject("JSON", "growing_ours", service=(), variables={"LOG_FORMAT": "json"}),
}


class Point(NamedTuple):
    """One thing that a request may be; `size` is what grows, in bytes or in numbers."""

    size: int
    answer: int = 4
    request: int = 0
    connections: int = CONNECTIONS
    lines: int = 0
    width: int = 100
    loggers: int = 1


SIZES = (1_000, 10_000, 100_000, 1_000_000)
SERIES = {
    "characters in the answer": [Point(size, answer=size) for size in SIZES],
    "bytes in the request's body": [Point(size, request=size) for size in SIZES],
    "connections": [Point(size, connections=size) for size in (1, 16, 64, 256, 512)],
    "lines of 100 characters": [Point(size, lines=size) for size in (0, 1, 10)],
    "characters in one line": [Point(size, lines=1, width=size) for size in (100, 1_000, 10_000)],
    "characters in each of ten lines": [Point(size, lines=10, width=size) for size in (100, 1_000, 10_000)],
    "loggers, one line": [Point(size, lines=1, loggers=size) for size in (1, 100, 10_000)],
}
UNIT_OF_SLOPE = {"connections": 100, "lines of 100 characters": 1, "loggers, one line": 1_000}
# A worker that waits for one connection wakes for each request; that is another cost than that of a connection.
FIRST_OF_SLOPE = {"connections": CONNECTIONS}

Found = Mapping[tuple[str, str, int], list[float]]


def turn(served: Served, point: Point) -> None:
    """Set what the next requests do; raise RuntimeError if the subject refuses."""
    query = urlencode({name: getattr(point, name) for name in ("answer", "lines", "width", "loggers")})
    with closing(HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("PUT", f"{PATH}?{query}")
        status = connection.getresponse().status
    if status != HTTPStatus.OK:
        raise RuntimeError(f"{served.subject.title} answers {status} to {query}.")


def posting(folder: Path, size: int) -> Path | None:
    """Give wrk's script that posts a body of so many bytes; None: nothing is posted."""
    if not size:
        return None
    script = folder / f"post-{size}.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n')
    return script


def all_rounds(served: Mapping[str, Served], rounds: int, folder: Path, cores: Cores) -> Found:
    """Measure each point of each series with each subject, in an order drawn anew for each round."""
    work = [(series, name, point) for series, points in SERIES.items() for point in points for name in served]
    found: dict[tuple[str, str, int], list[float]] = {(series, name, one.size): [] for series, name, one in work}
    draw = Random(SEED)
    for number in range(rounds):
        for series, name, point in draw.sample(work, len(work)):
            turn(served[name], point)
            script = posting(folder, point.request)
            figures = measure(served[name], cores.load, connections=point.connections, seconds=1, script=script)
            served[name].forget_lines()
            found[series, name, point.size].append(figures.cpu)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return found


def slope(sizes: Sequence[int], figures: Sequence[float]) -> float:
    """Give the microseconds for one more, between the first and the last."""
    return (figures[-1] - figures[0]) / (sizes[-1] - sizes[0])


def rows(series: str, found: Found, names: Sequence[str]) -> Iterator[str]:
    """Give the rows of a table."""
    sizes = [point.size for point in SERIES[series]]
    unit = UNIT_OF_SLOPE.get(series, 1_000)
    for name in names:
        medians = [statistics.median(found[series, name, size]) for size in sizes]
        cells = [f"{median:.0f}" for median in medians]
        first = sizes.index(FIRST_OF_SLOPE.get(series, sizes[0]))
        yield f"| {name} | {' | '.join(cells)} | {slope(sizes[first:], medians[first:]) * unit:.2f} |"


def page(found: Found, rounds: int, names: Sequence[str]) -> str:
    """Give the page."""
    lines = [
        "# Growth",
        "",
        f"CPU of the worker in µs per request; medians of {rounds} interleaved rounds of one second under wrk, with",
        f"{CONNECTIONS} connections where nothing else is said. Lines of the two FastAPI subjects are written by the",
        "standard library's own handler and formatter. Opening the connections counts, and what is unfinished at the",
        "end counts as no request: with many connections in one second, that is some percent. The last column is the",
        f"slope between the first and the last size; of connections, from {CONNECTIONS} on.",
        "",
    ]
    for series, points in SERIES.items():
        sizes = " | ".join(f"{point.size:,}" for point in points)
        head = f"| {series} | {sizes} | µs for {UNIT_OF_SLOPE.get(series, 1_000):,} more |"
        lines += [f"## {series.capitalize()}", "", *table(head, rows(series, found, names))]
    return "\n".join([*lines, f"{about(platform.python_version())}. `make bench` measures anew.", ""])


def run(rounds: int, uv: Path, cores: Cores) -> Found:
    """Start the subjects, measure, and give all figures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        environments = Environments(folder, uv)
        served = {
            name: stack.enter_context(Served(what, environments.of(what), folder / what.title, cores.server))
            for name, what in SUBJECTS.items()
        }
        return all_rounds(served, rounds, folder, cores)


def main(arguments: list[str]) -> int:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uv", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    cores = two_cores()
    with told_errors():
        text = page(run(given.rounds, given.uv, cores), given.rounds, list(SUBJECTS))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
