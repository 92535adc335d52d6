"""The combinations of options for tests and `make drift`: few rows, with every pair of values."""

from itertools import combinations, product

import pytest

from scripts.combinations import pairwise, single_option_rows


def names(number: int) -> list[str]:
    """Return names of options that are not in alphabetical order."""
    return [f"option_{position:02}" for position in reversed(range(number))]


@pytest.mark.parametrize("number", range(2, 40))
def test_any_two_options_have_each_pair_of_values(number: int) -> None:
    rows = pairwise(names(number))
    assert all(list(row) == names(number) for row in rows)
    for first, second in combinations(names(number), 2):
        assert {(row[first], row[second]) for row in rows} == set(product((False, True), repeat=2))


@pytest.mark.parametrize(
    ("number", "size"), [(0, 1), (1, 2), (2, 4), (3, 5), (4, 6), (5, 6), (8, 7), (10, 7), (20, 8), (35, 9)]
)
def test_rows_are_few_and_start_with_all_off_and_all_on(number: int, size: int) -> None:
    rows = pairwise(names(number))
    assert rows[0] == dict.fromkeys(names(number), False)
    assert rows[-1 if size == 1 else 1] == dict.fromkeys(names(number), True)
    assert len(rows) == size
    assert all(rows.count(row) == 1 for row in rows)


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_rows_with_a_single_option_come_last(number: int) -> None:
    rows = pairwise(names(number), each_alone=True)
    assert rows[: len(pairwise(names(number)))] == pairwise(names(number))
    assert [row for row in single_option_rows(names(number)) if row not in rows] == []
    assert all(rows.count(row) == 1 for row in rows)
