"""The conformance suite: what every rail must do, checked against a world that knows the truth.

A rail passes when every check that applies to its capabilities passes. A check is a coroutine over
a `Harness`: the rail under test and its provider (a sandbox, or a provider's own test system). The
checks believe the provider's books, never the rail.

    problems = await run(harness)        # {} when the rail conforms
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from paymaster.kernel.errors import (
    Broken,
    NeverSent,
    RailRefused,
    Refusal,
    Unauthenticated,
)
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.rails.base import (
    FetchesFiles,
    Instruction,
    LineKind,
    Notice,
    Outcome,
    Prepared,
    Queries,
    Rail,
    RailAccount,
    ReadsWebhooks,
    RemoteFile,
    Statement,
    Verdict,
)

PATIENCE_SECONDS = 10.0


class Fault(StrEnum):
    """What a provider can do to the next call."""

    LOSE_ANSWER = "lose-answer"
    """Execute the order, then drop the connection without a word."""
    FAIL_BEFORE = "fail-before"
    """Answer with a failure of its own, having executed nothing."""
    PAY_LATER = "pay-later"
    """Take orders in and execute them after a while."""


class Fate(StrEnum):
    """What becomes of payments to a payee."""

    REFUSED = "refused"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification as the provider sent it. Header names are lower case."""

    headers: Mapping[str, str]
    body: bytes
    at: datetime


class Harness(Protocol):
    """A rail, an account, and the world behind it."""

    account: RailAccount
    faults: frozenset[Fault]
    seen: set[str]
    """Names of the files that were read, by all checks together."""

    def make_rail(self) -> Rail:
        """The rail as a process that has just started would make it."""
        ...

    def instructions(self, count: int, amounts: Sequence[int] = ()) -> list[Instruction]:
        """New payments to payees that nobody was ever paid to; amounts in minor units."""
        ...

    def batch_key(self) -> str:
        """A new name for an order."""
        ...

    def now(self) -> datetime:
        """The moment that the provider signs and dates with."""
        ...

    def unreachable(self) -> RailAccount:
        """The same account at an address where nobody listens."""
        ...

    def foreign(self) -> RailAccount:
        """Another account of the same kind, that the provider has no statements for."""
        ...

    async def decide(self, instruction: Instruction, fate: Fate) -> None:
        """What is to become of payments to this payee."""
        ...

    async def arm(self, fault: Fault) -> None:
        """Let the next order meet a fault."""
        ...

    async def rest(self) -> None:
        """Wait until the provider has nothing left to do or to tell."""
        ...

    async def close_day(self) -> None:
        """End the provider's business day: statements appear."""
        ...

    async def times_paid(self, instruction: Instruction) -> int:
        """How often the provider paid this reference, by its own books."""
        ...

    async def minor_paid(self, instruction: Instruction) -> int:
        """How much the payee got altogether, before returns."""
        ...

    async def calls(self) -> int:
        """How many orders have reached the provider so far."""
        ...

    async def deliveries(self) -> list[Delivery]:
        """Notifications since the last time this was asked."""
        ...


@dataclass(slots=True)
class Belief:
    """What our side knows: everything that outcomes and notices said, by key."""

    said: dict[str, list[Outcome]] = field(default_factory=dict[str, list[Outcome]])
    statements: list[Statement] = field(default_factory=list[Statement])
    files: list[RemoteFile] = field(default_factory=list[RemoteFile])
    events: set[str] = field(default_factory=set[str])
    orders: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def learn(self, outcome: Outcome) -> None:
        """Take an outcome in."""
        self.said.setdefault(outcome.key, []).append(outcome)

    def hear(self, notices: Iterable[Notice]) -> None:
        """Take notices in, each event once; one about an order counts for its payments."""
        for notice in notices:
            if notice.event_id in self.events:
                continue
            self.events.add(notice.event_id)
            if notice.batch_key is None:
                self.learn(notice.outcome)
            for key in self.orders.get(notice.batch_key or "", ()):
                if key not in notice.but_not:
                    self.learn(replace(notice.outcome, key=key))

    def verdicts(self, key: str) -> set[Verdict]:
        """Everything ever said about a key."""
        return {outcome.verdict for outcome in self.said.get(key, ())}

    def final(self, key: str) -> Verdict | None:
        """The last word, if there is one."""
        order = (Verdict.RETURNED, Verdict.PAID, Verdict.REJECTED)
        return next((verdict for verdict in order if verdict in self.verdicts(key)), None)


@dataclass(slots=True)
class Run:
    """One check at work: the rail, what was prepared, what is believed."""

    harness: Harness
    rail: Rail
    belief: Belief = field(default_factory=Belief)

    def prepare(self, batch: Sequence[Instruction]) -> list[Prepared]:
        """Orders for a batch, of as many payments as the rail takes."""
        size = self.rail.caps.batch_items
        orders = [
            self.rail.prepare(
                self.harness.account,
                self.harness.batch_key(),
                batch[start : start + size],
                self.harness.now(),
            )
            for start in range(0, len(batch), size)
        ]
        self.belief.orders.update({order.batch_key: order.keys for order in orders})
        return orders

    async def send(self, order: Prepared) -> str:
        """Send as dispatch does: any exception but a definite one is unknown. Says which it was."""
        try:
            outcomes = await self.rail.send(self.harness.account, order)
        except NeverSent:
            return "never-sent"
        except RailRefused as error:
            for key in order.keys:
                self.belief.learn(Outcome(key, Verdict.REJECTED, code=error.extra.get("code")))
            return "refused"
        except Exception:  # noqa: BLE001 - the contract: whatever else comes out is unknown
            return "unknown"
        expect(
            sorted(outcome.key for outcome in outcomes) == sorted(order.keys),
            "an order was answered without an outcome for each of its keys",
        )
        for outcome in outcomes:
            self.belief.learn(outcome)
        return "answered"

    async def listen(self) -> None:
        """Read what the provider has told since: notifications and files."""
        deliveries = await self.harness.deliveries()
        if isinstance(self.rail, ReadsWebhooks):
            for each in deliveries:
                self.belief.hear(
                    self.rail.read_webhook(
                        self.harness.account, each.headers, each.body, self.harness.now()
                    )
                )
        if isinstance(self.rail, FetchesFiles):
            seen = frozenset(self.harness.seen)
            for file in await self.rail.fetch(self.harness.account, seen):
                expect(file.name not in self.harness.seen, "a file was given twice")
                self.harness.seen.add(file.name)
                self.belief.files.append(file)
                notices, statements = self.rail.read_file(
                    self.harness.account, file.name, file.body
                )
                self.belief.hear(notices)
                self.belief.statements.extend(statements)

    async def resolve(self, orders: Sequence[Prepared]) -> None:
        """Find out what became of every key, by every means the rail has."""
        await self.harness.rest()
        await self.listen()
        for order in orders:
            for key in self._open(order):
                if isinstance(self.rail, Queries):
                    outcome = await self.rail.query(self.harness.account, key)
                    expect(outcome.key == key, "a look-up answered about another key")
                    self.belief.learn(outcome)
            if self._open(order) and self.rail.caps.replay_window is not None:
                await self.send(order)
        await self.harness.rest()
        await self.listen()
        if any(self._open(order) for order in orders):
            await self.harness.close_day()
            await self.listen()
        for key in (key for order in orders for key in order.keys):
            said = self.belief.verdicts(key)
            contradiction = Verdict.REJECTED in said and {Verdict.PAID, Verdict.RETURNED} & said
            expect(not contradiction, "a key was reported as rejected and as paid")

    def _open(self, order: Prepared) -> list[str]:
        return [key for key in order.keys if self.belief.final(key) is None]


class NotConforming(AssertionError):
    """A rail that must not be used."""


def expect(condition: bool, why: str) -> None:
    """Raises NotConforming."""
    if not condition:
        raise NotConforming(why)


Check = Callable[[Harness], Awaitable[None]]
CHECKS: dict[str, Check] = {}
"""Every check by name."""

_NEEDS: dict[str, Callable[[Harness], bool]] = {}


def check(name: str, needs: Callable[[Harness], bool] = lambda _: True) -> Callable[[Check], Check]:
    """Register a check and what a rail must be able to do for it to apply."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        _NEEDS[name] = needs
        return function

    return register


def applies(name: str, harness: Harness) -> bool:
    """Whether a check says anything about this rail."""
    return _NEEDS[name](harness)


async def run(harness: Harness) -> dict[str, str]:
    """Run every check that applies; what is wrong, by check."""
    problems: dict[str, str] = {}
    for name, function in CHECKS.items():
        if applies(name, harness):
            try:
                await function(harness)
            except Exception as error:  # noqa: BLE001 - a rail that breaks a check fails it
                problems[name] = f"{type(error).__name__}: {error}"
    return problems


def begin(harness: Harness) -> Run:
    """A check with a rail of its own."""
    return Run(harness, harness.make_rail())


def _queries(harness: Harness) -> bool:
    return isinstance(harness.make_rail(), Queries)


def _webhooks(harness: Harness) -> bool:
    return isinstance(harness.make_rail(), ReadsWebhooks)


def _files(harness: Harness) -> bool:
    return isinstance(harness.make_rail(), FetchesFiles)


@asynccontextmanager
async def in_transaction() -> AsyncGenerator[None]:
    """As if a database transaction were open."""
    token = TRANSACTION_OPEN.set(True)
    try:
        yield
    finally:
        TRANSACTION_OPEN.reset(token)


async def patiently(question: Callable[[], Awaitable[bool]], why: str) -> None:
    """Ask until the answer is yes. Raises NotConforming when patience ends."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await question():  # noqa: ASYNC110 - the world is outside
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise NotConforming(why) from None


async def expect_paid(work: Run, batch: Sequence[Instruction], times: int = 1) -> None:
    """The provider's books say that each was paid so often, to the cent."""
    for item in batch:
        paid = await work.harness.times_paid(item)
        expect(paid == times, f"paid {paid} times, not {times}")
        minor = await work.harness.minor_paid(item)
        expect(minor == times * item.amount.minor, f"paid {minor}, not {item.amount.minor}")


# ------------------------------------------------------------------ orders


@check("prepare-is-deterministic")
async def prepare_is_deterministic(harness: Harness) -> None:
    """Equal instructions make equal bytes, in this process and in the next."""
    batch = harness.instructions(min(3, harness.make_rail().caps.batch_items))
    key, now = harness.batch_key(), harness.now()
    made = [harness.make_rail().prepare(harness.account, key, list(batch), now) for _ in range(3)]
    expect(made[0] == made[1] == made[2], "the same order was written in different bytes")
    expect(made[0].batch_key == key, "the order is not called what it was to be called")
    expect(made[0].keys == tuple(item.key for item in batch), "keys are missing or reordered")


@check("refuses-what-it-cannot-pay")
async def refuses_what_it_cannot_pay(harness: Harness) -> None:
    """A wrong kind of payee or currency is refused by name, before anything is sent."""
    (item,) = harness.instructions(1)
    strangers = (
        replace(item, payee=replace(item.payee, kind="no-such-kind")),
        replace(item, amount=replace(item.amount, currency="XOF")),
        replace(item, amount=replace(item.amount, minor=0)),
    )
    for stranger in strangers:
        try:
            harness.make_rail().prepare(
                harness.account, harness.batch_key(), [stranger], harness.now()
            )
        except RailRefused as error:
            pointers = [problem.pointer for problem in error.problems]
            expect(pointers == ["/" + item.key], "the refusal does not name the instruction")
        else:
            raise NotConforming("an order was made that cannot be paid")


@check("pays-once")
async def pays_once(harness: Harness) -> None:
    """What is sent is paid, once, and known to be paid."""
    work = begin(harness)
    batch = harness.instructions(1)
    orders = work.prepare(batch)
    expect(await work.send(orders[0]) == "answered", "a plain order was not answered")
    await work.resolve(orders)
    await expect_paid(work, batch)
    expect(work.belief.final(batch[0].key) is Verdict.PAID, "a payment is not known to be paid")


@check("pays-every-item")
async def pays_every_item(harness: Harness) -> None:
    """All payments of an order are paid, none of them twice."""
    work = begin(harness)
    batch = harness.instructions(7)
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
    await work.resolve(orders)
    await expect_paid(work, batch)
    finals = {work.belief.final(item.key) for item in batch}
    expect(finals == {Verdict.PAID}, "payments are not known to be paid")


@check("amounts-are-exact")
async def amounts_are_exact(harness: Harness) -> None:
    """Every amount arrives as it was ordered, to the minor unit."""
    work = begin(harness)
    batch = harness.instructions(6, amounts=(1, 9, 99, 101, 12_345, 100_000))
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
    await work.resolve(orders)
    await expect_paid(work, batch)


@check("paid-means-paid")
async def paid_means_paid(harness: Harness) -> None:
    """An order that the provider has only taken in is not called paid."""
    work = begin(harness)
    batch = harness.instructions(2)
    if Fault.PAY_LATER in harness.faults:
        await harness.arm(Fault.PAY_LATER)
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
    for item in batch:
        if work.belief.final(item.key) is Verdict.PAID:
            expect(await harness.times_paid(item) > 0, "an order was called paid before it was")
    await work.resolve(orders)
    await expect_paid(work, batch)


@check("same-bytes-again-pay-once")
async def same_bytes_again_pay_once(harness: Harness) -> None:
    """The same order sent again, by this process or the next, pays nothing more."""
    work = begin(harness)
    batch = harness.instructions(2)
    orders = work.prepare(batch)
    for order in orders:
        await work.send(order)
        await work.send(order)
    await harness.rest()
    work.rail = harness.make_rail()
    for order in orders:
        await work.send(order)
    await work.resolve(orders)
    await expect_paid(work, batch)
    for item in batch:
        said = work.belief.verdicts(item.key)
        expect(Verdict.REJECTED not in said, "a second copy was read as a rejection of the first")


@check("unreachable-was-never-sent")
async def unreachable_was_never_sent(harness: Harness) -> None:
    """Without a connection nothing has left, and that is known."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    try:
        await work.rail.send(harness.unreachable(), order)
    except NeverSent:
        pass
    else:
        raise NotConforming("an order without a connection was answered")
    await expect_paid(work, batch, times=0)
    if isinstance(work.rail, Queries):
        outcome = await work.rail.query(harness.unreachable(), batch[0].key)
        expect(outcome.verdict is Verdict.UNKNOWN, "a look-up that failed was taken for an answer")


@check("lost-answer-is-unknown", lambda harness: Fault.LOSE_ANSWER in harness.faults)
async def lost_answer_is_unknown(harness: Harness) -> None:
    """An order whose answer is lost was paid: it is neither refused nor unsent, and is found."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    await harness.arm(Fault.LOSE_ANSWER)
    said = await work.send(order)
    expect(said in {"unknown", "answered"}, f"an order that may be paid was called {said}")
    expect(work.belief.final(batch[0].key) is not Verdict.REJECTED, "unknown was called rejected")
    work.rail = harness.make_rail()
    if work.rail.caps.replay_window is not None:
        await work.send(order)
    await work.resolve([order])
    await expect_paid(work, batch)
    expect(work.belief.final(batch[0].key) is Verdict.PAID, "a lost answer was never found")


@check("failure-is-unknown", lambda harness: Fault.FAIL_BEFORE in harness.faults)
async def failure_is_unknown(harness: Harness) -> None:
    """The provider's own failure proves nothing; the same bytes then pay once."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    await harness.arm(Fault.FAIL_BEFORE)
    said = await work.send(order)
    expect(said == "unknown", f"a failure of the provider was called {said}")
    await work.resolve([order])
    await expect_paid(work, batch)


@check("refusal-is-definite")
async def refusal_is_definite(harness: Harness) -> None:
    """A refused payment is known to be refused, with the provider's code, and stays unpaid."""
    work = begin(harness)
    batch = harness.instructions(1)
    await harness.decide(batch[0], Fate.REFUSED)
    orders = work.prepare(batch)
    await work.send(orders[0])
    await work.resolve(orders)
    key = batch[0].key
    expect(work.belief.final(key) is Verdict.REJECTED, "a refusal is not known to be one")
    codes = {each.code for each in work.belief.said[key] if each.verdict is Verdict.REJECTED}
    expect(bool(codes - {None}), "the provider's code is lost")
    await expect_paid(work, batch, times=0)


@check("returns-are-reported")
async def returns_are_reported(harness: Harness) -> None:
    """Money that comes back is known to have come back."""
    work = begin(harness)
    batch = harness.instructions(1)
    await harness.decide(batch[0], Fate.RETURNED)
    orders = work.prepare(batch)
    await work.send(orders[0])
    await work.resolve(orders)
    if work.belief.final(batch[0].key) is not Verdict.RETURNED:
        await harness.close_day()
        await work.listen()
    expect(work.belief.final(batch[0].key) is Verdict.RETURNED, "a return was not reported")


@check("look-up-is-about-the-key", _queries)
async def look_up_is_about_the_key(harness: Harness) -> None:
    """A look-up says nothing about other payments; a paid one is found."""
    work = begin(harness)
    paid, other = harness.instructions(2)
    orders = work.prepare([paid])
    await work.send(orders[0])
    await harness.rest()
    assert isinstance(work.rail, Queries)
    found = await work.rail.query(harness.account, paid.key)
    expect((found.key, found.verdict) == (paid.key, Verdict.PAID), "a paid key was not found")
    expect(found.amount in {None, paid.amount}, "a look-up names another amount")
    strange = await work.rail.query(harness.account, other.key)
    expect(strange.key == other.key, "a look-up answered about another key")
    expect(
        strange.verdict in {Verdict.NOT_FOUND, Verdict.UNKNOWN},
        f"a key that was never sent is called {strange.verdict}",
    )


@check("no-network-inside-a-transaction")
async def no_network_inside_a_transaction(harness: Harness) -> None:
    """While a transaction is open every call is refused before a byte leaves."""
    work = begin(harness)
    batch = harness.instructions(1)
    (order,) = work.prepare(batch)
    before = await harness.calls()
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: work.rail.send(harness.account, order)
    ]
    if isinstance(work.rail, Queries):
        queries = work.rail
        attempts.append(lambda: queries.query(harness.account, batch[0].key))
    if isinstance(work.rail, FetchesFiles):
        files = work.rail
        attempts.append(lambda: files.fetch(harness.account, frozenset()))
    for attempt in attempts:
        async with in_transaction():
            try:
                await attempt()
            except Broken as error:
                expect(error.slug == "network-inside-transaction", f"it broke as {error.slug}")
            else:
                raise NotConforming("a call was made while a transaction was open")
    await harness.rest()
    expect(await harness.calls() == before, "an order reached the provider")
    await expect_paid(work, batch, times=0)


# ------------------------------------------------------------------ notifications


async def genuine(work: Run) -> tuple[ReadsWebhooks, list[Delivery], Instruction]:
    """Pay, and wait for the notifications about it."""
    batch = work.harness.instructions(1)
    await work.harness.deliveries()
    for order in work.prepare(batch):
        await work.send(order)
    await work.harness.rest()
    found: list[Delivery] = []

    async def arrived() -> bool:
        found.extend(await work.harness.deliveries())
        return bool(found)

    await patiently(arrived, "the provider sent no notification")
    assert isinstance(work.rail, ReadsWebhooks)
    return work.rail, found, batch[0]


def refused(rail: ReadsWebhooks, account: RailAccount, sent: Delivery, now: datetime) -> str | None:
    """The slug with which a notification is refused; None when it is believed."""
    try:
        rail.read_webhook(account, sent.headers, sent.body, now)
    except Unauthenticated as error:
        return error.slug
    return None


@check("webhook-is-read", _webhooks)
async def webhook_is_read(harness: Harness) -> None:
    """A genuine notification is believed; read again it is the same event."""
    work = begin(harness)
    rail, found, item = await genuine(work)
    notices = [
        notice
        for each in found
        for notice in rail.read_webhook(harness.account, each.headers, each.body, harness.now())
    ]
    about = [notice for notice in notices if notice.outcome.key == item.key]
    expect(bool(about), "no notification speaks of the payment")
    again = [
        notice
        for each in found
        for notice in rail.read_webhook(harness.account, each.headers, each.body, harness.now())
    ]
    expect(notices == again, "a notification that is read again is another event")


@check("forged-webhook-is-refused", _webhooks)
async def forged_webhook_is_refused(harness: Harness) -> None:
    """A changed body, a changed header or a missing one is not believed."""
    work = begin(harness)
    rail, found, _ = await genuine(work)
    sent = found[0]
    forgeries = [replace(sent, body=sent.body + b" "), replace(sent, body=sent.body[:-1])]
    forgeries += [
        replace(sent, body=sent.body.replace(b"paid", b"fail")),
        replace(sent, headers={}),
    ]
    ours = [name for name in sent.headers if "signature" in name or "sign" in name]
    expect(bool(ours), "the harness knows of no signature header")
    for name in ours:
        value = sent.headers[name]
        turned = value[:-1] + ("0" if value[-1] != "0" else "1")
        forgeries.append(replace(sent, headers={**sent.headers, name: turned}))
        rest = {key: value for key, value in sent.headers.items() if key != name}
        forgeries.append(replace(sent, headers=rest))
    for forged in forgeries:
        slug = refused(rail, harness.account, forged, harness.now())
        expect(slug is not None, "a forged notification was believed")


@check("stale-webhook-is-refused", _webhooks)
async def stale_webhook_is_refused(harness: Harness) -> None:
    """A notification of another hour is not believed, whether past or future."""
    work = begin(harness)
    rail, found, _ = await genuine(work)
    for distance in (timedelta(hours=1), timedelta(hours=-1)):
        slug = refused(rail, harness.account, found[0], harness.now() + distance)
        expect(slug == "webhook-stale", "a stale notification was believed")


# ------------------------------------------------------------------ files


async def statements_of(work: Run, batch: Sequence[Instruction]) -> list[Statement]:
    """Pay, end the day, and read what appears."""
    await work.listen()
    work.belief.statements.clear()
    for order in work.prepare(batch):
        await work.send(order)
    await work.harness.rest()
    await work.harness.close_day()
    await work.listen()
    expect(bool(work.belief.statements), "no statement appeared")
    return work.belief.statements


@check("statement-equals-payments", _files)
async def statement_equals_payments(harness: Harness) -> None:
    """The statement has every payment once, to the cent, adds up, and is proof of payment."""
    work = begin(harness)
    batch = harness.instructions(4, amounts=(1, 250, 1999, 77_777))
    await harness.decide(batch[3], Fate.RETURNED)
    found = await statements_of(work, batch)
    for statement in found:
        expect(not statement.difference, f"a statement is off by {statement.difference}")
    lines = [line for statement in found for line in statement.lines]
    expect(len({line.line_id for line in lines}) == len(lines), "two lines have one id")
    for item in batch:
        out = [x for x in lines if x.reference == item.key and x.kind is LineKind.PAYOUT]
        expect(len(out) == 1, f"a payment has {len(out)} lines")
        expect(out[0].amount == -item.amount, "a line has another amount than the payment")
    back = [x for x in lines if x.reference == batch[3].key and x.kind is LineKind.RETURN]
    expect(len(back) == 1, "a return has no line")
    expect(back[0].amount == batch[3].amount, "a return has another amount")
    finals = [work.belief.final(item.key) for item in batch]
    expect(finals == [Verdict.PAID] * 3 + [Verdict.RETURNED], "a booked line proved nothing")


@check("files-are-fetched-once", _files)
async def files_are_fetched_once(harness: Harness) -> None:
    """What was seen is not given again; what is read again says the same."""
    work = begin(harness)
    await statements_of(work, harness.instructions(1))
    assert isinstance(work.rail, FetchesFiles)
    again = await work.rail.fetch(harness.account, frozenset(harness.seen))
    expect(list(again) == [], "a seen file came again")
    for file in work.belief.files:
        first = work.rail.read_file(harness.account, file.name, file.body)
        other = harness.make_rail()
        assert isinstance(other, FetchesFiles)
        second = other.read_file(harness.account, file.name, file.body)
        expect(first == second, "a file that is read again says something else")


@check("truncated-file-is-refused", _files)
async def truncated_file_is_refused(harness: Harness) -> None:
    """Part of a file is no file."""
    work = begin(harness)
    await statements_of(work, harness.instructions(2))
    assert isinstance(work.rail, FetchesFiles)
    for file in work.belief.files[-5:]:
        for share in (0, 30, 60, 95):
            part = file.body[: len(file.body) * share // 100]
            try:
                work.rail.read_file(harness.account, file.name, part)
            except Refusal as error:
                expect(error.slug.startswith("statement-"), f"it was refused as {error.slug}")
            else:
                raise NotConforming("a truncated file was believed")


@check("foreign-file-is-refused", _files)
async def foreign_file_is_refused(harness: Harness) -> None:
    """A statement of somebody else's account is not ours."""
    work = begin(harness)
    await statements_of(work, harness.instructions(1))
    assert isinstance(work.rail, FetchesFiles)
    statements = 0
    for file in work.belief.files:
        if not work.rail.read_file(harness.account, file.name, file.body)[1]:
            continue
        statements += 1
        try:
            work.rail.read_file(harness.foreign(), file.name, file.body)
        except Refusal as error:
            expect(error.slug == "statement-foreign", f"it was refused as {error.slug}")
        else:
            raise NotConforming("a foreign statement was believed")
    expect(statements > 0, "there was no statement to try")
