"""Rows of one second in the order that their balances have, and the balance at the end of a day."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.rails.balances import closing_of, in_order


@dataclass(frozen=True)
class Row:
    at: str
    amount: int
    balance: int


def booked(opening: int, moves: list[tuple[int, int]]) -> list[Row]:
    """Rows as they were booked: (second, amount) each."""
    rows: list[Row] = []
    for second, amount in sorted(moves, key=lambda move: move[0]):
        opening += amount
        rows.append(Row(f"2026-03-01 10:00:{second:02}", amount, opening))
    return rows


@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(0, 3), st.integers(-500, 500)), min_size=1, max_size=9),
    st.randoms(use_true_random=False),
)
def test_whatever_the_order_of_the_file_the_day_closes_with_its_last_balance(
    opening: int, moves: list[tuple[int, int]], random: Random
) -> None:
    rows = booked(opening + 10**7, [(second, 1 + abs(amount)) for second, amount in moves])
    mixed = [*rows]
    random.shuffle(mixed)
    ordered = in_order(mixed)
    assert ordered == rows, "only income: there is one way to follow the balances"
    assert closing_of(ordered) == rows[-1].balance


@pytest.mark.parametrize("places", list(permutations(range(3))))
def test_payments_of_one_second(places: tuple[int, ...]) -> None:
    rows = booked(100, [(0, -10), (0, -20), (0, -30)])
    assert in_order([rows[place] for place in places]) == rows


def test_a_second_copy_of_the_last_row_does_not_change_the_balance() -> None:
    rows = booked(100, [(0, -10), (1, -20), (1, -30)])
    for copied in rows:
        assert closing_of(in_order([*rows, copied])) == 40


def test_a_row_behind_a_missing_one_still_says_the_balance() -> None:
    first, _, last = booked(100, [(0, -10), (1, -20), (2, -30)])
    assert closing_of(in_order([first, last])) == 40


def test_many_rows_of_one_second_take_no_time() -> None:
    """A file in which nothing follows from anything must not take the square of its rows."""
    rows = [Row("x", 1, 3 * number) for number in range(50_000)]
    assert len(in_order(rows)) == 50_000
