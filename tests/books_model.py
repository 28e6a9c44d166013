"""A plain model of the books, written apart from the ledger: dictionaries, one entry at a time.

It says what `post`, `reserve` and `settle` must answer and what must then be stored. It shares
with the ledger only the values that go in: entries, postings, money.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.hold import Reserve, Settle

NEVER_BELOW_ZERO = frozenset({"available", "vesting", "held", "reserve", "budget"})
NEVER_ABOVE_ZERO = frozenset({"debt"})
MOST = 2**63 - 1


class Answer(NamedTuple):
    """What became of an entry; `moved` only counts for one that was posted just now."""

    verdict: str
    moved: tuple[int, ...] = ()


class Line(NamedTuple):
    """A posting that is stored."""

    source: Account
    destination: Account
    amount: int
    asset: str
    requested: int


class Written(NamedTuple):
    """An entry that is stored."""

    id: int
    kind: str
    subject: str
    effective_at: datetime
    effective_day: date
    recipe_version: int
    evidence: Mapping[str, Any]
    reverses_id: int | None
    lines: tuple[Line, ...]


@dataclass
class Hold:
    """A hold as it must be stored."""

    available: Account
    held: Account
    amount: int
    remaining: int
    state: str
    reason: str
    subject: str
    expires_at: datetime | None


class _No(Exception):
    def __init__(self, verdict: str) -> None:
        super().__init__(verdict)
        self.verdict = verdict


def content(entry: Entry) -> tuple[object, ...]:
    """What must be the same in a repetition."""
    return entry.kind, entry.subject, tuple(_posting(p) for p in entry.postings)


def _posting(posting: Posting) -> tuple[object, ...]:
    money = posting.amount
    return posting.source, posting.destination, money.minor, money.currency, posting.mode.value


@dataclass
class Model:
    """The whole state; `zone` is that of business days."""

    zone: str
    balances: dict[Account, int] = field(default_factory=dict)
    closed: set[Account] = field(default_factory=set)
    closed_through: date | None = None
    contents: dict[int, tuple[object, ...]] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)
    holds: dict[int, Hold] = field(default_factory=dict)
    recorded_at: datetime | None = None
    """How far time had come in what was committed; entries are not dated before it by default."""
    late: set[int] = field(default_factory=set)
    """Entries that belong to a time before others that were recorded already."""

    def copy(self) -> Model:
        """The same state, to go on from apart."""
        twin = copy.copy(self)
        twin.balances, twin.closed = dict(self.balances), set(self.closed)
        twin.contents, twin.written = dict(self.contents), list(self.written)
        twin.holds = {number: copy.copy(hold) for number, hold in self.holds.items()}
        twin.late = set(self.late)
        return twin

    def balance(self, account: Account) -> int:
        """What came in less what went out."""
        return self.balances.get(account, 0)

    # ------------------------------------------------------------ what is asked of the ledger

    def post(self, now: datetime, entries: Sequence[Entry]) -> list[Answer]:
        """One after the other; those of one link together or not at all."""
        return self._in_groups(now, [(entry, None) for entry in entries])

    def reserve(self, now: datetime, commands: Sequence[Reserve]) -> list[Answer]:
        """Money set aside: the posting, and the hold beside it."""
        answers = self.post(now, [command.entry for command in commands])
        for command, answer in zip(commands, answers, strict=True):
            if answer.verdict == "posted":
                (posting,) = command.entry.postings
                amount = posting.amount.minor
                self.holds[command.hold_id] = Hold(
                    posting.source, posting.destination, amount, amount, "open",
                    command.reason, command.subject, command.expires_at,
                )  # fmt: skip
        return answers

    def settle(self, now: datetime, commands: Sequence[Settle]) -> list[Answer]:
        """Money out of holds, as long as they are open and have enough."""
        return self._in_groups(now, [(command.entry, command) for command in commands])

    # ------------------------------------------------------------ how

    def _in_groups(
        self, now: datetime, items: Sequence[tuple[Entry, Settle | None]]
    ) -> list[Answer]:
        answers: list[Answer] = []
        for group in _groups(items):
            before = self.copy() if len(group) > 1 else None
            found = [self._item(now, entry, command) for entry, command in group[:1]]
            for entry, command in group[1:]:
                if found[-1].verdict not in ("posted", "duplicate"):
                    break
                found.append(self._item(now, entry, command))
            if before is not None and found[-1].verdict not in ("posted", "duplicate"):
                self.__dict__.update(before.__dict__)
                linked = [Answer("linked")] * len(group)
                linked[len(found) - 1] = found[-1]
                found = linked
            answers += found
        return answers

    def _item(self, now: datetime, entry: Entry, command: Settle | None) -> Answer:
        known = self.contents.get(entry.id)
        if known is not None:
            return Answer("duplicate" if known == content(entry) else "conflict")
        hold = self.holds.get(command.hold_id) if command else None
        if command and (
            hold is None or hold.state != "open" or hold.remaining < command.amount.minor
        ):
            return Answer("hold")
        try:
            moved, lines = self._lines(entry)
        except _No as no:
            return Answer(no.verdict)
        self._write(now, entry, lines)
        if command and hold:
            hold.remaining -= command.amount.minor
            if hold.remaining == 0:
                hold.state = command.final
        return Answer("posted", moved)

    def _lines(self, entry: Entry) -> tuple[tuple[int, ...], list[Line]]:
        change: dict[Account, int] = {}
        moved: list[int] = []
        lines: list[Line] = []
        total = 0
        for posting in entry.postings:
            ends = posting.source, posting.destination
            if {account.asset for account in ends} != {posting.amount.currency}:
                raise _No("currency")
            if self.closed.intersection(ends):
                raise _No("closed")
            standing = [self.balance(a) + change.get(a, 0) for a in ends]
            amount = _movable(posting, total, *standing)
            if posting.mode.value != "exact":
                total += amount
            moved.append(amount)
            if amount:
                change[ends[0]] = change.get(ends[0], 0) - amount
                change[ends[1]] = change.get(ends[1], 0) + amount
                money = posting.amount
                lines.append(Line(*ends, amount, money.currency, money.minor))
        return tuple(moved), lines

    def _write(self, now: datetime, entry: Entry, lines: list[Line]) -> None:
        for line in lines:
            self.balances[line.source] = self.balance(line.source) - line.amount
            self.balances[line.destination] = self.balance(line.destination) + line.amount
        now = max(now, self.recorded_at or now)
        moment = now if entry.effective_at is None else min(entry.effective_at, now)
        day = _day(moment, self.zone)
        if self.closed_through is not None and day <= self.closed_through:
            day = self.closed_through + timedelta(days=1)
            midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(self.zone))
            moment = midnight.astimezone(UTC)
        if moment < now:
            self.late.add(entry.id)
        self.contents[entry.id] = content(entry)
        self.written.append(
            Written(
                entry.id, entry.kind, entry.subject, moment, day, entry.recipe_version,
                entry.evidence, entry.reverses_id, tuple(lines),
            )
        )  # fmt: skip


def _day(moment: datetime, zone: str) -> date:
    return moment.astimezone(ZoneInfo(zone)).date()


def _movable(posting: Posting, total: int, source: int, destination: int) -> int:
    """What the posting moves. Raises _No when that is less than it must."""
    mode, asked = posting.mode.value, posting.amount.minor
    if mode in ("up_to", "rest"):
        asked = max(0, asked - total)
    floored = posting.source.kind in NEVER_BELOW_ZERO
    capped = posting.destination.kind in NEVER_ABOVE_ZERO
    most_out = source - (0 if floored else -MOST)
    most_in = (0 if capped else MOST) - destination
    if mode == "up_to":
        return max(0, min(asked, most_out, most_in))
    if asked > most_out:
        raise _No("insufficient" if floored else "overflow")
    if asked > most_in:
        raise _No("ceiling" if capped else "overflow")
    return asked


def _groups(
    items: Sequence[tuple[Entry, Settle | None]],
) -> Iterator[list[tuple[Entry, Settle | None]]]:
    group: list[tuple[Entry, Settle | None]] = []
    for item in items:
        if group and (item[0].link is None or item[0].link != group[0][0].link):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
