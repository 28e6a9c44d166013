"""The SQL of refunds. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import LiteralString

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.money import Money


@dataclass(frozen=True, slots=True)
class RefundRow:
    """A refund as it stands. `found`: what the last look-up since the last order said."""

    id: int
    key: str
    charge_id: int
    rail_account_id: int
    amount: int
    asset: str
    reason: str
    state: str
    maybe_there: bool
    found: str | None
    provider_id: str | None
    code: str | None
    detail: str | None
    entry_held: int
    entry_done: int
    entry_back: int
    created_at: datetime
    ended_at: datetime | None
    booked_on: date | None
    booked_line: str | None
    due_at: datetime | None
    tries: int
    lease_token: int
    actor: str
    trace_id: str

    @property
    def money(self) -> Money:
        """What is given back."""
        return Money(self.amount, self.asset)


_ROW: LiteralString = """
    SELECT id, key, charge_id, rail_account_id, amount, asset, reason, state, maybe_there, found,
        provider_id, code, detail, entry_held, entry_done, entry_back, created_at, ended_at,
        booked_on, booked_line, due_at, tries, lease_token, actor, trace_id
    FROM charge_refund
"""


async def insert(tx: CellTx, row: RefundRow) -> None:
    """Write a refund, due at once."""
    await tx.execute(
        """
        INSERT INTO charge_refund (id, key, charge_id, rail_account_id, amount, asset, reason,
            state, maybe_there, entry_held, entry_done, entry_back, created_at, due_at, tries,
            lease_token, actor, trace_id, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, false, %s, %s, %s, %s, %s, 0, 0, %s, %s, 1)
        """,
        (
            row.id,
            row.key,
            row.charge_id,
            row.rail_account_id,
            row.amount,
            row.asset,
            row.reason,
            row.state,
            row.entry_held,
            row.entry_done,
            row.entry_back,
            row.created_at,
            row.due_at,
            row.actor,
            row.trace_id,
        ),
    )


async def find(tx: CellRead, refund_id: int) -> RefundRow | None:
    """A refund by id."""
    return await tx.maybe(_ROW + "WHERE id = %s", (refund_id,), RefundRow)


async def of_charge(tx: CellRead, charge_id: int) -> list[RefundRow]:
    """The refunds of a charge, oldest first."""
    return await tx.fetch(_ROW + "WHERE charge_id = %s ORDER BY id", (charge_id,), RefundRow)


async def lock(tx: CellTx, keys: Sequence[str]) -> dict[str, RefundRow]:
    """Lock refunds by key, in order of id; unknown keys are left out. Lock their charges before."""
    rows = await tx.fetch(
        _ROW + "WHERE key = ANY(%s) ORDER BY id FOR UPDATE", (sorted(set(keys)),), RefundRow
    )
    return {row.key: row for row in rows}


async def charges_of(tx: CellRead, keys: Sequence[str]) -> dict[str, int]:
    """By key of a refund, the charge it is of."""
    return dict(
        await tx.tuples(
            "SELECT key, charge_id FROM charge_refund WHERE key = ANY(%s)", (list(keys),)
        )
    )


async def take_due(tx: CellTx, rail_account_id: int, limit: int) -> list[RefundRow]:
    """Lock refunds of an account whose time has come, those that waited longest first."""
    return await tx.fetch(
        _ROW
        + """
        WHERE rail_account_id = %s AND due_at <= %s ORDER BY due_at, id LIMIT %s
        FOR UPDATE SKIP LOCKED
        """,
        (rail_account_id, tx.now, limit),
        RefundRow,
    )


async def write(tx: CellTx, row: RefundRow) -> None:
    """Write what has become of a locked refund."""
    await tx.execute(
        """
        UPDATE charge_refund SET state = %s, maybe_there = %s, found = %s, provider_id = %s,
            code = %s, detail = %s, ended_at = %s, due_at = %s, tries = %s, lease_token = %s,
            version = version + 1
        WHERE id = %s
        """,
        (
            row.state,
            row.maybe_there,
            row.found,
            row.provider_id,
            row.code,
            row.detail,
            row.ended_at,
            row.due_at,
            row.tries,
            row.lease_token,
            row.id,
        ),
    )


async def mark_booked(tx: CellTx, refund_id: int, day: date, line: str) -> None:
    """A refund is on a statement."""
    await tx.execute(
        "UPDATE charge_refund SET booked_on = %s, booked_line = %s, version = version + 1"
        " WHERE id = %s",
        (day, line, refund_id),
    )
