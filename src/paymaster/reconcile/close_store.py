"""The SQL of closing a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from paymaster.db.tx import CellTx, ReadTx, json


@dataclass(frozen=True, slots=True)
class DayClose:
    """A closed day as stored; `totals` is what was signed, with all amounts as decimal strings."""

    day: date
    closed_seq: int
    totals: dict[str, Any]
    digest: bytes
    signature: bytes
    key_id: str
    actor: str
    closed_at: datetime


async def find(tx: ReadTx, day: date) -> DayClose | None:
    """A closed day."""
    return await tx.maybe(
        "SELECT day, closed_seq, totals, digest, signature, key_id, actor, closed_at"
        " FROM day_close WHERE day = %s",
        (day,),
        DayClose,
    )


async def last(tx: ReadTx) -> DayClose | None:
    """The latest closed day."""
    return await tx.maybe(
        "SELECT day, closed_seq, totals, digest, signature, key_id, actor, closed_at"
        " FROM day_close ORDER BY day DESC LIMIT 1",
        None,
        DayClose,
    )


async def listing(tx: ReadTx, before: date | None, limit: int) -> list[DayClose]:
    """Closed days, newest first."""
    return await tx.fetch(
        """
        SELECT day, closed_seq, totals, digest, signature, key_id, actor, closed_at
        FROM day_close WHERE %(before)s::date IS NULL OR day < %(before)s
        ORDER BY day DESC LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
        DayClose,
    )


async def insert(tx: CellTx, row: DayClose) -> None:
    """Write a closed day."""
    ordinal = tx.append()
    await tx.execute(
        """
        INSERT INTO day_close (day, closed_seq, totals, digest, signature, key_id, actor,
            commit_id, ordinal, closed_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            row.day,
            row.closed_seq,
            json(row.totals),
            row.digest,
            row.signature,
            row.key_id,
            row.actor,
            tx.commit_id,
            ordinal,
            row.closed_at,
        ),
    )


@dataclass(frozen=True, slots=True)
class DayDraft:
    """A day whose books are closed and whose totals wait to be signed."""

    day: date
    closed_seq: int
    totals: dict[str, Any]
    actor: str


async def draft(tx: ReadTx) -> DayDraft | None:
    """The day that waits, if there is one."""
    return await tx.maybe("SELECT day, closed_seq, totals, actor FROM day_draft", None, DayDraft)


async def lock_draft(tx: CellTx) -> DayDraft | None:
    """The same, locked."""
    return await tx.maybe(
        "SELECT day, closed_seq, totals, actor FROM day_draft FOR UPDATE", None, DayDraft
    )


async def insert_draft(tx: CellTx, row: DayDraft) -> None:
    """Write down what shall be signed."""
    await tx.execute(
        "INSERT INTO day_draft (id, day, closed_seq, totals, actor, made_at)"
        " VALUES (1, %s, %s, %s, %s, %s)",
        (row.day, row.closed_seq, json(row.totals), row.actor, tx.now),
    )


async def drop_draft(tx: CellTx) -> None:
    """It was signed."""
    await tx.execute("DELETE FROM day_draft WHERE id = 1")


async def close_through(tx: CellTx, day: date) -> bool:
    """From this commit on nothing new takes effect in the day or before it; False if it was so."""
    moved = await tx.execute(
        "UPDATE head SET closed_through = %s"
        " WHERE id = 1 AND (closed_through IS NULL OR closed_through < %s)",
        (day, day),
    )
    return moved == 1


async def head(tx: ReadTx) -> tuple[int, date | None]:
    """How far the cell has come: seq, and the day through which it is closed."""
    rows = await tx.tuples("SELECT seq, closed_through FROM head WHERE id = 1")
    return rows[0][0], rows[0][1]


@dataclass(frozen=True, slots=True)
class KindTotal:
    """The accounts of one kind and currency: how many, and their balances (in - out)."""

    seq: int
    kind: str
    asset: str
    accounts: int
    balance: int


async def totals(tx: ReadTx) -> list[KindTotal]:
    """All accounts of the cell by kind and currency, and the seq of the same snapshot."""
    return await tx.fetch(
        """
        SELECT (SELECT seq FROM head WHERE id = 1) AS seq, kind, asset, count(*)::int AS accounts,
            sum(balance)::bigint AS balance
        FROM account GROUP BY kind, asset ORDER BY kind, asset
        """,
        None,
        KindTotal,
    )


async def intercell(tx: ReadTx) -> dict[tuple[int, str], int]:
    """Balances with the other cells, by cell and currency."""
    rows = await tx.tuples("SELECT owner_id, asset, balance FROM account WHERE kind = 'intercell'")
    return {(row[0], row[1]): row[2] for row in rows}


async def open_breaks(
    tx: ReadTx, account_ids: Sequence[int], until: date, limit: int
) -> list[tuple[int, str, str]]:
    """Open breaks up to a day of some accounts: id, kind, subject."""
    rows = await tx.tuples(
        "SELECT id, kind, subject FROM break WHERE state = 'open' AND day <= %s"
        " AND rail_account_id = ANY(%s) ORDER BY day, id LIMIT %s",
        (until, list(account_ids), limit),
    )
    return [(row[0], row[1], row[2]) for row in rows]
