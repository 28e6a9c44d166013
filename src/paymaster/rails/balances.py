"""Rows that each show the balance after them: their order, and the balance at the end.

Within one second the order of a file need not be the order of booking; the balances tell it. A row
whose balance does not follow from any other comes last of its second.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from itertools import groupby
from typing import Protocol, TypeVar


class Row(Protocol):
    """`at` sorts as a text; `amount` is signed; `balance` is that after it."""

    @property
    def at(self) -> str:
        """When it was booked."""
        ...

    @property
    def amount(self) -> int:
        """What it moved."""
        ...

    @property
    def balance(self) -> int:
        """What was there then."""
        ...


R = TypeVar("R", bound=Row)


def in_order(rows: Sequence[R]) -> list[R]:
    """By time, and within one second so that each balance follows from the one before."""
    found: list[R] = []
    for _, group in groupby(sorted(rows, key=_at), key=_at):
        _append(found, list(group))
    return found


def closing_of(ordered: Sequence[R]) -> int:
    """The balance after rows that `in_order` put in order; there must be one.

    In the last second a row that follows from the one before it is believed first: the other may be
    a row of another day, or a second copy.
    """
    following = [
        row
        for place, row in enumerate(ordered)
        if row.at == ordered[-1].at and (place == 0 or ordered[place - 1].balance == _before(row))
    ]
    return (following or ordered)[-1].balance


def _append(found: list[R], group: Sequence[R]) -> None:
    """Append the rows of one second."""
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for place, row in enumerate(group):
        waiting[_before(row)].append(place)
    ends = {row.balance for row in group}
    first = deque(place for place, row in enumerate(group) if _before(row) not in ends)
    rest = deque(range(len(group)))
    done: set[int] = set()
    while len(done) < len(group):
        follows = waiting[found[-1].balance] if found else deque[int]()
        place = _next(follows, done)
        if place is None:
            place = _next(first, done)
        if place is None:
            place = _next(rest, done)
        assert place is not None
        done.add(place)
        found.append(group[place])


def _next(places: deque[int], done: set[int]) -> int | None:
    while places:
        place = places.popleft()
        if place not in done:
            return place
    return None


def _at(row: Row) -> str:
    return row.at


def _before(row: Row) -> int:
    return row.balance - row.amount
