"""The books summed up: whether every account's history leads from nothing to its balance.

Each side of a posting arrives at one *step* of its account's history (number, posting, balance)
and leaves the one before. Every step is turned into a mark, 62 bits that look like chance. Marks of
steps arrived at, less marks of steps left, less the marks of where the accounts' rows end: in sound
books all of it cancels out, whatever the order in which it was read. One wrong number, link,
balance, amount or currency, one posting too many or too few leaves a remainder, except with a
chance of one in 2^62. So ten million postings need no memory of any account, no index, and no
particular order; and a sum that was taken once can be carried on.

Everything is read in pieces on snapshots of their own while posting goes on. `Sight` remembers what
each piece could see. Postings that were committed since the first piece are looked up at the end by
their place in the order of commits, and counted exactly where the pieces did or did not see them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, LiteralString

from paymaster.db.snapshots import Snapshots
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import Broken
from paymaster.ledger import proof_sql as sql
from paymaster.ledger.proof_pages import LAST_ID, Told, page_end

PIECE = 100_000
"""Rows of one snapshot."""


@dataclass(slots=True)
class Sight:
    """Up to which commit each piece of a table was seen; pieces are ranges of ids."""

    ends: list[int] = field(default_factory=lambda: [0])
    seqs: list[int] = field(default_factory=lambda: [0])

    def add(self, high: int, seq: int) -> None:
        """The next piece goes up to and including `high`."""
        self.ends.append(min(high, LAST_ID - 1) + 1)
        self.seqs.append(seq)

    def params(self, name: str) -> dict[str, Any]:
        """For `width_bucket`: nothing behind the last piece was seen."""
        return {f"{name}_ids": self.ends, f"{name}_seqs": [*self.seqs, 0]}


@dataclass(slots=True)
class Books:
    """What a pass over the books found, all in marks but for the counts and the money."""

    seq: int = 0
    """The first piece saw the books up to here."""
    until: int = 0
    """And the last one up to here."""
    ends: int = 0
    steps: int = 0
    at_seq: int = 0
    """The steps of all postings up to `seq`, for the next proof to go on from."""
    named: int = 0
    entered: int = 0
    money: Counter[str] = field(default_factory=Counter[str])
    accounts: int = 0
    postings: int = 0
    entries: int = 0
    miscounted: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])


@dataclass(frozen=True, slots=True)
class RangeSum:
    """What a range of postings leaves behind when it goes into an archive."""

    chain: int
    links: int


async def of_range(tx: CellRead, low_id: int, high_id: int) -> RangeSum:
    """The sums of the postings with ids in `[low_id, high_id)` and of the entries they belong to.

    Those are the entries whose first posting id lies there (of those without: whose commit's id).
    """
    (row,) = await tx.tuples(sql.RANGE_SUMS, {"low": low_id, "high": high_id})
    return RangeSum(int(row[0]), int(row[1]))


@dataclass(frozen=True, slots=True)
class Archived:
    """The months that are in archives: ranges of posting ids, and the sums they left."""

    ranges: tuple[tuple[int, int], ...] = ()
    chain: int = 0
    links: int = 0

    def params(self) -> dict[str, list[int]]:
        """For statements on single steps; with an archive, no history begins with nothing."""
        ranges = [(0, 1), *self.ranges] if self.ranges else []
        return {"archived_from": [r[0] for r in ranges], "archived_to": [r[1] for r in ranges]}


async def archived(tx: CellRead) -> Archived:
    """What was archived until now."""
    rows = await tx.tuples(sql.ARCHIVED)
    return Archived(
        tuple((row[0], row[1]) for row in rows),
        sum(int(row[2]) for row in rows),
        sum(int(row[3]) for row in rows),
    )


async def head(tx: CellRead) -> int:
    """The last place in the order of commits that this snapshot shows."""
    return int(await tx.value("SELECT seq FROM head WHERE id = 1") or 0)


async def check_marks(snapshots: Snapshots) -> None:
    """Raises Broken `proof-marks` on a server that makes other marks than all others."""
    found = await snapshots.read(lambda tx: tx.value(sql.GUARD))
    if found != sql.KNOWN_MARK:
        raise Broken("proof-marks", f"This server's hash functions differ ({found}).")


async def sum_up(
    snapshots: Snapshots,
    told: Told,
    gone: Archived,
    since: tuple[int, int] | None,
    piece: int = PIECE,
) -> Books:
    """Read the books; all of them, or (`since` = seq, its `at_seq`) only what came later.

    `gone` stands in for the months that are in archives.
    """
    books, accounts, postings, entries = Books(), Sight(), Sight(), Sight()
    await _accounts(snapshots, told, books, accounts, piece)
    if since is None:
        books.steps, books.named = gone.chain, gone.links
        await _postings(snapshots, told, books, postings, piece)
        await _entries(snapshots, told, books, entries, piece)
    books.until = await snapshots.read(head)
    sights = {
        **accounts.params("account"), **postings.params("posting"), **entries.params("entry")
    }  # fmt: skip
    if since is not None:
        # All of it is older than the first piece: every row shows it.
        span = await _span(snapshots, told, (since[0], books.seq), sights, piece)
        books.steps = books.at_seq = since[1] + span.shown
        books.postings = span.postings
        books.miscounted = span.miscounted
    span = await _span(snapshots, told, (books.seq, books.until), sights, piece)
    books.steps += span.shown - span.seen
    books.at_seq -= span.seen
    books.named -= span.named
    books.entered -= span.entered
    books.money.subtract(span.moved)
    books.miscounted += span.miscounted
    return books


async def _accounts(
    snapshots: Snapshots, told: Told, books: Books, sight: Sight, piece: int
) -> None:
    low = 0
    while low != LAST_ID:
        low, seq, rows = await snapshots.read(
            _piece(sql.ACCOUNT_BOUND, sql.ACCOUNT_SUMS, low, piece)
        )
        if len(sight.ends) == 1:
            books.seq = seq
        sight.add(low, seq)
        for asset, ends, balance, count in rows:
            books.ends += int(ends)
            books.money[asset] += int(balance)
            books.accounts += count
        told("accounts", books.accounts)


async def _postings(
    snapshots: Snapshots, told: Told, books: Books, sight: Sight, piece: int
) -> None:
    low = 0
    while low != LAST_ID:
        low, seq, rows = await snapshots.read(
            _piece(sql.POSTING_BOUND, sql.POSTING_SUMS, low, piece)
        )
        sight.add(low, seq)
        for steps, named, count in rows:
            books.steps += int(steps)
            books.named += int(named)
            books.postings += count
        told("postings", books.postings)
    books.at_seq = books.steps


async def _entries(
    snapshots: Snapshots, told: Told, books: Books, sight: Sight, piece: int
) -> None:
    low = 0
    while low != LAST_ID:
        low, seq, rows = await snapshots.read(_piece(sql.ENTRY_BOUND, sql.ENTRY_SUMS, low, piece))
        sight.add(low, seq)
        for entered, count in rows:
            books.entered += int(entered)
            books.entries += count
        told("entries", books.entries)


@dataclass(slots=True)
class _Span:
    """What was committed between two places in the order of commits."""

    shown: int = 0
    """Steps of which the accounts' rows, as they were read, are the outcome."""
    seen: int = 0
    """Steps that the pass over the postings came upon."""
    moved: Counter[str] = field(default_factory=Counter[str])
    named: int = 0
    entered: int = 0
    postings: int = 0
    miscounted: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])


async def _span(
    snapshots: Snapshots, told: Told, seqs: tuple[int, int], sights: dict[str, Any], piece: int
) -> _Span:
    span = _Span()
    async for limits in spans(snapshots, seqs, piece):
        rows, entered, wrong = await snapshots.read(_recent({**sights, **limits}))
        for asset, shown, seen, moved, named, count in rows:
            span.shown += int(shown)
            span.seen += int(seen)
            span.moved[asset] += int(moved)
            span.named += int(named)
            span.postings += count
        span.entered += entered
        span.miscounted += wrong
        told("meanwhile", span.postings)
    return span


async def spans(
    snapshots: Snapshots, seqs: tuple[int, int], piece: int
) -> AsyncGenerator[dict[str, int]]:
    """The commits behind `seqs[0]` up to `seqs[1]` in pieces, as limits of `seq`."""
    low, until = seqs
    while low < until:
        limits = {"low": low, "until": until, "size": piece}
        high = await snapshots.read(lambda tx, to=limits: tx.value(sql.SPAN_BOUND, to))
        if high is None:
            break
        yield {"low": low, "high": int(high)}
        low = int(high)


def _recent(
    params: dict[str, Any],
) -> Callable[[CellRead], Awaitable[tuple[list[tuple[Any, ...]], int, list[tuple[int, int, int]]]]]:
    async def work(
        tx: CellRead,
    ) -> tuple[list[tuple[Any, ...]], int, list[tuple[int, int, int]]]:
        rows = await tx.tuples(sql.LATE_SUMS, params)
        entered = int(await tx.value(sql.LATE_ENTRY_SUMS, params))
        wrong = await tx.tuples(sql.LATE_COUNTS, params)
        return rows, entered, [(row[0], row[1], row[2]) for row in wrong]

    return work


def _piece(
    bound: LiteralString, statement: LiteralString, low: int, size: int
) -> Callable[[CellRead], Awaitable[tuple[int, int, list[tuple[Any, ...]]]]]:
    async def work(tx: CellRead) -> tuple[int, int, list[tuple[Any, ...]]]:
        high = await page_end(tx, bound, low, size)
        rows = await tx.tuples(statement, {"low": low, "high": high})
        return high, await head(tx), rows

    return work
