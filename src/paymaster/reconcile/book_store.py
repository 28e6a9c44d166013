"""The SQL on attempts and orders in the payouts' cells, as far as statements prove them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from paymaster.db.tx import CellTx, ReadTx
from paymaster.reconcile.decide import TransferRow


@dataclass(slots=True)
class AttemptRow:
    """An attempt while lines are booked on it; changed in place, written at the end."""

    id: int
    key: str
    batch_id: int
    rail_account_id: int
    amount: int
    asset: str
    state: str
    withdrawal_id: int | None
    booked_on: date | None
    booked_line: str | None
    returned_on: date | None
    returned_line: str | None
    apart: bool


async def lock_attempts(
    tx: CellTx, keys: Sequence[str], batch_keys: Sequence[str]
) -> list[AttemptRow]:
    """Attempts by their own key or as part of an order, locked in order of id."""
    return await tx.fetch(
        """
        SELECT id, key, batch_id, rail_account_id, amount, asset, state, withdrawal_id, booked_on,
            booked_line, returned_on, returned_line, apart
        FROM attempt
        WHERE key = ANY(%s) OR batch_id = ANY(
            ARRAY(SELECT b.id FROM batch b WHERE b.batch_key = ANY(%s)))
        ORDER BY id FOR UPDATE
        """,
        (list(keys), list(batch_keys)),
        AttemptRow,
    )


async def find_batches(tx: ReadTx, keys: Sequence[str]) -> dict[str, int]:
    """Orders by key."""
    rows = await tx.tuples(
        "SELECT batch_key, id FROM batch WHERE batch_key = ANY(%s)", (list(keys),)
    )
    return {row[0]: row[1] for row in rows}


async def write_bookings(tx: CellTx, rows: Sequence[AttemptRow]) -> None:
    """Write on which day, by which line, attempts were booked and came back."""
    await tx.execute(
        """
        UPDATE attempt a SET booked_on = u.b, booked_line = u.l, returned_on = u.r,
            returned_line = u.m, apart = u.p, version = a.version + 1
        FROM unnest(%s::bigint[], %s::date[], %s::text[], %s::date[], %s::text[], %s::boolean[])
            AS u (i, b, l, r, m, p)
        WHERE a.id = u.i
        """,
        (
            [row.id for row in rows],
            [row.booked_on for row in rows],
            [row.booked_line for row in rows],
            [row.returned_on for row in rows],
            [row.returned_line for row in rows],
            [row.apart for row in rows],
        ),
    )


@dataclass(frozen=True, slots=True)
class UnbookedRow:
    """An attempt whose proof on a statement is overdue. `by_hand`: only a person has said it."""

    id: int
    amount: int
    asset: str
    is_return: bool
    since: datetime
    by_hand: bool


async def unbooked(
    tx: ReadTx, rail_account_id: int, before: datetime, limit: int
) -> list[UnbookedRow]:
    """Paid or returned before a moment, without the line that shows it; oldest first.

    So is what was refused although one line showed it: the other must show it on the other side.
    And what a person booked as come back, of which the provider has said nothing.
    """
    return await tx.fetch(
        """
        (SELECT id, amount, asset, false AS is_return, resolved_at AS since, false AS by_hand
         FROM attempt
         WHERE rail_account_id = %(account)s AND booked_on IS NULL
            AND state IN ('paid', 'returned') AND resolved_at < %(before)s
         ORDER BY id LIMIT %(limit)s)
        UNION ALL
        (SELECT id, amount, asset, true, resolved_at, false FROM attempt
         WHERE rail_account_id = %(account)s AND returned_on IS NULL
            AND state = 'returned' AND resolved_at < %(before)s
         ORDER BY id LIMIT %(limit)s)
        UNION ALL
        (SELECT id, amount, asset, returned_on IS NULL, resolved_at, false FROM attempt
         WHERE rail_account_id = %(account)s AND (booked_on IS NULL) <> (returned_on IS NULL)
            AND state = 'rejected' AND resolved_at < %(before)s
         ORDER BY id LIMIT %(limit)s)
        UNION ALL
        (SELECT a.id, a.amount, a.asset, true, m.moved_at, true FROM withdrawal w
            JOIN attempt a ON a.withdrawal_id = w.id AND a.state = 'paid'
            JOIN withdrawal_move m ON m.withdrawal_id = w.id AND m.number = w.number
         WHERE w.state = 'returned' AND w.rail_account_id = %(account)s
            AND a.returned_on IS NULL AND m.moved_at < %(before)s
         ORDER BY a.id LIMIT %(limit)s)
        ORDER BY is_return, id LIMIT %(limit)s
        """,
        {"account": rail_account_id, "before": before, "limit": limit},
        UnbookedRow,
    )


async def find_transfers(tx: ReadTx, keys: Sequence[str]) -> dict[str, TransferRow]:
    """Treasury transfers by the keys of their attempts."""
    rows = await tx.fetch(
        """
        SELECT a.key, t.id AS transfer_id, a.id AS attempt_id, t.from_account_id, t.to_account_id,
            t.amount, t.asset
        FROM attempt a JOIN transfer t ON t.id = a.transfer_id WHERE a.key = ANY(%s)
        """,
        (list(keys),),
        TransferRow,
    )
    return {row.key: row for row in rows}


async def mark_booked(tx: CellTx, attempt_id: int, day: date, line: str) -> None:
    """A transfer's attempt is on the statement of the paying account."""
    await tx.execute(
        "UPDATE attempt SET booked_on = %s, booked_line = %s, version = version + 1 WHERE id = %s",
        (day, line, attempt_id),
    )


async def mark_returned(tx: CellTx, attempt_id: int, day: date, line: str) -> None:
    """A transfer's attempt came back."""
    await tx.execute(
        "UPDATE attempt SET returned_on = %s, returned_line = %s, version = version + 1"
        " WHERE id = %s",
        (day, line, attempt_id),
    )
