"""The figures of a run of `side_by_side`, and their ratios."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.footprint import Footprint
from benchmarks.load import Figures

Rounds = Mapping[str, list[Figures]]


class Measurements(NamedTuple):
    """All figures of a run; `write` is the CPU time of one `os.write` in microseconds."""

    rounds: Rounds
    footprints: Mapping[str, Footprint]
    write: float

    def cpu(self, name: str) -> list[float]:
        """Return the CPU time per request in microseconds, one figure per round."""
        return [figures.cpu for figures in self.rounds[name]]

    def ratio(self, name: str, other: str) -> float:
        """Return the median over the rounds of the CPU time of `name` divided by that of `other`."""
        return statistics.median(a / b for a, b in zip(self.cpu(name), self.cpu(other), strict=True))
