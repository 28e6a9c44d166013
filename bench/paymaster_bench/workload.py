"""Which accounts and which amounts: the traffic of an app that pays its users.

Accounts are numbered: users 0..n-1, then the sponsors' budgets, then clearing, then cash. Users
and sponsors are drawn by Zipf's law (exponent 0.99), the ranks scattered over the numbers so that
busy accounts do not lie side by side.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from paymaster.kernel.money import Money
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting

ASSET = "EUR"
EXPONENT = 0.99
SPONSORS = 100
RAIL_ACCOUNT = 7
EARNED_SHARE = 0.7
"""Sponsor to user; the rest is user to clearing."""

USER_OPENING = 1_000_000
SPONSOR_OPENING = 10**14
TOO_MUCH = 10**13
"""More than any user can have."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """The numbered accounts of a world with so many users."""

    users: int

    @property
    def clearing(self) -> int:
        """The clearing account's number."""
        return self.users + SPONSORS

    @property
    def cash(self) -> int:
        """The cash account's number: where all money came from."""
        return self.users + SPONSORS + 1

    def budget(self, sponsor: int) -> int:
        """A sponsor's budget's number."""
        return self.users + sponsor

    def account(self, number: int) -> Account:
        """The account as the ledger names it; owners count from 1."""
        if number < self.users:
            return Account("available", number + 1, ASSET)
        if number < self.clearing:
            return Account("budget", number - self.users + 1, ASSET)
        return Account("clearing" if number == self.clearing else "cash", RAIL_ACCOUNT, ASSET)

    def has_floor(self, number: int) -> bool:
        """Whether the account may not fall below zero."""
        return number < self.clearing

    def opening(self, number: int) -> int:
        """What the world gave it at the start."""
        if number < self.users:
            return USER_OPENING
        if number < self.clearing:
            return SPONSOR_OPENING
        if number == self.clearing:
            return 0
        return -(self.users * USER_OPENING + SPONSORS * SPONSOR_OPENING)


class Zipf:
    """Draws numbers below `size` by Zipf's law."""

    def __init__(self, size: int, random: Random) -> None:
        self._random = random
        self._size = size
        self._weights = array("d", accumulate((k + 1) ** -EXPONENT for k in range(size)))
        self._step = _coprime(size)

    def draw(self, count: int) -> list[int]:
        """`count` numbers."""
        ranks = self._random.choices(range(self._size), cum_weights=self._weights, k=count)
        return [rank * self._step % self._size for rank in ranks]


def _coprime(size: int) -> int:
    """A step that visits every number below `size` once."""
    step = int(size * 0.618) | 1
    while _divisor(step, size) != 1:
        step += 2
    return step


def _divisor(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


@dataclass(frozen=True, slots=True)
class Shape:
    """What the batches of a row look like; shares of all entries."""

    batch: int
    hot: bool = False
    duplicates: float = 0.0
    insufficient: float = 0.0


@dataclass(slots=True)
class Move:
    """One entry of one posting, in numbers; `verdict` is filled in when it was answered."""

    entry_id: int
    source: int
    destination: int
    amount: int


@dataclass(slots=True)
class Batch:
    """Entries that are posted in one call, and the same in numbers for the model."""

    entries: list[Entry]
    moves: list[Move]


@dataclass(slots=True)
class Traffic:
    """Makes batches; remembers some entries so as to send them again."""

    accounts: Accounts
    random: Random
    make_ids: Callable[[int], Sequence[int]]
    _users: Zipf = field(init=False)
    _sponsors: Zipf = field(init=False)
    _sent: list[tuple[Entry, Move]] = field(default_factory=list[tuple[Entry, Move]])
    _named: dict[int, Account] = field(default_factory=dict[int, Account])

    def __post_init__(self) -> None:
        self._users = Zipf(self.accounts.users, self.random)
        self._sponsors = Zipf(SPONSORS, self.random)

    def batches(self, shape: Shape, count: int) -> list[Batch]:
        """`count` batches, ready to be posted."""
        return [self._batch(shape) for _ in range(count)]

    def _batch(self, shape: Shape) -> Batch:
        random, size = self.random, shape.batch
        users, sponsors = self._users.draw(size), self._sponsors.draw(size)
        entries: list[Entry] = []
        moves: list[Move] = []
        for entry_id, user, sponsor in zip(self.make_ids(size), users, sponsors, strict=True):
            chance = random.random()
            if chance < shape.duplicates and self._sent:
                entry, move = random.choice(self._sent)
            else:
                refused = chance < shape.duplicates + shape.insufficient
                move = self._move(shape, entry_id, user, sponsor, refused=refused)
                entry = self._entry(move)
            entries.append(entry)
            moves.append(move)
        if shape.duplicates:
            self._sent = list(zip(entries, moves, strict=True))
        return Batch(entries, moves)

    def _move(self, shape: Shape, entry_id: int, user: int, sponsor: int, *, refused: bool) -> Move:
        if refused:
            return Move(entry_id, user, self.accounts.clearing, TOO_MUCH)
        amount = self.random.randint(1, 500)
        if shape.hot:
            return Move(entry_id, self.accounts.budget(0), user, amount)
        if self.random.random() < EARNED_SHARE:
            return Move(entry_id, self.accounts.budget(sponsor), user, amount)
        return Move(entry_id, user, self.accounts.clearing, amount)

    def _entry(self, move: Move) -> Entry:
        posting = Posting(
            self._account(move.source), self._account(move.destination), Money(move.amount, ASSET)
        )
        return Entry(move.entry_id, "bench", f"move-{move.entry_id}", (posting,))

    def _account(self, number: int) -> Account:
        found = self._named.get(number)
        if found is None:
            found = self._named[number] = self.accounts.account(number)
        return found
