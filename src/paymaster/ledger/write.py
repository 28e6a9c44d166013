"""Writing what a batch came to: entries, postings, marks in histories, accounts.

A small batch is one statement. From some dozens of rows on COPY is quicker, by half at a thousand;
where statements are sent together it would have to wait for them, and only a large batch is worth
that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any, Final, NamedTuple

from paymaster.db import copying
from paymaster.db.copying import NULL
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
    """When an entry takes effect, its business day, and both as columns of a line.

    `late` is an entry that belongs to a time before others that are recorded already.
    """

    at: datetime
    day: date
    late: bool
    line: str


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
        """
        COPY entry (id, kind, recipe_version, subject, digest, evidence, reverses_id, trace_id,
            commit_id, ordinal, postings, effective_at, effective_day, first_posting_id,
            last_posting_id) FROM STDIN
        """,
        _entry_lines(tx, entries),
        lambda: _posting_lines(books.postings),
    )
    if postings:
        await tx.copy(
            """
            COPY posting (id, entry_id, source_id, destination_id, amount, asset, requested,
                source_previous, source_number, source_balance, destination_previous,
                destination_number, destination_balance) FROM STDIN
            """,
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


def _entry_lines(tx: CellTx, rows: Sequence[EntryRow]) -> Iterator[str]:
    commit_id, own_trace = tx.commit_id, copying.text(tx.trace_id)
    for entry, digest, ordinal, postings, effective, first, last in rows:
        trace = copying.text(entry.trace_id) if entry.trace_id else own_trace
        yield (
            f"{entry.id}\t{entry.kind}\t{entry.recipe_version}\t{copying.text(entry.subject)}\t"
            f"{copying.hexadecimal(digest)}\t{copying.json(entry.evidence)}\t"
            f"{entry.reverses_id or NULL}\t{trace}\t{commit_id}\t{ordinal}\t{postings}\t"
            f"{effective.line}\t{first or NULL}\t{last or NULL}\n"
        )


def _posting_lines(rows: Sequence[PostingRow]) -> list[str]:
    return [
        f"{number}\t{entry}\t{source.id}\t{destination.id}\t{amount}\t{source.account.asset}\t"
        f"{requested}\t{source_before or NULL}\t{source_number}\t{left}\t"
        f"{destination_before or NULL}\t{destination_number}\t{reached}\n"
        for (
            number,
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
