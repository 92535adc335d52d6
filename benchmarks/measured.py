"""The figures of a run of `side_by_side`, and their ratios."""

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from benchmarks.footprint import Footprint
from benchmarks.load import Figures

Rounds = Mapping[str, list[Figures]]


class Measured(NamedTuple):
    """All figures of a run; `write` is the microseconds of one bare write."""

    rounds: Rounds
    footprints: Mapping[str, Footprint]
    write: float

    def cpu(self, name: str) -> list[float]:
        """Give the microseconds of processor time of a request, one for each round."""
        return [figures.cpu for figures in self.rounds[name]]

    def ratio(self, name: str, other: str) -> float:
        """Give how many times the processor time of `other` a request takes."""
        return statistics.median(a / b for a, b in zip(self.cpu(name), self.cpu(other), strict=True))
