"""The bars that the service is measured against, and whether it meets them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.footprint import Footprint
from benchmarks.measured import Measured
from benchmarks.subject import BASE, DESIGN_2020, JSON, OURS, SAME, UVICORN_LINE


class Bound(NamedTuple):
    """What is asked for: the figure of these subjects may be so much, or must be (`at_least`)."""

    what: str
    needs: tuple[str, ...]
    figure: Callable[[Measured], float]
    limit: float
    at_least: bool = False


def _costs(name: str, other: str) -> Callable[[Measured], float]:
    return lambda measured: measured.ratio(name, other)


def _prints(what: Callable[[Footprint], float]) -> Callable[[Measured], float]:
    return lambda measured: what(measured.footprints[OURS]) / what(measured.footprints[SAME])


BOUNDS = [
    *(Bound(f"{form}: CPU beside FastAPI without a line", (name, BASE), _costs(name, BASE), 1.25)
      for form, name in (("text", OURS), ("JSON", JSON))),
    *(Bound(f"{form}: CPU beside uvicorn's bare line", (name, UVICORN_LINE), _costs(name, UVICORN_LINE), 0.9)
      for form, name in (("text", OURS), ("JSON", JSON))),
    *(Bound(f"{form}: CPU of the design of 2020 beside it", (name, DESIGN_2020), _costs(DESIGN_2020, name), 2.2, True)
      for form, name in (("text", OURS), ("JSON", JSON))),
    Bound("boot beside a bare application with the same imports", (OURS, SAME), _prints(lambda f: f.boot), 1.3),
    Bound("import (clock) beside the same", (OURS, SAME), _prints(lambda f: f.import_wall), 1.3),
    Bound("import (CPU) beside the same", (OURS, SAME), _prints(lambda f: f.import_cpu), 1.3),
    Bound("memory of the worker (RSS) beside the same", (OURS, SAME), _prints(lambda f: f.memory.rss), 1.1),
]  # fmt: skip


def bound_rows(measured: Measured) -> Iterator[str]:
    """Tell of each bound whether it is kept, where its subjects were measured."""
    for bound in BOUNDS:
        if all(name in measured.rounds for name in bound.needs):
            figure = bound.figure(measured)
            met = figure >= bound.limit if bound.at_least else figure <= bound.limit
            limit = f"at {'least' if bound.at_least else 'most'} {bound.limit:.2f}"
            yield f"| {bound.what} | {limit} | {figure:.2f} | {'met' if met else '**not met**'} |"
