"""The decision on a batch: pure, exact, in order of arrival.

`Books` holds the locked accounts in memory while a batch is decided, and collects what is to be
written. A credit earlier in the batch can pay for a debit later in it; a refused entry leaves no
trace for those behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from paymaster.kernel.errors import Broken
from paymaster.kernel.money import MAX_MINOR
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Mode, Posted, Posting, Verdict

_EXACT, _POSTED = Mode.EXACT, Verdict.POSTED


@dataclass(slots=True)
class AccountRow:
    """A locked account; the decision works on it in place."""

    id: int
    account: Account
    balance: int
    floor: int | None
    ceiling: int | None
    postings: int
    last_posting_id: int | None
    closed: bool


@dataclass(slots=True)
class HoldRow:
    """A locked hold; the decision works on it in place."""

    id: int
    held: Account
    remaining: int
    state: str


@dataclass(frozen=True, slots=True)
class Draw:
    """What an entry takes out of a hold, and the hold's state once nothing remains."""

    hold: HoldRow
    amount: int
    final: str

    @property
    def possible(self) -> bool:
        """The hold is open and has as much left."""
        return self.hold.state == "open" and self.hold.remaining >= self.amount

    def take(self, amount: int) -> None:
        """Take `amount` out, or back in when it is negative."""
        self.hold.remaining -= amount
        self.hold.state = "open" if self.hold.remaining else self.final


PostingRow = tuple[
    int, int, AccountRow, AccountRow, int, int, int | None, int, int, int | None, int, int
]
"""A posting to write: id, entry id, source, destination, amount, requested; then for the source and
for the destination the posting before, the number of this one and the balance after it."""

Decided = tuple[Entry, bytes, int, int]
"""An entry that is posted, its digest, and where its postings begin and end in `Books.postings`."""


def linked(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Runs of the same link; entries without one stand alone. Raises Broken `link-scattered`."""
    seen: set[str] = set()
    for link, run in groupby(entries, key=lambda entry: entry.link):
        if link is None:
            for entry in run:
                yield (entry,)
            continue
        if link in seen:
            raise Broken("link-scattered", "Linked entries must stand next to each other.")
        seen.add(link)
        yield tuple(run)


@dataclass(slots=True)
class Books:
    """Accounts as locked, digests of the entries that are posted already, and what to write."""

    accounts: Mapping[Account, AccountRow]
    known: dict[int, bytes]
    posting_ids: Sequence[int]
    place: int = 0
    entries: list[Decided] = field(default_factory=list[Decided])
    postings: list[PostingRow] = field(default_factory=list[PostingRow])

    def decide(
        self, entries: Sequence[Entry], digests: Sequence[bytes], draws: Sequence[Draw | None]
    ) -> list[Posted]:
        """One verdict for each, in order. Raises Broken for links that are scattered.

        Each posting of the batch has its own id, whether it comes to be or not.
        """
        results: list[Posted] = []
        for group in linked(entries):
            start = len(results)
            if len(group) == 1:
                results.append(self._one(group[0], digests[start], draws[start]))
            else:
                end = start + len(group)
                results += self._group(group, digests[start:end], draws[start:end])
        return results

    def _group(
        self, group: Sequence[Entry], digests: Sequence[bytes], draws: Sequence[Draw | None]
    ) -> list[Posted]:
        """All of them or none."""
        mark = len(self.entries), len(self.postings)
        end = self.place + sum(len(entry.postings) for entry in group)
        results: list[Posted] = []
        for entry, digest, draw in zip(group, digests, draws, strict=True):
            result = self._one(entry, digest, draw)
            if not result.done:
                self._take_back(mark, zip(results, draws, strict=False))
                self.place = end
                return [
                    result if place == len(results) else Posted(member.id, Verdict.LINKED)
                    for place, member in enumerate(group)
                ]
            results.append(result)
        return results

    def _take_back(self, mark: tuple[int, int], done: Iterable[tuple[Posted, Draw | None]]) -> None:
        for result, draw in done:
            if draw is not None and result.verdict is _POSTED:
                draw.take(-draw.amount)
        for row in self.entries[mark[0] :]:
            del self.known[row[0].id]
        del self.entries[mark[0] :]
        self._undo(mark[1])

    def _one(self, entry: Entry, digest: bytes, draw: Draw | None) -> Posted:
        entry_id, place, accounts = entry.id, self.place, self.accounts
        self.place = place + len(entry.postings)
        before = self.known.get(entry_id)
        if before is not None:
            return Posted(entry_id, Verdict.DUPLICATE if before == digest else Verdict.CONFLICT)
        if draw is not None and not draw.possible:
            return Posted(entry_id, Verdict.HOLD)
        start, shared = len(self.postings), 0
        moved: list[int] = []
        for number, posting in enumerate(entry.postings, place):
            source, destination = accounts[posting.source], accounts[posting.destination]
            asked, mode = posting.amount.minor, posting.mode
            if mode is not _EXACT:
                asked = max(asked - shared, 0)
                if mode is Mode.UP_TO:
                    asked = _room(asked, source, destination)
                shared += asked
            refused = _refused(posting, asked, source, destination)
            if refused is not None:
                self._undo(start)
                return Posted(entry_id, refused)
            moved.append(asked)
            if asked:
                self.postings.append(
                    _move(
                        self.posting_ids[number],
                        entry_id,
                        posting.amount.minor,
                        asked,
                        source,
                        destination,
                    )
                )
        self.entries.append((entry, digest, start, len(self.postings)))
        self.known[entry_id] = digest
        if draw is not None:
            draw.take(draw.amount)
        return Posted(entry_id, _POSTED, tuple(moved))

    def _undo(self, start: int) -> None:
        """Take back all postings from `start` on, the last one first."""
        while len(self.postings) > start:
            row = self.postings.pop()
            for account, change, previous in ((row[2], row[4], row[6]), (row[3], -row[4], row[9])):
                account.balance += change
                account.postings -= 1
                account.last_posting_id = previous


def _move(
    number: int,
    entry_id: int,
    requested: int,
    amount: int,
    source: AccountRow,
    destination: AccountRow,
) -> PostingRow:
    """Move `amount` between two accounts."""
    source_before, destination_before = source.last_posting_id, destination.last_posting_id
    source.last_posting_id = destination.last_posting_id = number
    source.balance = left = source.balance - amount
    source.postings = source_number = source.postings + 1
    destination.balance = reached = destination.balance + amount
    destination.postings = destination_number = destination.postings + 1
    return (
        number,
        entry_id,
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
    )


def _refused(
    posting: Posting, asked: int, source: AccountRow, destination: AccountRow
) -> Verdict | None:
    """Why `asked` cannot move; None when it can."""
    if not posting.source.asset == posting.destination.asset == posting.amount.currency:
        return Verdict.CURRENCY
    if source.closed or destination.closed:
        return Verdict.CLOSED
    left, reached = source.balance - asked, destination.balance + asked
    if source.floor is None:
        if left < -MAX_MINOR:
            return Verdict.OVERFLOW
    elif left < source.floor:
        return Verdict.INSUFFICIENT
    if destination.ceiling is None:
        if reached > MAX_MINOR:
            return Verdict.OVERFLOW
    elif reached > destination.ceiling:
        return Verdict.CEILING
    return None


def _room(asked: int, source: AccountRow, destination: AccountRow) -> int:
    """As much of `asked` as source and destination have room for."""
    least = -MAX_MINOR if source.floor is None else source.floor
    most = MAX_MINOR if destination.ceiling is None else destination.ceiling
    return max(min(asked, source.balance - least, most - destination.balance), 0)
