"""Reads the rows of the books in the order of commits, and follows every link in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.books_model import NEVER_ABOVE_ZERO, NEVER_BELOW_ZERO, Line, Written

from paymaster.db.tx import CellRead
from paymaster.ledger.chart import Account


@dataclass
class Rows:
    """What is stored, in the words of the model."""

    written: list[Written]
    balances: dict[Account, int]
    holds: dict[int, dict[str, Any]]
    late: set[int]
    legs: dict[Account, list[tuple[int, datetime, datetime]]]
    """What came to each account, when it took effect, and when it was recorded."""

    def as_of(self, account: Account, at: datetime, basis: str) -> int:
        """What the account held at a moment."""
        return sum(
            change
            for change, effective_at, recorded_at in self.legs.get(account, [])
            if (effective_at if basis == "effective" else recorded_at) <= at
        )


@dataclass
class _Walk:
    """Where the walk along an account's postings stands."""

    number: int = 0
    balance: int = 0
    previous: int | None = None
    path: list[tuple[int, int]] = field(default_factory=list)

    def step(self, posting: int, change: int, stored: tuple[Any, ...]) -> None:
        self.number, self.balance = self.number + 1, self.balance + change
        expected = self.previous, self.number, self.balance
        assert stored == expected, f"posting {posting}: {stored} stored, {expected} derived"
        self.previous = posting
        self.path.append((posting, change))


async def read_rows(tx: CellRead, low: int, high: int, entry_ids: list[int]) -> Rows:
    """The rows of owners low..high-1 and of these entries. Raises AssertionError: a broken link."""
    accounts = await tx.tuples(
        "SELECT id, kind, owner_id, asset, balance, floor, ceiling, postings, last_posting_id"
        " FROM account WHERE owner_id >= %s AND owner_id < %s",
        (low, high),
    )
    names = {row[0]: Account(*row[1:4]) for row in accounts}
    for row in accounts:
        least = 0 if row[1] in NEVER_BELOW_ZERO else None
        most = 0 if row[1] in NEVER_ABOVE_ZERO else None
        assert row[5:7] == (least, most), f"bounds of {row}"
    entries = await tx.tuples(
        "SELECT e.id, e.kind, e.subject, e.effective_at, e.effective_day, e.recipe_version,"
        " e.evidence, e.reverses_id, e.postings, e.first_posting_id, e.last_posting_id,"
        " c.recorded_at"
        " FROM entry e"
        " JOIN commit c ON c.id = e.commit_id"
        " WHERE e.id = ANY(%s) ORDER BY c.first_seq + e.ordinal",
        (entry_ids,),
    )
    postings = await tx.tuples(
        "SELECT entry_id, id, source_id, destination_id, amount, asset, requested,"
        " source_previous, source_number, source_balance,"
        " destination_previous, destination_number, destination_balance"
        " FROM posting WHERE entry_id = ANY(%s) ORDER BY id",
        (entry_ids,),
    )
    of_entry: dict[int, list[tuple[Any, ...]]] = {}
    for row in postings:
        of_entry.setdefault(row[0], []).append(row[1:])
    walks = {number: _Walk() for number in names}
    written = [_entry(row, of_entry.get(row[0], []), names, walks) for row in entries]
    for row in accounts:
        walk = walks[row[0]]
        assert (row[4], row[7], row[8]) == (walk.balance, walk.number, walk.previous), row
    await _marks(tx, walks)
    moments = {row[0]: row[3] for row in entries}
    recorded = {row[0]: row[11] for row in entries}
    entry_of = {row[1]: row[0] for row in postings}
    legs = {
        names[number]: [
            (change, moments[entry_of[posting]], recorded[entry_of[posting]])
            for posting, change in walk.path
        ]
        for number, walk in walks.items()
    }
    late = await _late(tx, walks, {p: (entry, moments[entry]) for p, entry in entry_of.items()})
    balances = {names[row[0]]: row[4] for row in accounts if row[4]}
    return Rows(written, balances, await _holds(tx, list(names), names), late, legs)


def _entry(
    row: tuple[Any, ...],
    postings: list[tuple[Any, ...]],
    names: dict[int, Account],
    walks: dict[int, _Walk],
) -> Written:
    ids = [posting[0] for posting in postings]
    count, first, last = row[8:11]
    assert len(postings) == count, f"entry {row[0]} counts {count} postings: {ids}"
    if ids:
        assert (first, last) == (ids[0], ids[-1]), f"range {first}..{last} of {ids}"
    else:
        assert (first, last) == (None, None), row
    lines: list[Line] = []
    for number, source, destination, amount, asset, requested, *links in postings:
        walks[source].step(number, -amount, tuple(links[:3]))
        walks[destination].step(number, amount, tuple(links[3:]))
        lines.append(Line(names[source], names[destination], amount, asset, requested))
    return Written._make((*row[:8], tuple(lines)))


async def _marks(tx: CellRead, walks: dict[int, _Walk]) -> None:
    """Every 64th posting of a history is marked, no other."""
    rows = await tx.tuples(
        "SELECT account_id, number, posting_id FROM account_mark WHERE account_id = ANY(%s)",
        (list(walks),),
    )
    expected = {
        (number, place): posting
        for number, walk in walks.items()
        for place, (posting, _) in enumerate(walk.path, 1)
        if place % 64 == 0
    }
    assert {row[:2]: row[2] for row in rows} == expected


async def _late(
    tx: CellRead, walks: dict[int, _Walk], entry_of: dict[int, tuple[int, datetime]]
) -> set[int]:
    """The entries whose postings are noted as late, all of them on both sides."""
    rows = await tx.tuples(
        "SELECT account_id, number, posting_id, effective_at, amount FROM late_leg"
        " WHERE account_id = ANY(%s)",
        (list(walks),),
    )
    sides: Counter[int] = Counter()
    for account, number, posting, moment, amount in rows:
        assert (posting, amount) == walks[account].path[number - 1]
        assert moment == entry_of[posting][1]
        sides[posting] += 1
    late = {entry_of[posting][0] for posting in sides}
    assert sides == {p: 2 for p, (entry, _) in entry_of.items() if entry in late}
    return late


async def _holds(
    tx: CellRead, ids: list[int], names: dict[int, Account]
) -> dict[int, dict[str, Any]]:
    rows = await tx.tuples(
        "SELECT id, available_id, held_id, amount, remaining, state, reason, subject, expires_at"
        " FROM hold WHERE held_id = ANY(%s)",
        (ids,),
    )
    return {
        row[0]: {
            "available": names[row[1]], "held": names[row[2]], "amount": row[3],
            "remaining": row[4], "state": row[5], "reason": row[6], "subject": row[7],
            "expires_at": row[8],
        }
        for row in rows
    }  # fmt: skip
