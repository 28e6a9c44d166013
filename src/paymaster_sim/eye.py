"""Looking on: what is due, and what there is, read past all processes and all rights.

A role of ours looks every half second whether something is due. Thirty days of that would be five
million looks that find nothing; so this looks instead, and wakes the roles that have something to
do. A role that is woken does what it always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from paymaster_sim.clock import START
from paymaster_sim.place import CELLS


class Due(NamedTuple):
    """A lane of a role has something to do; `cell` is 0 where the lane is for all cells."""

    role: str
    lane: str
    cell: int


_DUE = """
    SELECT 'screen', 'screen', {n} WHERE EXISTS (SELECT FROM {s}.withdrawal
        WHERE state IN ('requested', 'screening', 'challenged') AND due_at <= %(now)s)
    UNION ALL SELECT 'dispatch', 'dispatch', {n} WHERE EXISTS (SELECT FROM {s}.withdrawal
            WHERE state IN ('approved', 'queued') AND due_at <= %(now)s
                AND (state = 'approved' OR rail_account_id IS DISTINCT FROM %(bank)s))
        OR EXISTS (SELECT FROM {s}.payout_window WHERE due_at <= %(now)s)
        OR EXISTS (SELECT FROM {s}.batch WHERE due_at <= %(now)s)
        OR EXISTS (SELECT FROM {s}.attempt WHERE due_at <= %(now)s)
    UNION ALL SELECT 'dispatch', 'automatic', {n} WHERE EXISTS (SELECT FROM {s}.automatic_payout
        WHERE mode = 'schedule' AND due_at <= %(now)s)
    UNION ALL SELECT 'settle', 'apply', {n} WHERE EXISTS (
        SELECT FROM {s}.inbox WHERE due_at <= %(now)s)
    UNION ALL SELECT 'intake', 'mature', {n} WHERE EXISTS (
        SELECT FROM {s}.reward WHERE due_at <= %(now)s)
    UNION ALL SELECT 'relay', 'relay', {n} WHERE EXISTS (
        SELECT FROM (SELECT id FROM {s}.commit WHERE last_seq > coalesce(
            (SELECT seq FROM {s}.cursor WHERE name = 'relay'), 0) ORDER BY last_seq) c
        JOIN {s}.outbox o ON o.commit_id = c.id WHERE o.target_cell IS NOT NULL)
"""
_DUE_TREASURY = """
    UNION ALL SELECT 'reconcile', 'match', 0 WHERE EXISTS (
        SELECT FROM {s}.statement_line WHERE due_at <= %(now)s)
"""
_NEXT = """
    SELECT min(due_at) FROM {s}.withdrawal WHERE due_at IS NOT NULL
        AND (state <> 'queued' OR rail_account_id IS DISTINCT FROM %(bank)s)
    UNION ALL SELECT min(due_at) FROM {s}.batch
    UNION ALL SELECT min(due_at) FROM {s}.attempt
    UNION ALL SELECT min(due_at) FROM {s}.inbox
    UNION ALL SELECT min(due_at) FROM {s}.reward
    UNION ALL SELECT min(due_at) FROM {s}.statement_line
    UNION ALL SELECT min(due_at) FROM {s}.automatic_payout WHERE mode = 'schedule'
"""


def _everywhere(statement: str) -> str:
    return " UNION ALL ".join(statement.format(n=n, s=f"cell_{n}") for n in CELLS)


@dataclass(frozen=True, slots=True)
class Seen:
    """A withdrawal as it stands; `automatic` when nobody has asked for it."""

    cell: int
    id: int
    user_id: int
    destination_id: int
    state: str
    amount: int
    fee: int
    rail_account_id: int | None
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """An attempt as it stands."""

    cell: int
    id: int
    withdrawal_id: int | None
    key: str
    state: str
    amount: int


class Eye:
    """One look at a database, through a connection of its own that changes nothing."""

    def __init__(self, dsn: str, bank: int) -> None:
        self._connection: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("SET default_transaction_read_only TO on")
        self._connection.execute("SET plan_cache_mode TO force_generic_plan")
        self._bank = bank
        first = f"cell_{CELLS[0]}"
        self._due = _everywhere(_DUE) + _DUE_TREASURY.format(s=first)
        self._next = f"SELECT min(found) FROM ({_everywhere(_NEXT)}) AS n (found)"  # noqa: S608 - names of ours
        # Looked up all the time, and planned once: by the indexes of what is due.
        self._connection.execute("SET enable_seqscan TO off")
        self.due(START)
        self.next_due()
        self._connection.execute("SET enable_seqscan TO on")

    def close(self) -> None:
        """Look no more."""
        self._connection.close()

    def rows(self, statement: str, **params: object) -> list[tuple[Any, ...]]:
        """What a statement reads."""
        return self._connection.execute(statement.encode(), params, prepare=True).fetchall()

    def due(self, now: datetime) -> list[Due]:
        """What has something to do."""
        return [Due(*row) for row in self.rows(self._due, now=now, bank=self._bank)]

    def next_due(self) -> datetime | None:
        """When something falls due by itself; what has been due for a while is due now."""
        found: datetime | None = self.rows(self._next, bank=self._bank)[0][0]
        return found

    def withdrawals(self) -> list[Seen]:
        """All withdrawals, oldest first."""
        one = (
            "SELECT {n}, w.id, w.user_id, w.destination_id, w.state, w.amount, w.fee,"
            " w.rail_account_id, r.key IS NOT NULL FROM {s}.withdrawal w"
            " LEFT JOIN {s}.automatic_run r ON r.withdrawal_id = w.id"
        )
        return [Seen(*row) for row in self.rows(_everywhere(one) + " ORDER BY 1, 2")]

    def orders(self) -> list[Order]:
        """All attempts, oldest first."""
        one = "SELECT {n}, id, withdrawal_id, key, state, amount FROM {s}.attempt"
        return [Order(*row) for row in self.rows(_everywhere(one) + " ORDER BY 1, 2")]

    def legal_holds(self) -> list[tuple[int, int]]:
        """`(cell, id)` of what authorities hold, oldest first."""
        one = "SELECT {n}, id FROM {s}.legal_hold WHERE lifted_at IS NULL"
        return [(row[0], row[1]) for row in self.rows(_everywhere(one) + " ORDER BY 1, 2")]

    def awaiting(self) -> list[int]:
        """The cells in which rewards wait for money."""
        one = "SELECT {n} WHERE EXISTS (SELECT FROM {s}.reward WHERE state = 'awaiting_funds')"
        return [row[0] for row in self.rows(_everywhere(one))]

    def seqs(self) -> dict[int, int]:
        """The last place in the order of commits of each cell."""
        return dict(self.rows(_everywhere("SELECT {n}, seq FROM {s}.head")))

    def rewards(self, state: Sequence[str]) -> list[tuple[int, int, int]]:
        """`(cell, id, amount)` of rewards in some states, oldest first."""
        one = "SELECT {n}, id, amount FROM {s}.reward WHERE state = ANY(%(state)s)"
        rows = self.rows(_everywhere(one) + " ORDER BY 1, 2", state=list(state))
        return [(row[0], row[1], row[2]) for row in rows]
