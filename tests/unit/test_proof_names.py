"""What a proof says when the books do not come out: which account, which posting, which amount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import fields
from typing import Any

from paymaster.ledger.proof_names import Step, _add, _history, _name, _row_differs
from paymaster.ledger.proof_order import _places
from paymaster.ledger.proof_pages import LAST_ID, MOST, Difference
from paymaster.ledger.proof_sum import Archived, Books, Sight

FIRST: Step = (7, 1, 11, 100, "EUR")
SECOND: Step = (7, 2, 22, 400, "EUR")
ROW = SECOND
"""Of the account, which ends with its second posting."""


def test_where_a_row_and_its_last_posting_part() -> None:
    assert _row_differs(ROW, SECOND) == []
    assert _row_differs((7, 2, 22, 500, "EUR"), SECOND) == [
        Difference("balance", "7", "500", "400")
    ]
    assert _row_differs((7, 3, 33, 400, "EUR"), SECOND) == [
        Difference("posting-count", "7", "3 ending 33", "2 ending 22")
    ]


def test_where_one_posting_and_the_next_part() -> None:
    altered: Step = (7, 1, 11, 150, "EUR")
    assert _history({FIRST}, {altered}) == [Difference("history", "7/2", "11 -> 150", "11 -> 100")]
    assert _history(set(), {altered}) == [Difference("history", "7/2", "11 -> 150", "nothing")]
    assert _history({FIRST, SECOND}, {altered}) == [
        Difference("history", "7/2", "11 -> 150", "11 -> 100"),
        Difference("history", "7/2", "22 -> 400", "not followed"),
    ]


def test_what_is_said_of_one_account() -> None:
    assert _name(7, Counter({SECOND: 1, (7, 2, 22, 500, "EUR"): -1}), (7, 2, 22, 500, "EUR")) == [
        Difference("balance", "7", "500", "400")
    ]
    assert _name(7, Counter({FIRST: 1, SECOND: 1}), None) == [
        Difference("account-missing", "7", "posting 22", "no such account")
    ]
    dollars: Step = (7, 2, 22, 400, "USD")
    told = _name(7, Counter({dollars: 1, ROW: -1}), ROW)
    assert told[0] == Difference("currency", "22", "USD", "EUR")
    assert told[1:] == [
        Difference("balance", "7", "400", "0"),
        Difference("posting-count", "7", "2 ending 22", "0 ending 0"),
        Difference("history", "7/2", "22 -> 400", "not followed"),
    ]


def test_no_more_is_said_than_anybody_reads() -> None:
    many = Counter({(7, number, number, 1, "EUR"): 1 for number in range(1, 2 * MOST)})
    assert len(_name(7, many, (7, 0, 0, 0, "EUR"))) == MOST


def test_steps_that_cancel_out_are_forgotten() -> None:
    weights: Counter[tuple[Hashable, ...]] = Counter()
    _add(weights, [(1, "EUR", 1), (2, "EUR", 1), (1, "EUR", -1), (3, "EUR", -2)])
    assert dict(weights) == {(2, "EUR"): 1, (3, "EUR"): -2}


def test_a_sum_begins_with_nothing() -> None:
    begun = Books()
    assert {one.name: getattr(begun, one.name) or 0 for one in fields(Books)} == {
        one.name: 0 for one in fields(Books)
    }
    assert Archived().params() == {"archived_from": [], "archived_to": []}
    assert Archived(((5, 9),)).params() == {"archived_from": [0, 5], "archived_to": [1, 9]}


def test_a_sight_ends_where_its_last_piece_does() -> None:
    sight = Sight()
    assert sight.params("entry") == {"entry_ids": [0], "entry_seqs": [0, 0]}
    sight.add(100, 3)
    sight.add(LAST_ID, 4)
    assert sight.params("entry") == {
        "entry_ids": [0, 101, LAST_ID],
        "entry_seqs": [0, 3, 4, 0],
    }


class Rows:
    """A snapshot that gives the same rows to whoever asks first, and takes note of the second."""

    def __init__(self, rows: list[tuple[int, int, int]]) -> None:
        self.rows, self.late = rows, list[int]()

    async def tuples(self, _: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        if "ids" not in params:
            return list(self.rows)
        self.late = params["ids"]
        return [("7/2", "no late leg", "09:00")]


async def test_an_entry_outside_of_its_commit_is_named_and_one_within_is_looked_up() -> None:
    rows: Any = Rows([(9, 5, 3), (8, -1, 3), (7, 2, 3), (6, 3, 3), (5, 0, 3), (4, 0, -1)])
    found = await _places(rows, {"low": 0, "high": 9})
    assert [(one.check, one.subject) for one in found] == [
        ("entry-commit", "9"), ("entry-commit", "8"), ("entry-commit", "4"), ("late-leg", "7/2"),
    ]  # fmt: skip
    assert rows.late == [7, 6, 5]
