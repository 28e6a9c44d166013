"""Records that belong to nothing: rows that were put in without a commit, an entry or an event.

Rows of a month that left for an archive are as out of place as those when they come back.

A block looks at what its commits lead to. So the ids between the blocks are looked through as well:
each block takes the ids since the highest one before it, and the end takes the remainder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import LiteralString, cast

from paymaster.db import seal_format
from paymaster.db.seal import kind_of
from paymaster.db.seal_format import Span
from paymaster.db.seal_table import Table, shown
from paymaster.db.tx import ReadTx

CHUNK_ROWS = 50_000
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class Stray:
    """A record without a place."""

    table: str
    key: str


@dataclass(slots=True)
class Swept:
    """Up to which ids of commits and postings everything has been looked at."""

    commits: int = _LOWEST
    postings: int = _LOWEST


@dataclass(frozen=True, slots=True)
class Archived:
    """Months that left for files: of which tables, how many records if counted, up to which seq."""

    tables: Mapping[str, int | None]
    last_seq: int


async def archived(tx: ReadTx) -> Archived:
    """All archives of a schema together."""
    if kind_of(tx) != "cell":
        return Archived({}, 0)
    entries, postings, last = (
        await tx.tuples(
            "SELECT coalesce(sum(entries), 0)::bigint, coalesce(sum(postings), 0)::bigint,"
            " max(last_seq) FROM archive"
        )
    )[0]
    if last is None:
        return Archived({}, 0)
    counts = {"entry": entries, "posting": postings, "account_mark": None, "late_leg": None}
    return Archived(counts, last)


async def between(tx: ReadTx, swept: Swept, span: Span) -> list[Stray]:
    """Look through the ids up to the highest of a block."""
    found: list[Stray] = []
    if span.high > swept.commits:
        found += await _commits(tx, swept.commits, span.high)
        swept.commits = span.high
    if span.last_posting > swept.postings:
        found += await _postings(tx, swept.postings, span.last_posting)
        swept.postings = span.last_posting
    return found


async def beyond(tx: ReadTx, swept: Swept) -> list[Stray]:
    """Look through all higher ids."""
    found = await _commits(tx, swept.commits, _HIGHEST)
    return found + await _postings(tx, swept.postings, _HIGHEST)


async def _commits(tx: ReadTx, low: int, high: int) -> list[Stray]:
    kind, between = kind_of(tx), {"low": low, "high": high}
    found = [Stray(*row) for row in await tx.tuples(_without_commit(kind), between)]
    if kind == "cell":
        found += [Stray("entry", row[0]) for row in await tx.tuples(_RETURNED_ENTRY, between)]
    return found


@cache
def _without_commit(kind: str) -> LiteralString:
    """The first record of each table whose commit does not exist or has no such ordinal."""
    parts = [
        f"(SELECT '{table.name}', {_key(table)} FROM {table.name} t"
        " WHERE t.commit_id > %(low)s AND t.commit_id <= %(high)s"
        f"{'' if table.legacy is None else ' AND t.commit_id <> 0'}"
        " AND NOT EXISTS (SELECT FROM commit c WHERE c.id = t.commit_id"
        " AND t.ordinal BETWEEN 0 AND c.last_seq - c.first_seq) ORDER BY t.commit_id LIMIT 1)"
        for table in seal_format.tables(seal_format.NEWEST, kind)
        if table.name != "commit" and not table.hangs
    ]
    return cast("LiteralString", " UNION ALL ".join(parts))


_STRAY_POSTING: LiteralString = """
    SELECT 'id=' || t.id FROM posting t WHERE t.id > %(low)s AND t.id <= %(high)s
    AND NOT EXISTS (SELECT FROM entry e WHERE e.id = t.entry_id
        AND t.id BETWEEN e.first_posting_id AND e.last_posting_id)
    ORDER BY t.id LIMIT 1
"""
# What left with its month and is in the books again. What lives is younger than all archives: the
# first condition is all that most rows are asked.
_RETURNED_POSTING: LiteralString = """
    SELECT 'id=' || t.id FROM posting t WHERE t.id > %(low)s AND t.id <= %(high)s
    AND t.id < (SELECT max(high_id) FROM archive)
    AND EXISTS (SELECT FROM archive a WHERE t.id >= a.low_id AND t.id < a.high_id)
    ORDER BY t.id LIMIT 1
"""
_RETURNED_ENTRY: LiteralString = """
    SELECT 'id=' || t.id FROM entry t WHERE t.commit_id > %(low)s AND t.commit_id <= %(high)s
    AND coalesce(t.first_posting_id, t.commit_id) < (SELECT max(high_id) FROM archive)
    AND EXISTS (SELECT FROM archive a WHERE coalesce(t.first_posting_id, t.commit_id) >= a.low_id
        AND coalesce(t.first_posting_id, t.commit_id) < a.high_id)
    ORDER BY t.commit_id LIMIT 1
"""


async def _postings(tx: ReadTx, low: int, high: int) -> list[Stray]:
    if kind_of(tx) != "cell":
        return []
    found = await tx.tuples(_STRAY_POSTING, {"low": low, "high": high})
    found += await tx.tuples(_RETURNED_POSTING, {"low": low, "high": high})
    return [Stray("posting", row[0]) for row in found]


@dataclass(frozen=True, slots=True)
class _Swept:
    """A table that no ids lead through in order: two columns to walk along, and what must exist."""

    along: str
    parent: str


_EVENT = (
    "SELECT FROM event e WHERE e.source = t.source AND e.event_id = t.event_id"
    " AND e.task_id = t.task_id AND e.user_id = t.user_id"
)
_LEG = (
    "SELECT FROM posting p WHERE p.id = t.posting_id AND (t.account_id, t.number)"
    " IN ((p.source_id, p.source_number), (p.destination_id, p.destination_number)) UNION ALL"
    " SELECT FROM archive a WHERE t.posting_id >= a.low_id AND t.posting_id < a.high_id"
)
SWEPT = {
    "answer": _Swept("task_id, user_id", _EVENT),
    "progress": _Swept("task_id, user_id", f"{_EVENT} AND e.occurred_at = t.occurred_at"),
    "account_mark": _Swept("account_id, number", _LEG),
    "late_leg": _Swept("account_id, number", _LEG),
}
"""Which tables are walked through from end to end, a part of them at a time."""

Position = tuple[int, int]
START: Position = (_LOWEST, _LOWEST)


async def sweep(tx: ReadTx, name: str, after: Position) -> tuple[Position | None, list[Stray]]:
    """Look through the next part of a table; where it ended, None at the end of the table."""
    one, table = SWEPT[name], seal_format.named(name)
    until = await tx.tuples(
        cast(
            "LiteralString",
            f"SELECT {one.along} FROM {name} WHERE ({one.along}) > (%s, %s)"
            f" ORDER BY {one.along} OFFSET {CHUNK_ROWS} LIMIT 1",
        ),
        after,
    )
    end: Position = (until[0][0], until[0][1]) if until else (_HIGHEST, _HIGHEST)
    rows = await tx.tuples(
        cast(
            "LiteralString",
            f"SELECT {_key(table)} FROM {name} t WHERE ({one.along}) > (%s, %s)"
            f" AND ({one.along}) <= (%s, %s) AND NOT EXISTS ({one.parent}) LIMIT 1",
        ),
        (*after, *end),
    )
    return end if until else None, [Stray(name, row[0]) for row in rows]


async def lost_child(tx: ReadTx, name: str, commit_id: int, ordinal: int) -> str:
    """Whose record is gone: the entry or event at a place, and which of its postings if known."""
    if "event_id" in {column.name for column in seal_format.named(name).columns}:
        rows = await tx.tuples(
            "SELECT source, event_id FROM event WHERE commit_id = %s AND ordinal = %s",
            (commit_id, ordinal),
        )
        return f"source={rows[0][0]}, event_id={rows[0][1]}" if rows else ""
    rows = await tx.tuples(
        "SELECT id, first_posting_id, last_posting_id FROM entry"
        " WHERE commit_id = %s AND ordinal = %s",
        (commit_id, ordinal),
    )
    if not rows:
        return f"commit_id={commit_id}, ordinal={ordinal}"
    entry_id, first, last = rows[0]
    if name == "posting" and last - first < CHUNK_ROWS:
        there = await tx.tuples(
            "SELECT id FROM posting WHERE id BETWEEN %s AND %s AND entry_id = %s",
            (first, last, entry_id),
        )
        gone = sorted(set(range(first, last + 1)) - {row[0] for row in there})
        if gone:
            return f"id={gone[0]}, entry_id={entry_id}"
    return f"entry_id={entry_id}"


def _key(table: Table) -> str:
    """SQL for the key of the record `t` as people read it."""
    parts = [f"'{name}=' || {shown(table, name)}" for name in table.key]
    return " || ', ' || ".join(parts)
