"""The SQL of charges. Private to the package; one statement a function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import LiteralString

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import Account


@dataclass(frozen=True, slots=True)
class ChargeRow:
    """A charge as it stands. `found`: what the last look-up since the last opening said."""

    id: int
    key: str
    purpose: str
    target_id: int
    rail_account_id: int
    amount: int
    asset: str
    method: str
    shows: str
    description: str
    state: str
    maybe_there: bool
    found: str | None
    provider_id: str | None
    code: str | None
    detail: str | None
    refunded: int
    entry_id: int
    created_at: datetime
    expires_at: datetime
    opened_at: datetime | None
    close_at: datetime | None
    paid_at: datetime | None
    ended_at: datetime | None
    booked_on: date | None
    booked_line: str | None
    due_at: datetime | None
    tries: int
    lease_token: int
    actor: str
    trace_id: str
    sealed: bytes | None = field(repr=False)

    @property
    def money(self) -> Money:
        """What the payer is asked for."""
        return Money(self.amount, self.asset)

    @property
    def target(self) -> Account:
        """The account that the money is for."""
        kind = "budget" if self.purpose == "campaign" else "available"
        return Account(kind, self.target_id, self.asset)

    def target_text(self, cell: int) -> str:
        """Whose it is, as text: `cp_...` or `us_...`."""
        return text_id("cp" if self.purpose == "campaign" else "us", cell, self.target_id)


_ROW: LiteralString = """
    SELECT id, key, purpose, target_id, rail_account_id, amount, asset, method, shows, description,
        state, maybe_there, found, provider_id, code, detail, refunded, entry_id, created_at,
        expires_at, opened_at, close_at, paid_at, ended_at, booked_on, booked_line, due_at,
        tries, lease_token, actor, trace_id, sealed
    FROM charge
"""


async def insert(tx: CellTx, row: ChargeRow) -> None:
    """Write a charge, due at once."""
    await tx.execute(
        """
        INSERT INTO charge (id, key, purpose, target_id, rail_account_id, amount, asset, method,
            shows, description, sealed, state, maybe_there, refunded, entry_id, created_at,
            expires_at, due_at, tries, lease_token, actor, trace_id, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, false, 0, %s, %s, %s, %s, 0, 0, %s,
            %s, 1)
        """,
        (
            row.id,
            row.key,
            row.purpose,
            row.target_id,
            row.rail_account_id,
            row.amount,
            row.asset,
            row.method,
            row.shows,
            row.description,
            row.sealed,
            row.state,
            row.entry_id,
            row.created_at,
            row.expires_at,
            row.due_at,
            row.actor,
            row.trace_id,
        ),
    )


async def find(tx: CellRead, charge_id: int) -> ChargeRow | None:
    """A charge by id."""
    return await tx.maybe(_ROW + "WHERE id = %s", (charge_id,), ChargeRow)


async def lock(tx: CellTx, keys: Sequence[str]) -> dict[str, ChargeRow]:
    """Lock charges by key, in order of id; unknown keys are left out."""
    rows = await tx.fetch(
        _ROW + "WHERE key = ANY(%s) ORDER BY id FOR UPDATE", (sorted(set(keys)),), ChargeRow
    )
    return {row.key: row for row in rows}


async def lock_ids(tx: CellTx, ids: Sequence[int]) -> dict[int, ChargeRow]:
    """Lock charges, in order of id; what does not exist is left out."""
    rows = await tx.fetch(
        _ROW + "WHERE id = ANY(%s) ORDER BY id FOR UPDATE", (sorted(set(ids)),), ChargeRow
    )
    return {row.id: row for row in rows}


async def due_accounts(tx: CellRead) -> list[int]:
    """Rail accounts with charges or refunds whose time has come."""
    rows = await tx.tuples(
        """
        SELECT rail_account_id FROM charge WHERE due_at <= %(now)s
        UNION SELECT rail_account_id FROM charge_refund WHERE due_at <= %(now)s ORDER BY 1
        """,
        {"now": tx.now},
    )
    return [row[0] for row in rows]


async def take_due(tx: CellTx, rail_account_id: int, limit: int) -> list[ChargeRow]:
    """Lock charges of an account whose time has come, those that waited longest first."""
    return await tx.fetch(
        _ROW
        + """
        WHERE rail_account_id = %s AND due_at <= %s ORDER BY due_at, id LIMIT %s
        FOR UPDATE SKIP LOCKED
        """,
        (rail_account_id, tx.now, limit),
        ChargeRow,
    )


async def listing(
    tx: CellRead,
    purpose: str | None,
    target_id: int | None,
    state: str | None,
    before: int | None,
    limit: int,
) -> list[ChargeRow]:
    """Charges, newest first: of a target, in a state, or all; those older than `before`."""
    return await tx.fetch(
        _ROW
        + """
        WHERE (%(purpose)s::text IS NULL OR (purpose = %(purpose)s AND target_id = %(target)s))
            AND (%(state)s::text IS NULL OR state = %(state)s)
            AND (%(before)s::bigint IS NULL OR id < %(before)s)
        ORDER BY id DESC LIMIT %(limit)s
        """,
        {
            "purpose": purpose,
            "target": target_id,
            "state": state,
            "before": before,
            "limit": limit,
        },
        ChargeRow,
    )


async def write(tx: CellTx, row: ChargeRow) -> None:
    """Write what has become of a locked charge."""
    await tx.execute(
        """
        UPDATE charge SET state = %s, maybe_there = %s, found = %s, provider_id = %s, code = %s,
            detail = %s, opened_at = %s, close_at = %s, paid_at = %s, due_at = %s, tries = %s,
            lease_token = %s, sealed = %s, ended_at = %s, version = version + 1
        WHERE id = %s
        """,
        (
            row.state,
            row.maybe_there,
            row.found,
            row.provider_id,
            row.code,
            row.detail,
            row.opened_at,
            row.close_at,
            row.paid_at,
            row.due_at,
            row.tries,
            row.lease_token,
            row.sealed,
            row.ended_at,
            row.id,
        ),
    )


async def set_refunded(tx: CellTx, charge_id: int, refunded: int) -> None:
    """Write how much of a locked charge is given back, or about to be."""
    await tx.execute(
        "UPDATE charge SET refunded = %s, version = version + 1 WHERE id = %s",
        (refunded, charge_id),
    )


async def mark_booked(tx: CellTx, charge_id: int, day: date, line: str) -> None:
    """A charge is on a statement."""
    await tx.execute(
        "UPDATE charge SET booked_on = %s, booked_line = %s, version = version + 1 WHERE id = %s",
        (day, line, charge_id),
    )
