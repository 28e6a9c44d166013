"""Writing what a batch came to: entries, postings, marks in histories, accounts.

A small batch is one statement. From some dozens of rows on COPY is quicker, by half at a thousand;
where statements are sent together it would have to wait for them, and only a large batch is worth
that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from typing import Any, Final, LiteralString, NamedTuple, TypeVar

from paymaster.db import copying
from paymaster.db.copying import NULL
from paymaster.db.tx import CellTx, json
from paymaster.kernel.errors import Broken
from paymaster.ledger import accounts
from paymaster.ledger.accounts import Taken
from paymaster.ledger.decide import AccountRow, Books, PostingRow
from paymaster.ledger.entry import Entry

T = TypeVar("T")

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


EntryRow = tuple[Entry, bytes, int, int, Effective, int | None, int | None]
"""An entry to write: it, its digest, its place in the transaction, the number of its postings, when
it takes effect, and the range of its postings' ids."""


def many(tx: CellTx, rows: int) -> bool:
    """Whether COPY pays for so many."""
    return rows >= (_MANY_SENT if tx.sent else _MANY)


async def write(tx: CellTx, taken: Taken, books: Books, entries: Sequence[EntryRow]) -> None:
    """Write the batch and bring the account rows up to date."""
    if not many(tx, len(entries) + len(books.postings)):
        await _few(tx, entries, books.postings, taken.changed())
        _mark(tx, _marks(books.postings), _late(books.postings, entries))
        return
    lines = await tx.copy_while(
        _ENTRIES, entry_lines(tx, entries), lambda: _posting_lines(books.postings)
    )
    await _rest(tx, taken, books, entries, lines)


async def write_ahead(
    tx: CellTx,
    taken: Taken,
    books: Books,
    entries: Sequence[EntryRow],
    lines: str,
    decide: Callable[[], T],
) -> T:
    """As `write`, of entries that can only all be posted: decided while they are written already.

    Raises Broken `post-foreseen` should they not be; then nothing is committed.
    """

    def decided() -> tuple[T, str]:
        results = decide()
        if (len(books.entries), len(books.postings)) != (len(entries), len(books.posting_ids)):
            raise Broken("post-foreseen", "Entries that had to be posted were refused.")
        return results, _posting_lines(books.postings)

    results, postings = await tx.copy_while(_ENTRIES, [lines], decided)
    await _rest(tx, taken, books, entries, postings)
    return results


async def _rest(
    tx: CellTx, taken: Taken, books: Books, entries: Sequence[EntryRow], lines: str
) -> None:
    def left() -> tuple[list[AccountRow], list[_Mark], list[_Late]]:
        return taken.changed(), _marks(books.postings), _late(books.postings, entries)

    changed, marks, late = await tx.copy_while(_POSTINGS, [lines], left) if lines else left()
    if changed:
        await accounts.update(tx, changed)
    _mark(tx, marks, late)


_ENTRIES: LiteralString = """
    COPY entry (id, kind, recipe_version, subject, digest, evidence, reverses_id, trace_id,
        commit_id, ordinal, postings, effective_at, effective_day, first_posting_id,
        last_posting_id) FROM STDIN
"""

_POSTINGS: LiteralString = """
    COPY posting (id, entry_id, source_id, destination_id, amount, asset, requested,
        source_previous, source_number, source_balance, destination_previous,
        destination_number, destination_balance) FROM STDIN
"""

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
    moments = {row[0].id: row[4].at for row in entries if row[4].late}
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


def _mark(tx: CellTx, marks: Sequence[_Mark], late: Sequence[_Late]) -> None:
    if marks:
        tx.leave(
            "INSERT INTO account_mark (account_id, number, posting_id)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[])",
            [list(column) for column in zip(*marks, strict=True)],
        )
    if late:
        tx.leave(
            "INSERT INTO late_leg (account_id, number, posting_id, effective_at, amount)"
            " SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[],"
            " %s::bigint[])",
            [list(column) for column in zip(*late, strict=True)],
        )


def entry_lines(tx: CellTx, rows: Sequence[EntryRow]) -> Iterator[str]:
    """Entries as COPY takes them."""
    commit_id, own_trace = tx.commit_id, copying.text(tx.trace_id)
    text = copying.escaping([row[0].subject for row in rows])
    for entry, digest, ordinal, postings, effective, first, last in rows:
        trace = copying.text(entry.trace_id) if entry.trace_id else own_trace
        evidence = copying.json(entry.evidence) if entry.evidence else "{}"
        yield (
            f"{entry.id}\t{entry.kind}\t{entry.recipe_version}\t{text(entry.subject)}\t"
            f"\\\\x{digest.hex()}\t{evidence}\t{entry.reverses_id or NULL}\t{trace}\t"
            f"{commit_id}\t{ordinal}\t{postings}\t{effective.line}\t{first or NULL}\t"
            f"{last or NULL}\n"
        )


def _posting_lines(rows: Sequence[PostingRow]) -> str:
    lines = [
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
    return "".join(lines)


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
    entries = [row[0] for row in rows]
    return [
        [entry.id for entry in entries],
        [entry.kind for entry in entries],
        [entry.recipe_version for entry in entries],
        [entry.subject for entry in entries],
        [row[1] for row in rows],
        [json(dict(entry.evidence)) for entry in entries],
        [entry.reverses_id for entry in entries],
        [entry.trace_id or tx.trace_id for entry in entries],
        [row[2] for row in rows],
        [row[3] for row in rows],
        [row[4].at for row in rows],
        [row[4].day for row in rows],
        [row[5] for row in rows],
        [row[6] for row in rows],
    ]


def _posting_columns(rows: Sequence[PostingRow]) -> list[list[Any]]:
    columns: list[list[Any]] = [[row[place] for row in rows] for place in range(12)]
    for place in (2, 3):
        columns[place] = [account.id for account in columns[place]]
    return [*columns, [row[2].account.asset for row in rows]]
