"""`post`: the only writer of the books.

Two steps in the caller's transaction: lock every touched account in order of id, then, in new
statements, look up what is posted already, decide each entry in order of arrival, and write. The
decision is exact and sequential: a credit earlier in the batch can pay for a debit later in it,
and a refused entry leaves no trace for those behind it. A refusal is a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import groupby

from paymaster.db.tx import CellTx
from paymaster.kernel.clock import business_day, start_of_day
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import MAX_MINOR
from paymaster.ledger import store
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Mode, Posted, Posting, Verdict
from paymaster.ledger.store import AccountRow, DayRow, EntryRow, PostingRow

BATCH_LIMIT = 10_000
"""Entries in one call; callers split larger ones."""


async def post(tx: CellTx, entries: Sequence[Entry]) -> list[Posted]:
    """Post entries; one verdict for each, in order. Raises Broken for entries no code may make."""
    if not entries:
        return []
    if len(entries) > BATCH_LIMIT:
        raise Broken("batch-limit", f"{len(entries)} entries in one call; split them.")
    wanted = {a for e in entries for p in e.postings for a in (p.source, p.destination)}
    accounts = await store.lock_accounts(tx, list(wanted))
    known = await store.known_entries(tx, [entry.id for entry in entries])
    closed = await store.closed_through(tx)
    tx.dated_after(closed)
    calendar = _Calendar(tx.now, tx.time_zone, closed)
    count = sum(len(entry.postings) for entry in entries)
    book = _Book(accounts, known, calendar, iter(tx.ids(count)))
    results = [result for group in _linked(entries) for result in book.post_group(group)]
    await _write(tx, book)
    return results


def _linked(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Runs of the same link; entries without one stand alone."""
    seen: set[str] = set()
    for link, run in groupby(entries, key=lambda entry: entry.link):
        if link is None:
            yield from ([entry] for entry in run)
            continue
        if link in seen:
            raise Broken("link-scattered", "Linked entries must stand next to each other.")
        seen.add(link)
        yield list(run)


async def _write(tx: CellTx, book: _Book) -> None:
    if not book.entries:
        return
    first = tx.append(len(book.entries))
    rows = [
        EntryRow(
            entry.id,
            first + index,
            entry.kind,
            entry.recipe_version,
            entry.subject,
            stored,
            *book.calendar.effective(entry.effective_at),
            entry.digest(),
            dict(entry.evidence),
            entry.reverses_id,
        )
        for index, (entry, stored) in enumerate(book.entries)
    ]
    await store.insert_entries(tx, rows)
    if book.postings:
        await store.insert_postings(tx, book.postings)
        await store.insert_days(tx, book.days)
        touched = {row.source_id for row in book.postings}
        touched.update(row.destination_id for row in book.postings)
        await store.update_accounts(
            tx, [row for row in book.accounts.values() if row.id in touched]
        )


class _Calendar:
    """When entries take effect: not in the future, and never in a day that is closed.

    `today` is the business day of recording: histories and `account_day` follow it.
    """

    def __init__(self, now: datetime, zone: str, closed: date | None) -> None:
        self._now, self._zone, self._closed = now, zone, closed
        self.today = business_day(now, zone)
        self._cache: dict[datetime, tuple[datetime, date]] = {}

    def effective(self, at: datetime | None) -> tuple[datetime, date]:
        moment = min(at, self._now) if at else self._now
        found = self._cache.get(moment)
        if found is None:
            day = business_day(moment, self._zone)
            if self._closed is not None and day <= self._closed:
                day = self._closed + timedelta(days=1)
                found = start_of_day(day, self._zone), day
            else:
                found = moment, day
            self._cache[moment] = found
        return found


_Undo = list[tuple[AccountRow, int, int, int | None, date | None]]


class _Refused(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict)
        self.verdict = verdict


@dataclass(slots=True)
class _Book:
    """The accounts in memory while a batch is decided, and the rows it will write."""

    accounts: dict[Account, AccountRow]
    known: dict[int, bytes]
    calendar: _Calendar
    posting_ids: Iterator[int]
    entries: list[tuple[Entry, int]] = field(default_factory=list[tuple[Entry, int]])
    postings: list[PostingRow] = field(default_factory=list[PostingRow])
    days: list[DayRow] = field(default_factory=list[DayRow])

    def post_group(self, group: Sequence[Entry]) -> list[Posted]:
        """Post all of a link or none; one entry alone is a group of one."""
        mark = (len(self.entries), len(self.postings), len(self.days))
        undo: _Undo = []
        results: list[Posted] = []
        for entry in group:
            result = self._seen(entry) or self._try(entry, undo)
            if not result.done:
                self._roll_back(mark, undo)
                return [
                    result if place == len(results) else Posted(member.id, Verdict.LINKED)
                    for place, member in enumerate(group)
                ]
            results.append(result)
        for entry, _ in self.entries[mark[0] :]:
            self.known[entry.id] = entry.digest()
        return results

    def _seen(self, entry: Entry) -> Posted | None:
        digest = self.known.get(entry.id)
        if digest is None:
            return None
        same = digest == entry.digest()
        return Posted(entry.id, Verdict.DUPLICATE if same else Verdict.CONFLICT)

    def _try(self, entry: Entry, undo: _Undo) -> Posted:
        mark = len(self.postings)
        shared = 0
        moved: list[int] = []
        try:
            for posting in entry.postings:
                source, destination = self._pair(posting)
                amount = _amount(posting, shared, source, destination)
                moved.append(amount)
                if posting.mode is not Mode.EXACT:
                    shared += amount
                if amount:
                    self._move(entry.id, posting, amount, source, destination, undo)
        except _Refused as refused:
            return Posted(entry.id, refused.verdict)
        self.entries.append((entry, len(self.postings) - mark))
        return Posted(entry.id, Verdict.POSTED, tuple(moved))

    def _pair(self, posting: Posting) -> tuple[AccountRow, AccountRow]:
        source, destination = self.accounts[posting.source], self.accounts[posting.destination]
        if not source.asset == destination.asset == posting.amount.currency:
            raise _Refused(Verdict.CURRENCY)
        if source.closed or destination.closed:
            raise _Refused(Verdict.CLOSED)
        return source, destination

    def _move(
        self,
        entry_id: int,
        posting: Posting,
        amount: int,
        source: AccountRow,
        destination: AccountRow,
        undo: _Undo,
    ) -> None:
        posting_id, day = next(self.posting_ids), self.calendar.today
        previous = source.last_posting_id, destination.last_posting_id
        for account, change in ((source, -amount), (destination, amount)):
            undo.append(
                (
                    account,
                    account.balance,
                    account.postings,
                    account.last_posting_id,
                    account.last_day,
                )
            )
            if account.last_day is None or account.last_day < day:
                self.days.append(DayRow(account.id, day, account.balance, posting_id))
                account.last_day = day
            account.balance += change
            account.postings += 1
            account.last_posting_id = posting_id
        self.postings.append(
            PostingRow(
                posting_id,
                entry_id,
                source.id,
                destination.id,
                amount,
                posting.amount.currency,
                posting.amount.minor,
                previous[0],
                source.postings,
                source.balance,
                previous[1],
                destination.postings,
                destination.balance,
            )
        )

    def _roll_back(
        self,
        mark: tuple[int, int, int],
        undo: _Undo,
    ) -> None:
        for account, balance, postings, last_posting_id, last_day in reversed(undo):
            account.balance, account.postings = balance, postings
            account.last_posting_id, account.last_day = last_posting_id, last_day
        del self.entries[mark[0] :]
        del self.postings[mark[1] :]
        del self.days[mark[2] :]


def _amount(posting: Posting, shared: int, source: AccountRow, destination: AccountRow) -> int:
    """How much the posting moves now. Raises _Refused when that is not possible."""
    asked = posting.amount.minor
    if posting.mode is not Mode.EXACT:
        asked = max(asked - shared, 0)
    out = MAX_MINOR + source.balance if source.floor is None else source.balance - source.floor
    room = (
        MAX_MINOR - destination.balance
        if destination.ceiling is None
        else destination.ceiling - destination.balance
    )
    if posting.mode is Mode.UP_TO:
        return max(min(asked, out, room), 0)
    if asked > out:
        raise _Refused(Verdict.OVERFLOW if source.floor is None else Verdict.INSUFFICIENT)
    if asked > room:
        raise _Refused(Verdict.OVERFLOW if destination.ceiling is None else Verdict.CEILING)
    return asked
