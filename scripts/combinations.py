"""Which answers to generate with: a few rows in which any two options meet in each of the four ways."""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations, count
from math import comb

from scripts.snapshot import ROOT, TEMPLATE

# One answer for each option.
Row = dict[str, bool]


def options() -> list[str]:
    """Give the names of all options, in the order of features.json."""
    return list(json.loads((ROOT / TEMPLATE / "features.json").read_text("utf-8")))


def alone(names: Sequence[str]) -> Iterator[Row]:
    """Give for each option the row in which it is the only one that is on."""
    for name in names:
        yield {other: other == name for other in names}


def pairwise(names: Sequence[str], each_alone: bool = False) -> list[Row]:
    """Give the fewest rows, all off and all on first, in which any two options have each pair of values.

    Two options are both off and both on in these two rows. Each is on without the other somewhere in the rows that
    follow when neither of the two sets of rows in which they are on holds the other one. Sets of one size never do, and
    half of the rows is the size of which there are most: by Sperner's theorem nothing does with fewer rows.
    With `each_alone` every option is on by itself as well.
    """
    more = next(number for number in count() if comb(number, number // 2) >= len(names))
    on_in = dict(zip(names, combinations(range(more), more // 2), strict=False))
    rows = [dict.fromkeys(names, False), dict.fromkeys(names, True)]
    rows += [{name: number in on_in[name] for name in names} for number in range(more)]
    rows += alone(names) if each_alone else ()
    return [row for number, row in enumerate(rows) if row not in rows[:number]]
