"""`post`: the only writer of the books.

In the caller's transaction: lock every touched account in order of id; then, in new statements, so
with a new snapshot, look up what is posted already; decide each entry in order of arrival; write.
What does not depend on the locks is made ready before they are taken. A refusal is a value.

`ready` asks for locks and look-up before it is certain which of the entries will be posted; in a
transaction whose statements are sent together they then come with other answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paymaster.db.tx import Asked, CellTx
from paymaster.kernel.clock import business_day, start_of_day
from paymaster.kernel.errors import Broken
from paymaster.ledger import accounts, store
from paymaster.ledger.accounts import Taken, Taking
from paymaster.ledger.chart import Account
from paymaster.ledger.decide import AccountRow, Books, Draw
from paymaster.ledger.entry import Entry, Posted
from paymaster.ledger.store import Standing
from paymaster.ledger.write import Effective, EntryRow, write

BATCH_LIMIT = 10_000
"""Entries in one call; callers split larger ones."""


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
    digests = [entry.digest() for entry in entries]
    posting_ids = tx.ids(sum([len(entry.postings) for entry in entries]))
    if asked is None:
        taking = await accounts.take(tx, entries, posting_ids)
        asked = Ready(taking, await store.ask_standing(tx, [entry.id for entry in entries]))
    taken, standing = await asked.come()
    accounts.add_new(tx, taken, entries)
    tx.dated_after(standing.closed_through)
    books = Books(taken.rows, standing.known, posting_ids)
    results = books.decide(entries, digests, draws or [None] * len(entries))
    if taken.new:
        await accounts.open_new(tx, taken.new)
    if books.entries:
        await write(tx, taken, books, _rows(tx, books, _Calendar(tx, standing)))
    elif changed := taken.changed():
        await accounts.update(tx, changed)
    return results, taken.rows


def _rows(tx: CellTx, books: Books, calendar: _Calendar) -> list[EntryRow]:
    """The entries with their places in the transaction and the ids of their postings."""
    postings = books.postings
    return [
        EntryRow(
            entry,
            digest,
            ordinal,
            end - start,
            calendar.effective(entry.effective_at),
            postings[start][0] if end > start else None,
            postings[end - 1][0] if end > start else None,
        )
        for ordinal, (entry, digest, start, end) in enumerate(
            books.entries, tx.append(len(books.entries))
        )
    ]


class _Calendar:
    """When entries take effect: not in the future, and never in a day that is closed.

    An entry without a date of its own is never dated before what is recorded already, so that the
    history of an account is in the order of effect too, but for the late ones.
    """

    def __init__(self, tx: CellTx, standing: Standing) -> None:
        self._now, self._zone = max(tx.now, standing.recorded_at), tx.time_zone
        self._closed = standing.closed_through
        self._cache: dict[datetime | None, Effective] = {}

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
