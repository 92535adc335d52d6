"""Markdown tables, medians and quartiles for the pages in `benchmarks/results`."""

import statistics
from collections.abc import Iterable, Sequence


def table(head: str, rows: Iterable[str]) -> list[str]:
    """Return the lines of a table, followed by an empty line."""
    return [head, "|---" * (head.count("|") - 1) + "|", *rows, ""]


def quartiles(figures: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile."""
    if len(figures) == 1:
        return figures[0], figures[0]
    low, _, high = statistics.quantiles(figures, n=4, method="inclusive")
    return low, high


def median_with_quartiles(figures: Sequence[float], digits: int = 0) -> str:
    """Return the median with both quartiles, e.g. `117 (116 to 119)`."""
    low, high = quartiles(figures)
    return f"{statistics.median(figures):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
