"""A check at work: send as dispatch does, learn as settlement does, and register checks by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from tests.contract.harness import Harness

from paymaster.kernel.errors import NeverSent, RailDoubted, RailRefused
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.rails.base import (
    FetchesFiles,
    Instruction,
    Notice,
    Outcome,
    Prepared,
    Queries,
    Rail,
    ReadsWebhooks,
    RemoteFile,
    Statement,
    Verdict,
)

PATIENCE_SECONDS = 10.0


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
    doubted: dict[str, str | None] = field(default_factory=dict[str, "str | None"])
    """Keys that were refused by a no which a look-up has to bear out, with the codes."""

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
        except RailDoubted as error:
            self.doubted.update(dict.fromkeys(order.keys, error.extra.get("code")))
            return "doubted"
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
                    self.rail.read_webhook(self.harness.account, each.headers, each.body, each.at)
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
                    if outcome.verdict is Verdict.NOT_FOUND and key in self.doubted:
                        dead = Outcome(key, Verdict.REJECTED, code=self.doubted[key])
                        self.belief.learn(dead)
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


def begin(harness: Harness) -> Run:
    """A check with a rail of its own."""
    return Run(harness, harness.make_rail())


def has_queries(harness: Harness) -> bool:
    return isinstance(harness.make_rail(), Queries)


def has_webhooks(harness: Harness) -> bool:
    return isinstance(harness.make_rail(), ReadsWebhooks)


def has_files(harness: Harness) -> bool:
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
