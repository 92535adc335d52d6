"""The ratios that `side_by_side` reports, and the bounds that they are checked against."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.footprint import Footprint
from benchmarks.measured import Measurements
from benchmarks.subject import BASE, DESIGN_2020, JSON, OURS, SAME, UVICORN_LINE


class Bound(NamedTuple):
    """A ratio of measured figures with its limit: an upper limit, or a lower one if `at_least` is set.

    `needs` names the subjects that must have been measured.
    """

    title: str
    needs: tuple[str, ...]
    ratio: Callable[[Measurements], float]
    limit: float
    at_least: bool = False


def _cpu_ratio(name: str, other: str) -> Callable[[Measurements], float]:
    return lambda measured: measured.ratio(name, other)


def _footprint_ratio(figure: Callable[[Footprint], float]) -> Callable[[Measurements], float]:
    return lambda measured: figure(measured.footprints[OURS]) / figure(measured.footprints[SAME])


_CPU_BOUNDS = [
    bound
    for form, name in (("text log", OURS), ("JSON log", JSON))
    for bound in (
        Bound(
            f"CPU time of this template ({form}) relative to FastAPI without an access log",
            (name, BASE),
            _cpu_ratio(name, BASE),
            1.25,
        ),
        Bound(
            f"CPU time of this template ({form}) relative to FastAPI with uvicorn's access log",
            (name, UVICORN_LINE),
            _cpu_ratio(name, UVICORN_LINE),
            0.9,
        ),
        Bound(
            f"CPU time of the 2020 design relative to this template ({form})",
            (name, DESIGN_2020),
            _cpu_ratio(DESIGN_2020, name),
            2.2,
            at_least=True,
        ),
    )
]
_FOOTPRINT_BOUNDS = [
    Bound(f"{title} of this template relative to FastAPI with the same imports", (OURS, SAME), ratio, limit)
    for title, ratio, limit in (
        ("boot time", _footprint_ratio(lambda f: f.boot), 1.3),
        ("import time", _footprint_ratio(lambda f: f.import_wall), 1.3),
        ("import CPU time", _footprint_ratio(lambda f: f.import_cpu), 1.3),
        ("memory (RSS)", _footprint_ratio(lambda f: f.memory.rss), 1.1),
    )
]
BOUNDS = [*_CPU_BOUNDS, *_FOOTPRINT_BOUNDS]


def measured_bounds(measured: Measurements) -> Iterator[Bound]:
    """Yield the bounds whose subjects were all measured."""
    return (bound for bound in BOUNDS if all(name in measured.rounds for name in bound.needs))


def ratio_rows(measured: Measurements) -> Iterator[str]:
    """Yield the table rows of the ratios, without their limits."""
    for bound in measured_bounds(measured):
        yield f"| {bound.title} | {bound.ratio(measured):.2f} |"


def check_lines(measured: Measurements) -> Iterator[str]:
    """Yield one line per bound for the terminal: the ratio, its limit, and whether the ratio is within it."""
    for bound in measured_bounds(measured):
        ratio = bound.ratio(measured)
        within = ratio >= bound.limit if bound.at_least else ratio <= bound.limit
        limit = f"at {'least' if bound.at_least else 'most'} {bound.limit:.2f}"
        yield f"{'ok' if within else 'OUTSIDE':<7}  {ratio:.2f} ({limit})  {bound.title}"
