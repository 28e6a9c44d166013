"""The SQL of the books. Private to the ledger; one statement a function.

Looking up what is posted already is a statement of its own AFTER the accounts are locked, so that
it sees what was committed while this transaction waited (one statement for both gave wrong
verdicts, measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from paymaster.db.tx import Asked, CellTx, ReadTx
from paymaster.ledger.chart import Account
from paymaster.ledger.decide import AccountRow, HoldRow


@dataclass(frozen=True, slots=True)
class Standing:
    """How the books stand once the accounts are locked: nothing recorded lies after `recorded_at`.

    `closed_through` is the last business day that is closed.
    """

    recorded_at: datetime
    closed_through: date | None
    known: dict[int, bytes]
    """Digests of those entries that are posted already."""


async def ask_standing(tx: ReadTx, ids: Sequence[int]) -> Asked:
    """Ask for what has been recorded, and which of these entries with it; see `standing`."""
    return await tx.ask(
        "SELECT id, digest, NULL::timestamptz, NULL::date FROM entry WHERE id = ANY(%s)"
        " UNION ALL SELECT NULL, NULL, recorded_at, closed_through FROM head WHERE id = 1",
        (list(ids),),
    )


async def standing(asked: Asked) -> Standing:
    """What `ask_standing` has asked for."""
    *rows, (_, _, recorded_at, closed) = await asked.rows()
    return Standing(recorded_at, closed, {row[0]: bytes(row[1]) for row in rows})


async def insert_holds(tx: CellTx, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write `(id, available, held, amount, reason, subject, expires_at)` as open holds."""
    columns = list(zip(*rows, strict=True))
    await tx.send(
        """
        INSERT INTO hold (id, available_id, held_id, amount, remaining, state, reason, subject,
            created_at, expires_at, version)
        SELECT i, a, h, m, m, 'open', r, s, %s, x, 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[],
            %s::text[], %s::timestamptz[]) AS u (i, a, h, m, r, s, x)
        """,
        (tx.now, *(list(column) for column in columns)),
    )


async def lock_holds(tx: CellTx, ids: Sequence[int]) -> dict[int, HoldRow]:
    """Lock holds in order of id."""
    rows = await tx.tuples(
        """
        SELECT h.id, a.kind, a.owner_id, a.asset, h.remaining, h.state
        FROM hold h JOIN account a ON a.id = h.held_id
        WHERE h.id = ANY(%s) ORDER BY h.id FOR UPDATE OF h
        """,
        (list(ids),),
    )
    return {
        number: HoldRow(number, Account(kind, owner, asset), remaining, state)
        for number, kind, owner, asset, remaining, state in rows
    }


async def update_holds(tx: CellTx, rows: Sequence[HoldRow]) -> None:
    """Write locked holds that were drawn on."""
    await tx.send(
        """
        UPDATE hold h SET remaining = u.r, state = u.s, version = h.version + 1
        FROM unnest(%s::bigint[], %s::bigint[], %s::text[]) AS u (i, r, s)
        WHERE h.id = u.i AND h.state = 'open'
        """,
        ([row.id for row in rows], [row.remaining for row in rows], [row.state for row in rows]),
    )


async def find_account(tx: ReadTx, account: Account) -> AccountRow | None:
    """An account without locking it."""
    rows = await tx.tuples(
        "SELECT id, balance, floor, ceiling, postings, last_posting_id, closed_at IS NOT NULL"
        " FROM account WHERE kind = %s AND owner_id = %s AND asset = %s",
        tuple(account),
    )
    for number, balance, floor, ceiling, postings, last, closed in rows:
        return AccountRow(number, account, balance, floor, ceiling, postings, last, closed)
    return None
