"""Writing what a batch came to: entries, postings, marks in histories, accounts.

A small batch is one statement. From some dozens of rows on COPY is quicker, by half at a thousand;
where statements are sent together it would have to wait for them, and only a large batch is worth
that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any, Final, NamedTuple

import msgspec

from paymaster.db import copying
from paymaster.db.tx import CellTx, json
from paymaster.ledger import accounts
from paymaster.ledger.accounts import Taken
from paymaster.ledger.decide import AccountRow, Books, PostingRow
from paymaster.ledger.entry import Entry

_MANY: Final = 48
"""Rows from which on COPY pays."""

_MANY_SENT: Final = 600
"""The same where statements are sent together."""

MARKED: Final = 64
"""Every so many postings an account's history can be entered, by their numbers."""


class Effective(NamedTuple):
    """When an entry takes effect, and its business day.

    `late` is an entry that belongs to a time before others that are recorded already.
    """

    at: datetime
    day: date
    late: bool


class EntryRow(NamedTuple):
    """An entry, its digest, its place in the transaction, and the range of its postings' ids."""

    entry: Entry
    digest: bytes
    ordinal: int
    postings: int
    effective: Effective
    first: int | None
    last: int | None


async def write(tx: CellTx, taken: Taken, books: Books, entries: Sequence[EntryRow]) -> None:
    """Write the batch and bring the account rows up to date."""
    changed, marks, late = taken.changed(), _marks(books.postings), _late(books.postings, entries)
    if len(entries) + len(books.postings) < (_MANY_SENT if tx.sent else _MANY):
        await _few(tx, entries, books.postings, changed)
        await _mark(tx, marks, late)
        return
    if changed:
        await accounts.update(tx, changed)
    postings = await tx.copy_while(
        "COPY entry (id, commit_id, ordinal, recipe_version, postings, kind, subject, digest,"
        " evidence, reverses_id, trace_id, effective_at, effective_day, first_posting_id,"
        " last_posting_id) FROM STDIN (FORMAT binary)",
        _entry_lines(tx, entries),
        lambda: _posting_lines(books.postings),
    )
    if postings:
        await tx.copy_rows(
            "COPY posting (id, entry_id, amount, requested, asset, source_id, source_number,"
            " source_balance, source_previous, destination_id, destination_number,"
            " destination_balance, destination_previous) FROM STDIN (FORMAT binary)",
            postings,
        )
    await _mark(tx, marks, late)


_Mark = tuple[int, int, int]
_Late = tuple[int, int, int, datetime, int]


def _marks(rows: Sequence[PostingRow]) -> list[_Mark]:
    """Account, number and id of every posting that an account's history is entered at."""
    marks: list[_Mark] = []
    for row in rows:
        if row[7] % MARKED == 0:
            marks.append((row[2].id, row[7], row[0]))
        if row[10] % MARKED == 0:
            marks.append((row[3].id, row[10], row[0]))
    return marks


def _late(postings: Sequence[PostingRow], entries: Sequence[EntryRow]) -> list[_Late]:
    """Account, number, posting, moment, amount as the account sees it, of what is dated back."""
    moments = {row.entry.id: row.effective.at for row in entries if row.effective.late}
    if not moments:
        return []
    return [
        leg
        for row in postings
        if (at := moments.get(row[1])) is not None
        for leg in (
            (row[2].id, row[7], row[0], at, -row[4]),
            (row[3].id, row[10], row[0], at, row[4]),
        )
    ]


async def _mark(tx: CellTx, marks: Sequence[_Mark], late: Sequence[_Late]) -> None:
    if marks:
        await tx.send(
            "INSERT INTO account_mark (account_id, number, posting_id)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[])",
            [list(column) for column in zip(*marks, strict=True)],
        )
    if late:
        await tx.send(
            "INSERT INTO late_leg (account_id, number, posting_id, effective_at, amount)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[],"
            " %s::bigint[])",
            [list(column) for column in zip(*late, strict=True)],
        )


def _entry_lines(tx: CellTx, rows: Sequence[EntryRow]) -> Iterator[bytes]:
    commit_id, own_trace = tx.commit_id, copying.word(tx.trace_id)
    word, number = copying.word, copying.number
    dated: dict[Effective, bytes] = {}
    for entry, digest, ordinal, postings, effective, first, last in rows:
        moments = dated.get(effective)
        if moments is None:
            at = copying.whole(copying.moment(effective.at))
            moments = dated[effective] = at + copying.day(effective.day)
        version = entry.recipe_version
        yield b"%b%b%b%b%b%b%b%b%b%b" % (
            _entry(15, 8, entry.id, 8, commit_id, 4, ordinal, 2, version, 2, postings),
            word(entry.kind),
            word(entry.subject),
            copying.data(digest),
            copying.written(msgspec.json.encode(entry.evidence)) if entry.evidence else _EMPTY,
            number(entry.reverses_id),
            word(entry.trace_id) if entry.trace_id else own_trace,
            moments,
            number(first),
            number(last),
        )


_entry = struct.Struct(">hiqiqiiihih").pack
"""How many columns, and those which are numbers."""

_EMPTY: Final = copying.written(b"{}")


def _posting_lines(rows: Sequence[PostingRow]) -> list[bytes]:
    number = copying.number
    assets = {asset: copying.word(asset) for asset in {row[2].account.asset for row in rows}}
    return [
        b"%b%b%b%b%b%b"
        % (
            _posting(13, 8, posting, 8, entry, 8, amount, 8, requested),
            assets[source.account.asset],
            _side(8, source.id, 8, source_number, 8, left),
            number(source_before),
            _side(8, destination.id, 8, destination_number, 8, reached),
            number(destination_before),
        )
        for (
            posting,
            entry,
            source,
            destination,
            amount,
            requested,
            source_before,
            source_number,
            left,
            destination_before,
            destination_number,
            reached,
        ) in rows
    ]


_posting = struct.Struct(">hiqiqiqiq").pack
"""How many columns, ids and amounts."""

_side = struct.Struct(">iqiqiq").pack
"""What never misses of an account's side of a posting."""


async def _few(
    tx: CellTx,
    entries: Sequence[EntryRow],
    postings: Sequence[PostingRow],
    changed: Sequence[AccountRow],
) -> None:
    """Everything in one statement."""
    await tx.send(
        """
        WITH entries AS (
            INSERT INTO entry (id, kind, recipe_version, subject, digest, evidence, reverses_id,
                trace_id, commit_id, ordinal, postings, effective_at, effective_day,
                first_posting_id, last_posting_id)
            SELECT i, k, v, s, h, e, r, t, %s, o, n, at, d, f, l
            FROM unnest(%s::bigint[], %s::text[], %s::smallint[], %s::text[], %s::bytea[],
                %s::jsonb[], %s::bigint[], %s::text[], %s::int[], %s::smallint[],
                %s::timestamptz[], %s::date[], %s::bigint[], %s::bigint[])
                AS u (i, k, v, s, h, e, r, t, o, n, at, d, f, l)
        ), postings AS (
            INSERT INTO posting (id, entry_id, source_id, destination_id, amount, requested,
                source_previous, source_number, source_balance, destination_previous,
                destination_number, destination_balance, asset)
            SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
                %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
                %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])
        )
        UPDATE account a SET balance = u.b, postings = u.n, last_posting_id = u.p
        FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[]) AS u (i, b, n, p)
        WHERE a.id = u.i
        """,
        (
            tx.commit_id,
            *_entry_columns(tx, entries),
            *_posting_columns(postings),
            *accounts.columns(changed),
        ),
    )


def _entry_columns(tx: CellTx, rows: Sequence[EntryRow]) -> list[list[Any]]:
    return [
        [row.entry.id for row in rows],
        [row.entry.kind for row in rows],
        [row.entry.recipe_version for row in rows],
        [row.entry.subject for row in rows],
        [row.digest for row in rows],
        [json(dict(row.entry.evidence)) for row in rows],
        [row.entry.reverses_id for row in rows],
        [row.entry.trace_id or tx.trace_id for row in rows],
        [row.ordinal for row in rows],
        [row.postings for row in rows],
        [row.effective.at for row in rows],
        [row.effective.day for row in rows],
        [row.first for row in rows],
        [row.last for row in rows],
    ]


def _posting_columns(rows: Sequence[PostingRow]) -> list[list[Any]]:
    columns: list[list[Any]] = [[row[place] for row in rows] for place in range(12)]
    for place in (2, 3):
        columns[place] = [account.id for account in columns[place]]
    return [*columns, [row[2].account.asset for row in rows]]
