"""Tables, medians and spans, as they stand in the pages of `benchmarks/results`."""

import statistics
from collections.abc import Iterable, Sequence


def table(head: str, rows: Iterable[str]) -> list[str]:
    """Give the lines of a table and an empty one."""
    return [head, "|---" * (head.count("|") - 1) + "|", *rows, ""]


def span(figures: Sequence[float]) -> tuple[float, float]:
    """Give the lower and the upper quartile."""
    if len(figures) == 1:
        return figures[0], figures[0]
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, high


def shown(figures: Sequence[float], digits: int = 0) -> str:
    """Give e.g. `117 (116 to 119)`: the median, and the span between the quartiles."""
    low, high = span(figures)
    return f"{statistics.median(figures):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
