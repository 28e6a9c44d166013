"""`post`: the only writer of the books.

In the caller's transaction: lock every touched account in order of id; then, in new statements, so
with a new snapshot, look up what is posted already; decide each entry in order of arrival; write.
What does not depend on the locks is made ready while they are asked for. A refusal is a value.

`ready` asks for locks and look-up before it is certain which of the entries will be posted; in a
transaction whose statements are sent together they then come with other answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from paymaster.db.tx import Asked, CellTx
from paymaster.kernel.clock import business_day, start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.garbage import CALM
from paymaster.ledger import accounts, store
from paymaster.ledger.accounts import Taken, Taking
from paymaster.ledger.chart import Account
from paymaster.ledger.decide import AccountRow, Books, Decided, Draw
from paymaster.ledger.entry import Entry, Posted
from paymaster.ledger.store import Standing
from paymaster.ledger.write import Effective, EntryRow, entry_lines, many, write, write_ahead

BATCH_LIMIT = 10_000
"""Entries in one call; callers split larger ones."""

_LARGE: Final = 256
"""Entries from which on the search for cycles waits: it would come while accounts are locked."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Accounts whose lock was asked for, and after them how the books stand."""

    _taking: Taking
    _standing: Asked

    async def come(self) -> tuple[Taken, Standing]:
        """Both, once they are there."""
        return await self._taking.taken(), await store.standing(self._standing)


async def ready(tx: CellTx, entries: Sequence[Entry]) -> Ready:
    """Ask for what `post_on` needs for these entries, or for some of them, later."""
    taking = await accounts.lock(tx, accounts.touched(entries))
    return Ready(taking, await store.ask_standing(tx, [entry.id for entry in entries]))


async def post(tx: CellTx, entries: Sequence[Entry]) -> list[Posted]:
    """Post entries; one verdict for each, in order. Raises Broken for entries no code may make."""
    return (await post_on(tx, entries))[0]


async def post_on(
    tx: CellTx,
    entries: Sequence[Entry],
    draws: Sequence[Draw | None] | None = None,
    asked: Ready | None = None,
) -> tuple[list[Posted], dict[Account, AccountRow]]:
    """As `post`, with the accounts as they stand afterwards; they stay locked.

    `draws` says for each entry what it takes out of a hold; verdict HOLD where that is too much.
    `asked` is what `ready` has asked for these entries and maybe others.
    """
    if not entries:
        return [], {}
    if len(entries) > BATCH_LIMIT:
        raise Broken("batch-limit", f"{len(entries)} entries in one call; split them.")
    with CALM.kept() if len(entries) >= _LARGE else nullcontext():
        return await _post(tx, entries, draws, asked)


async def _post(
    tx: CellTx,
    entries: Sequence[Entry],
    draws: Sequence[Draw | None] | None,
    asked: Ready | None,
) -> tuple[list[Posted], dict[Account, AccountRow]]:
    posting_ids = tx.ids(sum([len(entry.postings) for entry in entries]))
    if asked is None:
        async with tx.pipeline():
            taking = await accounts.take(tx, entries, posting_ids)
            asked = Ready(taking, await store.ask_standing(tx, [entry.id for entry in entries]))
            tx.go()
            digests = [entry.digest() for entry in entries]
            sure = taking.written and not draws and many(tx, len(entries) + len(posting_ids))
            foreseen = _foresee(tx, entries, digests, posting_ids) if sure else None
    else:
        digests, foreseen = [entry.digest() for entry in entries], None
    taken, standing = await asked.come()
    accounts.add_new(tx, taken, entries)
    tx.dated_after(standing.closed_through)
    books = Books(taken.rows, standing.known, posting_ids)

    def decide() -> list[Posted]:
        return books.decide(entries, digests, draws or [None] * len(entries))

    if foreseen is not None and taken.fits and foreseen.holds(standing):
        tx.append(len(entries))
        results = await write_ahead(tx, taken, books, foreseen.rows, foreseen.lines, decide)
    else:
        results = decide()
        if books.entries:
            await write(tx, taken, books, _rows(tx, books, _Calendar(tx, standing)))
        elif changed := taken.changed():
            await accounts.update(tx, changed)
    if taken.new:
        await accounts.open_new(tx, taken.new)
    return results, taken.rows


def _rows(tx: CellTx, books: Books, calendar: _Calendar) -> list[EntryRow]:
    """The entries with their places in the transaction and the ids of their postings."""
    ids = [row[0] for row in books.postings]
    return _placed(books.entries, ids, tx.append(len(books.entries)), calendar)


def _placed(
    decided: Sequence[Decided], ids: Sequence[int], first: int, calendar: _Calendar
) -> list[EntryRow]:
    return [
        (
            entry,
            digest,
            ordinal,
            end - start,
            calendar.effective(entry.effective_at),
            ids[start] if end > start else None,
            ids[end - 1] if end > start else None,
        )
        for ordinal, (entry, digest, start, end) in enumerate(decided, first)
    ]


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """What is written of entries that are all posted in full, if the books stand as supposed."""

    rows: Sequence[EntryRow]
    lines: str
    calendar: _Calendar

    def holds(self, standing: Standing) -> bool:
        """Whether they stand so: none of the entries is known, and they keep their dates."""
        return not standing.known and self.calendar.holds(standing)


def _foresee(
    tx: CellTx, entries: Sequence[Entry], digests: Sequence[bytes], posting_ids: Sequence[int]
) -> _Foreseen | None:
    """None where it depends on more than on how accounts and books stand."""
    decided: list[Decided] = []
    end = 0
    for entry, digest in zip(entries, digests, strict=True):
        start, end = end, end + len(entry.postings)
        decided.append((entry, digest, start, end))
        for posting in entry.postings:
            if not posting.source.asset == posting.destination.asset == posting.amount.currency:
                return None
    if len({entry.id for entry in entries}) < len(entries):
        return None
    calendar = _Calendar(tx, Standing(tx.now, None, {}))
    rows = _placed(decided, posting_ids, tx.append(0), calendar)
    return _Foreseen(rows, "".join(entry_lines(tx, rows)), calendar)


class _Calendar:
    """When entries take effect: not in the future, and never in a day that is closed.

    An entry without a date of its own is never dated before what is recorded already, so that the
    history of an account is in the order of effect too, but for the late ones.
    """

    def __init__(self, tx: CellTx, standing: Standing) -> None:
        self._now, self._zone = max(tx.now, standing.recorded_at), tx.time_zone
        self._closed = standing.closed_through
        self._cache: dict[datetime | None, Effective] = {}

    def holds(self, standing: Standing) -> bool:
        """Whether what was said of entries so far is so for books that stand like this too."""
        closed = standing.closed_through
        return standing.recorded_at <= self._now and (
            closed is None or all(closed < one.day for one in self._cache.values())
        )

    def effective(self, at: datetime | None) -> Effective:
        """When an entry dated so takes effect."""
        found = self._cache.get(at)
        if found is None:
            moment = min(at, self._now) if at else self._now
            day = business_day(moment, self._zone)
            if self._closed is not None and day <= self._closed:
                day = self._closed + timedelta(days=1)
                moment = start_of_day(day, self._zone)
            late = moment < self._now
            found = self._cache[at] = Effective(moment, day, late, f"{moment}\t{day}")
        return found
