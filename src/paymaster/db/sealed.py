"""Which columns hold values that carry a wrapped key, and the statements that wrap them anew.

Two kinds of column are sealed. Those under the key of a user name no KEK: it is enough to wrap
that user's key in `data_key` anew. Those that `Sealer.seal_bytes` made carry their own wrapped key
in front. A test holds this list against the catalogue: a new `bytea` column must say what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, LiteralString, cast

from paymaster.db.tx import ReadTx, Writes
from paymaster.secrets.port import Wrapped
from paymaster.secrets.sealing import Sealer

CELL, CONTROL = frozenset({"cell"}), frozenset({"control"})
BOTH = CELL | CONTROL


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of a table; `key` is the table's primary key as `name type`.

    `fixed` is a table whose rows never change: its keys are wrapped anew beside it, in
    `sealed_key`, by its one key column.
    """

    table: str
    kinds: frozenset[str]
    key: tuple[tuple[str, str], ...]
    fixed: bool = False


def _by_id(table: str, kinds: frozenset[str] = CELL, *, fixed: bool = False) -> SealedColumn:
    return SealedColumn(table, kinds, (("id", "bigint"),), fixed)


DATA_KEY = SealedColumn("data_key", CELL, (("user_id", "bigint"),))

COLUMNS: tuple[SealedColumn, ...] = (
    DATA_KEY,
    SealedColumn("inbox", BOTH, (("source", "text"), ("message_id", "text"))),
    _by_id("batch"),
    SealedColumn("confirmation", CELL, (("attempt_id", "bigint"),)),
    _by_id("charge"),
    _by_id("rail_file"),
    _by_id("statement_line"),
    _by_id("dead_letter", fixed=True),
    _by_id("webhook_secret", CONTROL),
)
"""Every column under the KEK, all named `sealed` but the wrapped keys of users."""

UNDER_USER_KEY = frozenset({"pii.sealed", "destination.sealed", "factor.sealed"})
"""Columns under a user's own key."""


def columns(kind: str) -> tuple[SealedColumn, ...]:
    """Those of a `control` or `cell` schema."""
    return tuple(column for column in COLUMNS if kind in column.kinds)


@dataclass(frozen=True, slots=True)
class Window:
    """Rows in the order of their keys: those not under the key asked for, and the last one."""

    stale: Sequence[tuple[str, ...]]
    last: tuple[str, ...] | None


async def look(
    tx: ReadTx, column: SealedColumn, key_id: str, after: Sequence[str] | None, limit: int
) -> Window:
    """The next `limit` rows after a key; nothing is locked and no body is read."""
    given = {**_keys(column, after), "key_id": key_id, "head": _head(key_id), "limit": limit}
    rows = await tx.tuples(_look(column, first=after is None), given)
    stale = [tuple(map(str, row[:-1])) for row in rows if not row[-1]]
    return Window(stale, tuple(map(str, rows[-1][:-1])) if rows else None)


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What became of some rows: wrapped anew, left because another holds them, and not to open."""

    changed: int
    busy: int
    stuck: Sequence[tuple[str, ...]]


async def take(tx: Writes, column: SealedColumn, keys: Sequence[tuple[str, ...]]) -> list[Any]:
    """The rows of these keys, locked; not those that somebody else holds. Key, value, key id."""
    return await tx.tuples(_take(column), _many(column, keys))


async def put(
    tx: Writes, column: SealedColumn, rows: Sequence[tuple[tuple[str, ...], bytes, str]]
) -> None:
    """Write values that were wrapped anew: key, value, id of the KEK."""
    given: dict[str, Any] = _many(column, [row[0] for row in rows])
    given |= {"values": [row[1] for row in rows], "key_ids": [row[2] for row in rows]}
    await tx.execute(_put(column), given)


async def counts(tx: ReadTx, column: SealedColumn) -> dict[str, int]:
    """How many values there are under each KEK. Reads the whole table."""
    rows = await tx.tuples(_counts(column))
    return {row[0]: row[1] for row in rows}


async def beside(tx: ReadTx, table: str, row_id: int) -> Wrapped | None:
    """The key of a value in a table that never changes, if it was wrapped anew."""
    rows = await tx.tuples(
        "SELECT kek_id, wrapped FROM sealed_key WHERE name = %s AND row_id = %s", (table, row_id)
    )
    return Wrapped(rows[0][0], rows[0][1]) if rows else None


async def open_fixed(
    tx: ReadTx, sealer: Sealer, table: str, row_id: int, sealed: bytes, context: bytes
) -> bytes:
    """Open a value in a table that never changes. Raises Broken as `Sealer.open_bytes`."""
    return sealer.open_bytes(sealed, context, await beside(tx, table, row_id))


def _head(key_id: str) -> bytes:
    """How a value under this KEK begins; see `paymaster.secrets.sealing`."""
    name = key_id.encode()
    return b"\x02" + len(name).to_bytes(1, "big") + name


def _keys(column: SealedColumn, key: Sequence[str] | None) -> dict[str, Any]:
    return {f"k{i}": None if key is None else key[i] for i in range(len(column.key))}


def _many(column: SealedColumn, keys: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    return {f"k{i}": [key[i] for key in keys] for i in range(len(column.key))}


def _names(column: SealedColumn) -> str:
    return ", ".join(f"t.{name}" for name, _ in column.key)


def _arrays(column: SealedColumn) -> str:
    return ", ".join(f"%(k{i})s::{kind}[]" for i, (_, kind) in enumerate(column.key))


def _is_of(column: SealedColumn) -> str:
    return " AND ".join(f"t.{name} = n.{name}" for name, _ in column.key)


def _plain(column: SealedColumn) -> str:
    return ", ".join(name for name, _ in column.key)


_BESIDE = "LEFT JOIN sealed_key k ON k.name = '{}' AND k.row_id = t.id"
_KEK_ID = (
    "CASE WHEN octet_length(t.sealed) > 2 AND get_byte(t.sealed, 0) = 2"
    " THEN encode(substring(t.sealed FROM 3 FOR get_byte(t.sealed, 1)), 'escape')"
    " ELSE 'unreadable' END"
)


def _fresh(column: SealedColumn) -> str:
    """Whether a row is under the key asked for."""
    if column is DATA_KEY:
        return "t.kek_id = %(key_id)s"
    inside = "substring(t.sealed FROM 1 FOR octet_length(%(head)s::bytea)) = %(head)s::bytea"
    fresh = f"coalesce({inside}, true)"
    return f"coalesce(k.kek_id = %(key_id)s, {fresh})" if column.fixed else fresh


@cache
def _look(column: SealedColumn, *, first: bool) -> LiteralString:
    bound = ", ".join(f"%(k{i})s::{kind}" for i, (_, kind) in enumerate(column.key))
    after = "" if first else f"WHERE ({_names(column)}) > ({bound})"
    joined = _BESIDE.format(column.table) if column.fixed else ""
    return cast(
        "LiteralString",
        f"SELECT {_names(column)}, {_fresh(column)} FROM {column.table} t {joined} {after}"
        f" ORDER BY {_names(column)} LIMIT %(limit)s",
    )


@cache
def _take(column: SealedColumn) -> LiteralString:
    names = _names(column)
    source = (
        f"{column.table} t JOIN unnest({_arrays(column)}) AS n ({_plain(column)})"
        f" ON {_is_of(column)}"
    )
    if column is DATA_KEY:
        what, lock = "t.wrapped, t.kek_id", "FOR UPDATE OF t SKIP LOCKED"
    elif column.fixed:
        what, lock = "coalesce(k.wrapped, t.sealed), k.kek_id", ""
        source += f" {_BESIDE.format(column.table)}"
    else:
        what, lock = "t.sealed, NULL", "FOR UPDATE OF t SKIP LOCKED"
    return cast("LiteralString", f"SELECT {names}, {what} FROM {source} ORDER BY {names} {lock}")


@cache
def _put(column: SealedColumn) -> LiteralString:
    new = f"unnest({_arrays(column)}, %(values)s::bytea[], %(key_ids)s::text[])"
    names = f"AS n ({_plain(column)}, value, key_id)"
    if column.fixed:
        text = (
            "INSERT INTO sealed_key (name, row_id, wrapped, kek_id)"
            f" SELECT '{column.table}', n.id, n.value, n.key_id FROM {new} {names}"
            " ON CONFLICT (name, row_id)"
            " DO UPDATE SET wrapped = excluded.wrapped, kek_id = excluded.kek_id"
        )
    elif column is DATA_KEY:
        text = (
            f"UPDATE data_key t SET wrapped = n.value, kek_id = n.key_id FROM {new} {names}"
            f" WHERE {_is_of(column)}"
        )
    else:
        text = (
            f"UPDATE {column.table} t SET sealed = n.value FROM {new} {names}"
            f" WHERE {_is_of(column)}"
        )
    return cast("LiteralString", text)


@cache
def _counts(column: SealedColumn) -> LiteralString:
    if column is DATA_KEY:
        return "SELECT kek_id, count(*) FROM data_key GROUP BY kek_id"
    name, joined = _KEK_ID, ""
    if column.fixed:
        name, joined = f"coalesce(k.kek_id, {_KEK_ID})", _BESIDE.format(column.table)
    return cast(
        "LiteralString",
        f"SELECT {name} AS key_id, count(*) FROM {column.table} t {joined}"
        " WHERE t.sealed IS NOT NULL GROUP BY 1",
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the wrapping anew of one table has come; see the table `rewrap`."""

    name: str
    key_id: str
    since: Any
    started_at: Any
    after_key: list[str] | None
    changed: int
    missed: int
    done_at: Any


async def progress(tx: ReadTx) -> Mapping[str, Progress]:
    """Of every table that was ever looked at."""
    rows = await tx.fetch(
        "SELECT name, key_id, since, started_at, after_key, changed, missed, done_at FROM rewrap",
        None,
        Progress,
    )
    return {row.name: row for row in rows}


async def save(tx: Writes, row: Progress) -> None:
    """Write how far it has come."""
    await tx.execute(
        """
        INSERT INTO rewrap (name, key_id, since, started_at, after_key, changed, missed, done_at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (name) DO UPDATE SET key_id = excluded.key_id, since = excluded.since,
            started_at = excluded.started_at, after_key = excluded.after_key,
            changed = excluded.changed, missed = excluded.missed, done_at = excluded.done_at
        """,
        (
            row.name,
            row.key_id,
            row.since,
            row.started_at,
            row.after_key,
            row.changed,
            row.missed,
            row.done_at,
        ),
    )
