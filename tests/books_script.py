"""Random work for the books, from a seed: batches that are calm, that hold one fault, or many.

A script names accounts, entries and holds by small numbers of its own, so that it can be played
again on fresh ones. While it is written, a model goes along, so that amounts meet the balances:
exactly all, one too many, one too few.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from tests.books_model import MOST, Model

from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Mode, Posting
from paymaster.ledger.hold import Final, Reserve, Settle

FEW, MANY, SPONSORS, RAILS = range(1, 6), range(1, 151), (11, 12), (21, 22)
HOUSE, GIANT = 0, 31
OWNERS = 200
"""Owner numbers that one script may use."""
ODD_TEXT = (
    "",
    "\t",
    "a\nb",
    "\\N",
    "\\",
    "\\.",
    "'",
    '"',
    "\r",
    "{}",
    ",",
    "\u00e9\u4e2d\U0001f600",
)
"""Subjects and evidence that a careless way of writing rows would spoil."""
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Call:
    """One call of `post`, `reserve` or `settle`."""

    verb: str
    commands: tuple[Entry | Reserve | Settle, ...]


@dataclass(frozen=True)
class Transaction:
    """Calls in one transaction; `ending` is commit, abort, or lost (done, but nobody was told).

    A `slow` one is of a process whose clock is behind the others'.
    """

    calls: tuple[Call, ...]
    ending: str = "commit"
    slow: bool = False


@dataclass(frozen=True)
class Close:
    """Close or open an account."""

    account: Account
    closed: bool


@dataclass(frozen=True)
class Wait:
    """Let time pass; then perhaps close the days up to so many before today."""

    hours: int
    close_days_before: int | None = None


Step = Transaction | Close | Wait


@dataclass
class Writer:
    """Writes one script. `shared` leaves out what copies of one entry at once may not do.

    `wide` is about many users in large batches, most of them of exact amounts only.
    """

    rng: random.Random
    shared: bool = False
    wide: bool = False
    scout: Model = field(default_factory=lambda: Model("Europe/Berlin"))
    entry_ids: int = 0
    hold_ids: int = 0
    used: dict[str, list[Entry | Reserve | Settle]] = field(default_factory=dict)
    links: int = 0
    exact: bool = False

    @property
    def users(self) -> range:
        """Whose accounts are moved about."""
        return MANY if self.wide else FEW

    def script(self, batches: int) -> list[Step]:
        """Steps with about so many calls, money at the start."""
        steps: list[Step] = [self._funding()]
        while batches > 0:
            if self.rng.random() < 0.06:
                steps.append(self._interlude())
            else:
                transaction = self._transaction()
                batches -= len(transaction.calls)
                steps.append(transaction)
        return steps

    # ------------------------------------------------------------ steps

    def _funding(self) -> Transaction:
        def eur(minor: int) -> Money:
            return Money(minor, "EUR")

        grants = [recipes.fund(RAILS[0], sponsor, eur(1_000_000)) for sponsor in SPONSORS]
        for user in self.users:
            grants.append((_move("budget", SPONSORS[0], "available", user, 400),))
            grants.append((_move("budget", SPONSORS[1], "vesting", user, 90),))
        entries = [self._numbered(postings) for postings in grants]
        call = Call("post", tuple(entries))
        self.scout.post(EPOCH, entries)
        self.used["post"] = list(entries)
        return Transaction((call,))

    def _interlude(self) -> Step:
        if self.rng.random() < 0.5:
            known = sorted(self.scout.balances)
            account = self.rng.choice(known)
            closed = account not in self.scout.closed
            if closed and account.owner_id not in self.users and self.rng.random() < 0.7:
                account = self.rng.choice([a for a in known if a.owner_id in self.users])
                closed = account not in self.scout.closed
            (self.scout.closed.add if closed else self.scout.closed.discard)(account)
            return Close(account, closed)
        days = self.rng.choice([None, None, 0, 1]) if not self.shared else 0
        return Wait(self.rng.choice([1, 6, 13]), days)

    def _transaction(self) -> Transaction:
        ending = self.rng.choices(["commit", "abort", "lost"], [86, 7, 7])[0]
        before = self.scout.copy()
        # At once, two transactions of several calls meet in deadlocks: retried, but after a second.
        count = 1 if self.shared else self.rng.choices([1, 2, 3], [80, 15, 5])[0]
        calls = tuple(self._call() for _ in range(count))
        if ending == "abort":
            self.scout = before
        return Transaction(calls, ending, self.rng.random() < 0.15)

    def _call(self) -> Call:
        verb = self.rng.choices(["post", "reserve", "settle"], [60, 18, 22])[0]
        if verb == "settle" and not self.scout.holds:
            verb = "reserve"
        moods = [35, 45, 20] if self.wide else [35, 25, 40]
        mood = self.rng.choices(["calm", "one", "wild"], moods)[0]
        size = self.rng.choices([1, 4, 12, 40, 150], [20, 38, 30, 10, 2])[0]
        if self.wide:
            size = self.rng.choices([10, 100, 300], [20, 40, 40])[0]
        size = self.rng.randint(1, size)
        self.exact = self.wide and self.rng.random() < 0.8
        odd_one = self.rng.randrange(size)
        before = self.scout.copy()
        make: dict[str, Callable[[bool], Entry | Reserve | Settle]] = {
            "post": self._entry, "reserve": self._reserve, "settle": self._settle
        }  # fmt: skip
        commands: list[Entry | Reserve | Settle] = []
        link, linked = None, 0
        used = self.used.setdefault(verb, [])
        for place in range(size):
            odd = mood == "wild" or (mood == "one" and place == odd_one)
            if linked == 0:
                link = None
                if odd and self.rng.random() < 0.2:
                    self.links, linked = self.links + 1, self.rng.randint(2, 4)
                    link = f"link-{self.links}"
            linked = max(0, linked - 1)
            pool = [*used, *commands]
            if odd and pool and self.rng.random() < (0.2 if mood == "wild" else 0.5):
                command = self._again(self.rng.choice(pool[-60:]))
            else:
                command = make[verb](odd)
            command = _linked(command, link)
            self._scouted(verb, [_linked(command, None)])
            commands.append(command)
        used += commands
        self.scout = before
        self._scouted(verb, commands)
        return Call(verb, tuple(commands))

    def _scouted(self, verb: str, commands: Sequence[Entry | Reserve | Settle]) -> None:
        getattr(self.scout, verb)(EPOCH, commands)

    # ------------------------------------------------------------ commands

    def _numbered(self, postings: tuple[Posting, ...], kind: str = "test") -> Entry:
        self.entry_ids += 1
        moment = None
        if self.rng.random() < (0.4 if self.shared else 0.15):
            moment = EPOCH + timedelta(hours=self.rng.choice([*range(-60, 0), *range(1, 20)]))
        subject, evidence = f"s{self.rng.randint(1, 3)}", dict[str, object]()
        if self.rng.random() < 0.1:
            subject = self.rng.choice(ODD_TEXT)
            evidence = {self.rng.choice(ODD_TEXT): [self.rng.choice(ODD_TEXT), 1, None]}
        reverses = self.rng.choice([None] * 9 + [self.entry_ids])
        version = self.rng.choice([1] * 9 + [2])
        return Entry(
            self.entry_ids, kind, subject, postings, moment, evidence, reverses, None, version
        )

    def _entry(self, odd: bool) -> Entry:
        if not odd:
            return self._numbered(self._plain())
        kind = self.rng.random()
        if kind < 0.02 and not self.shared:
            return self._numbered(())
        if kind < 0.1:
            return self._numbered(self._giant())
        if kind < 0.4 and not self.exact:
            return self._numbered(self._recipe())
        count = self.rng.choices([1, 2, 3, 5], [45, 30, 20, 5])[0]
        return self._numbered(tuple(self._any() for _ in range(count)))

    def _plain(self) -> tuple[Posting, ...]:
        user, amount = self.rng.choice(self.users), self.rng.choice([1, 2, 5])
        if self.rng.random() < 0.7:
            return (_move("budget", self.rng.choice(SPONSORS), "available", user, amount),)
        return (_move("available", user, "clearing", self.rng.choice(RAILS), amount),)

    def _recipe(self) -> tuple[Posting, ...]:
        user, sponsor = self.rng.choice(self.users), self.rng.choice(SPONSORS)
        available = Account("available", user, "EUR")
        debt, vesting = Account("debt", user, "EUR"), Account("vesting", user, "EUR")
        some = Money(self._amount(available, debt), "EUR")
        ripe = Money(self._amount(vesting, available), "EUR")
        zero = Money(0, "EUR")
        return self.rng.choice([
            lambda: recipes.reward(sponsor, user, some, vests=False, owes=True, commission=zero),
            lambda: recipes.reward(sponsor, user, some, vests=True, owes=False, commission=some),
            lambda: recipes.mature(user, ripe, owes=self.rng.random() < 0.5),
            lambda: recipes.reverse(sponsor, user, some + ripe, self.rng.choice([ripe, zero])),
            lambda: recipes.reverse(sponsor, user, some, zero),
            lambda: recipes.write_off(user, some),
            lambda: (recipes.recover(user, some),),
        ])()  # fmt: skip

    def _any(self) -> Posting:
        while True:
            source, destination = self._account(), self._account()
            if source != destination:
                break
        money = Money(self._amount(source, destination), self.rng.choice(["EUR"] * 14 + ["JPY"]))
        mode = Mode.EXACT if self.exact else self.rng.choices(list(Mode), [60, 25, 15])[0]
        return Posting(source, destination, money, mode)

    def _account(self) -> Account:
        kind = self.rng.choice(
            ["available"] * 4 + ["vesting", "debt", "debt", "budget", "cash", "clearing", "loss"]
        )
        owner = HOUSE
        if kind in ("available", "vesting", "debt"):
            owner = self.rng.choice(self.users)
        elif kind != "loss":
            owner = self.rng.choice(SPONSORS if kind == "budget" else RAILS)
        return Account(kind, owner, self.rng.choice(["EUR"] * 24 + ["JPY"]))

    def _amount(self, source: Account, destination: Account) -> int:
        """Small, or at the edge of what the accounts have."""
        edges = [self.scout.balance(source), -self.scout.balance(destination)]
        edge = self.rng.choice(edges) + self.rng.choice([-1, 0, 0, 1])
        amount = edge if self.rng.random() < 0.5 else self.rng.choice([1, 5, 20, 100])
        return min(max(1, amount), 2000)

    def _giant(self) -> tuple[Posting, ...]:
        sides = [Account(k, GIANT, "EUR") for k in ("cash", "budget", "clearing", "suspense")]
        source, destination = self.rng.sample(sides, 2)
        amount = self.rng.choice([MOST, MOST - 1, MOST // 2, MOST // 2 + 1, 1])
        mode = Mode.EXACT if self.exact else self.rng.choices(list(Mode), [70, 20, 10])[0]
        return (Posting(source, destination, Money(amount, "EUR"), mode),)

    def _reserve(self, odd: bool) -> Reserve:
        user = self.rng.choice(self.users)
        available, held = Account("available", user, "EUR"), Account("held", user, "EUR")
        amount = self._amount(available, held) if odd else self.rng.choice([1, 3, 7])
        self.hold_ids += 1
        entry = self._numbered(recipes.request(user, Money(amount, "EUR")), "request")
        expires = EPOCH + timedelta(hours=4) if self.rng.random() < 0.3 else None
        return Reserve(self.hold_ids, entry, "withdrawal", f"wd{self.hold_ids}", expires)

    def _settle(self, odd: bool) -> Settle:
        standing = [n for n, hold in self.scout.holds.items() if hold.state == "open"]
        number = self.rng.choice(standing if standing and not odd else sorted(self.scout.holds))
        hold = self.scout.holds[number]
        user, left = hold.held.owner_id, hold.remaining
        part = self.rng.choice([left, left, (left + 1) // 2, 1])
        amount = Money(max(1, left + 1 if odd and self.rng.random() < 0.2 else part), "EUR")
        if odd and self.rng.random() < 0.05:
            number = self.hold_ids + 1000
        ends: list[Final] = ["captured", "captured", "released", "expired"]
        final = self.rng.choice(ends)
        if final == "captured":
            fee = Money(self.rng.choice([0, 0, 1]) if amount.minor > 1 else 0, "EUR")
            rail = self.rng.choice(RAILS)
            postings = recipes.paid(user, rail, amount - fee, fee)
        else:
            postings = recipes.release(user, amount)
            if odd and not self.exact and self.rng.random() < 0.4:
                postings = (*postings, recipes.recover(user, amount))
            if odd and self.rng.random() < 0.2:
                postings = (*postings, self._any())
        return Settle(number, self._numbered(postings, final), amount, final)

    def _again(self, command: Entry | Reserve | Settle) -> Entry | Reserve | Settle:
        """The same once more; or the same with what does not count changed; or another content."""
        entry = command if isinstance(command, Entry) else command.entry
        what = self.rng.random()
        if what < 0.5:
            return command
        if what < 0.7:
            entry = replace(entry, evidence={"again": 1}, effective_at=None)
        elif what < 0.85 or not isinstance(command, Entry) or not entry.postings:
            entry = replace(entry, subject=f"{entry.subject}-other")
        else:
            first = entry.postings[0]
            changed = self.rng.choice([
                replace(first, amount=first.amount + Money(1, first.amount.currency))
                if first.amount.minor < MOST else replace(first, mode=Mode.UP_TO),
                replace(first, mode=Mode.REST if first.mode is Mode.EXACT else Mode.EXACT),
                Posting(first.destination, first.source, first.amount, first.mode),
            ])  # fmt: skip
            entry = replace(entry, postings=(changed, *entry.postings[1:]))
        return entry if isinstance(command, Entry) else replace(command, entry=entry)


def _move(kind: str, owner: int, other: str, other_owner: int, minor: int) -> Posting:
    source, destination = Account(kind, owner, "EUR"), Account(other, other_owner, "EUR")
    return Posting(source, destination, Money(minor, "EUR"))


def _linked(command: Entry | Reserve | Settle, link: str | None) -> Entry | Reserve | Settle:
    if isinstance(command, Entry):
        return replace(command, link=link)
    return replace(command, entry=replace(command.entry, link=link))


def told(steps: Sequence[Step]) -> str:
    """A script as text, one command a line."""
    lines: list[str] = []
    for step in steps:
        if not isinstance(step, Transaction):
            lines.append(str(step))
            continue
        for call in step.calls:
            lines.append(f"{step.ending} {call.verb}")
            lines += [f"    {_line(command)}" for command in call.commands]
    return "\n".join(lines)


def _line(command: Entry | Reserve | Settle) -> str:
    if isinstance(command, Reserve):
        return f"hold {command.hold_id}: {_line(command.entry)}"
    if isinstance(command, Settle):
        return f"hold {command.hold_id} {command.final} {command.amount}: {_line(command.entry)}"
    postings = " + ".join(
        f"{p.source.kind}:{p.source.owner_id}:{p.source.asset} > {p.destination.kind}:"
        f"{p.destination.owner_id}:{p.destination.asset} {p.mode} {p.amount.minor}"
        f"{p.amount.currency}"
        for p in command.postings
    )
    link = f" [{command.link}]" if command.link else ""
    return f"{command.id} {command.kind} {command.subject}{link}: {postings}"
