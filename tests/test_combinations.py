"""The combinations that tests and `make drift` generate: few, and every pair of values is among them."""

from itertools import combinations, product

import pytest

from scripts.combinations import alone, pairwise


def names(number: int) -> list[str]:
    """Give names for some options, in an order that is not the alphabet's."""
    return [f"option_{position:02}" for position in reversed(range(number))]


@pytest.mark.parametrize("number", range(2, 40))
def test_any_two_options_meet_in_each_of_the_four_ways(number: int) -> None:
    rows = pairwise(names(number))
    assert all(list(row) == names(number) for row in rows)
    for first, second in combinations(names(number), 2):
        assert {(row[first], row[second]) for row in rows} == set(product((False, True), repeat=2))


@pytest.mark.parametrize(
    ("number", "size"), [(0, 1), (1, 2), (2, 4), (3, 5), (4, 6), (5, 6), (8, 7), (10, 7), (20, 8), (35, 9)]
)
def test_rows_are_few_and_begin_with_all_off_and_all_on(number: int, size: int) -> None:
    rows = pairwise(names(number))
    assert rows[0] == dict.fromkeys(names(number), False)
    assert rows[-1 if size == 1 else 1] == dict.fromkeys(names(number), True)
    assert len(rows) == size
    assert all(rows.count(row) == 1 for row in rows)


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_rows_with_each_option_alone_come_after_the_others(number: int) -> None:
    with_alone = pairwise(names(number), each_alone=True)
    assert with_alone[: len(pairwise(names(number)))] == pairwise(names(number))
    assert [row for row in alone(names(number)) if row not in with_alone] == []
    assert all(with_alone.count(row) == 1 for row in with_alone)
