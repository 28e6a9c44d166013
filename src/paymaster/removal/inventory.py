"""What a cell holds at its end: rows, balances, the end of its chain, and what is not finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import LiteralString, cast

from paymaster.db import seal
from paymaster.db.seal import Head
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Conflict
from paymaster.kernel.money import Money
from paymaster.ledger.chart import KINDS
from paymaster.removal.certificate import Balance, CellEnd, ChainEnd, moment
from paymaster.removal.directory import Place
from paymaster.withdraw.machine import State

_ENDED = sorted({State.PAID, State.FAILED, State.RETURNED, State.DENIED, State.CANCELLED})
_OWED = sorted(kind.name for kind in KINDS.values() if kind.owner == "user" and kind.shown > 0)


@dataclass(frozen=True, slots=True)
class Working:
    """A process that may make ids in a cell."""

    holder: str
    until: str


async def working(tx: CellRead) -> list[Working]:
    """Who holds a number of the cell that has not run out."""
    rows = await tx.tuples(
        "SELECT holder, expires_at FROM worker WHERE expires_at > %s ORDER BY number", (tx.now,)
    )
    return [Working(holder, moment(until)) for holder, until in rows]


async def unfinished(tx: CellRead) -> list[str]:
    """Money owed to users, withdrawals and holds under way, orders, days that were not closed."""
    found: list[str] = []
    owed = await tx.tuples(
        "SELECT asset, sum(balance)::bigint FROM account WHERE kind = ANY(%s) AND balance <> 0"
        " GROUP BY asset ORDER BY asset",
        (_OWED,),
    )
    found += [f"{Money(minor, asset)} owed to users" for asset, minor in owed]
    states = await tx.tuples(
        "SELECT state, count(*) FROM withdrawal WHERE state <> ALL(%s) GROUP BY state"
        " ORDER BY state",
        (_ENDED,),
    )
    found += [f"{count} withdrawals {state}" for state, count in states]
    holds = await tx.value("SELECT count(*) FROM hold WHERE state = 'open'")
    found += [f"{holds} open holds"] if holds else []
    orders = await tx.value("SELECT count(*) FROM legal_hold WHERE lifted_at IS NULL")
    found += [f"{orders} orders of authorities not lifted"] if orders else []
    days, first = (
        await tx.tuples(
            "SELECT count(DISTINCT e.effective_day), min(e.effective_day) FROM entry e"
            " JOIN head h ON h.id = 1"
            " AND e.effective_day > coalesce(h.closed_through, '-infinity'::date)"
        )
    )[0]
    found += [f"{days} days with entries are not closed, from {first}"] if days else []
    return found


async def take(tx: CellTx, place: Place, findings: int) -> CellEnd:
    """The cell as it is, while nobody can write to it: waits for those who do.

    Raises Conflict `environment-changed` when something was committed that is not sealed.
    """
    tables = await _tables(tx)
    await tx.execute(_locking(tables))
    head = await seal.head(tx, f"cell:{place.number}")
    if head is None or head.last_seq != await seal.recorded(tx):
        raise Conflict(
            "environment-changed",
            f"Somebody wrote to cell {place.number} meanwhile; give the command again.",
        )
    rows = await tx.tuples(_counting(tables))
    closed = await tx.value("SELECT closed_through FROM head WHERE id = 1")
    return CellEnd(
        place.number,
        place.server,
        place.schema_name,
        place.treasury,
        _end(head, findings),
        None if closed is None else closed.isoformat(),
        dict(rows),
        await _balances(tx),
    )


def _end(head: Head, findings: int) -> ChainEnd:
    return ChainEnd(
        head.block,
        head.format,
        str(head.last_seq),
        head.hash.hex(),
        moment(head.sealed_at),
        findings,
    )


async def _balances(tx: CellRead) -> list[Balance]:
    rows = await tx.tuples(
        "SELECT kind, asset, scale, count(*), sum(balance)::text FROM account"
        " GROUP BY kind, asset, scale ORDER BY kind, asset, scale"
    )
    return [Balance(*row) for row in rows]


async def _tables(tx: CellRead) -> list[str]:
    """All tables of the schema; partitions are part of theirs."""
    rows = await tx.tuples(
        "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " ORDER BY c.relname"
    )
    return [row[0] for row in rows]


def _locking(tables: list[str]) -> LiteralString:
    names = ", ".join(f'"{name}"' for name in tables)
    return cast("LiteralString", f"LOCK TABLE {names} IN SHARE MODE")


def _counting(tables: list[str]) -> LiteralString:
    parts = [f"SELECT '{name}', count(*) FROM \"{name}\"" for name in tables]
    return cast("LiteralString", " UNION ALL ".join(parts))
