"""Pairwise combinations of options: the fewest rows in which any two options have each of the four pairs of values."""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations, count
from math import comb

from scripts.snapshot import ROOT, TEMPLATE

# For each option, whether it is on.
Row = dict[str, bool]


def options() -> list[str]:
    """Return the names of all options, in the order of features.json."""
    return list(json.loads((ROOT / TEMPLATE / "features.json").read_text("utf-8")))


def single_option_rows(names: Sequence[str]) -> Iterator[Row]:
    """Yield a row for each option in which it is the only one that is on."""
    for name in names:
        yield {other: other == name for other in names}


def pairwise(names: Sequence[str], each_alone: bool = False) -> list[Row]:
    """Return the fewest rows in which any two options have each pair of values.

    The first row has all options off, the second all on, so any two options are both off and both on once. In the
    other rows, each option of a pair must be on somewhere without the other: neither of the two sets of rows in which
    they are on may contain the other set. So each option gets its own subset of these rows, all subsets of one size.
    Half of the rows is the size with the most subsets, and by Sperner's theorem fewer rows are not enough.
    With `each_alone`, the rows in which only one option is on follow.
    """
    size = next(number for number in count() if comb(number, number // 2) >= len(names))
    on_in = dict(zip(names, combinations(range(size), size // 2), strict=False))
    rows = [dict.fromkeys(names, False), dict.fromkeys(names, True)]
    rows += [{name: number in on_in[name] for name in names} for number in range(size)]
    rows += single_option_rows(names) if each_alone else ()
    return [row for number, row in enumerate(rows) if row not in rows[:number]]
