"""Plays scripts of the books on a real cell and compares every answer and every row."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from tests.books_model import Answer, Model, Written
from tests.books_rows import Rows, read_rows
from tests.books_script import EPOCH, OWNERS, Call, Close, Step, Transaction, Wait
from tests.world import ACTOR, World

from paymaster.db import audit
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.errors import Busy
from paymaster.kernel.ids import new_trace_id
from paymaster.ledger import hold
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posted, Posting
from paymaster.ledger.hold import Reserve, Settle
from paymaster.ledger.post import post
from paymaster.ledger.statement import as_of

ZONE = "Europe/Berlin"
BASES: tuple[Literal["recorded", "effective"], ...] = ("recorded", "effective")
Command = Entry | Reserve | Settle
Verb = Callable[..., Awaitable[list[Posted]]]
Verbs = dict[str, Verb]
VERBS: Verbs = {"post": post, "reserve": hold.reserve, "settle": hold.settle}
_next_owner = iter(range(1000, 10**9, OWNERS))


@dataclass(frozen=True)
class Behind:
    """A clock that is two seconds behind another one."""

    clock: ManualClock

    def now(self) -> datetime:
        """The moment, as this one has it."""
        return self.clock.now() - timedelta(seconds=2)


class Wrong(AssertionError):
    """The ledger and the model do not say the same."""


class _Abort(Exception):
    pass


@dataclass
class Done:
    """A transaction that was committed: where it stands in the order, and what it answered."""

    commit_id: int
    now: datetime
    calls: list[tuple[Call, list[Posted]]]
    closed_through: date | None = None
    account: tuple[Account, bool] | None = None


@dataclass
class Play:
    """One script on accounts, entries and holds of its own."""

    world: World
    verbs: Verbs = field(default_factory=lambda: dict(VERBS))
    model: Model = field(default_factory=lambda: Model(ZONE))
    counted: Counter[str] = field(default_factory=Counter)
    base: int = field(default_factory=lambda: next(_next_owner))
    ids: dict[int, int] = field(default_factory=dict)
    batches: int = 0
    most_seconds: int = 86_400
    told: set[int] | None = None
    """At once: the holds that callers were told of."""

    async def begin(self, steps: Sequence[Step]) -> None:
        """Allocate the ids that the script needs, in another order than it uses them."""
        world = self.world
        world.clock.advance(timedelta(seconds=3))  # so that a slow clock is not before the start
        self.start = world.clock.now()
        self.slow = CellDb(
            world.cell.server, world.cell.name, Behind(world.clock), 1, world.cell.time_zone
        )
        ((self.model.closed_through, self.model.recorded_at),) = await world.read(
            lambda tx: tx.tuples("SELECT closed_through, recorded_at FROM head WHERE id = 1")
        )
        calls = [call for s in steps if isinstance(s, Transaction) for call in s.calls]
        numbers = [_entry_of(command).id for call in calls for command in call.commands]
        count = max(numbers, default=0) + 1

        async def take(tx: CellTx) -> list[int]:
            return tx.ids(2 * count)

        made = await self.world.run(take)
        random.Random(count).shuffle(made)
        self.ids = dict(enumerate(made))

    # ------------------------------------------------------------ from small numbers to real ones

    def call(self, call: Call) -> Call:
        return Call(call.verb, tuple(self._command(command) for command in call.commands))

    def _command(self, command: Command) -> Command:
        if isinstance(command, Entry):
            return self._entry(command)
        number = self.hold(command.hold_id)
        made = replace(command, hold_id=number, entry=self._entry(command.entry))
        if isinstance(made, Reserve) and made.expires_at is not None:
            made = replace(made, expires_at=self.start + (made.expires_at - EPOCH))
        return made

    def hold(self, number: int) -> int:
        # Holds count from 1 as entries do; their ids come from the other half.
        return self.ids.get(len(self.ids) // 2 + number, number)

    def account(self, account: Account) -> Account:
        return Account(account.kind, self.base + account.owner_id, account.asset)

    def _entry(self, entry: Entry) -> Entry:
        at = entry.effective_at
        return replace(
            entry,
            id=self.ids[entry.id],
            effective_at=None if at is None else self.start + (at - EPOCH),
            postings=tuple(
                Posting(self.account(p.source), self.account(p.destination), p.amount, p.mode)
                for p in entry.postings
            ),
        )

    # ------------------------------------------------------------ one after the other

    async def play(self, steps: Sequence[Step]) -> None:
        """Run the steps in order and compare each answer. Raises Wrong."""
        await self.begin(steps)
        for step in steps:
            if isinstance(step, Transaction):
                await self._transaction(step)
            else:
                done = await self.other(step)
                if done is not None:
                    self._take_over(done)
        await self.compare()

    async def _transaction(self, step: Transaction) -> None:
        for ending in ["commit", "commit"] if step.ending == "lost" else [step.ending]:
            done = await self.run(step, ending)
            trial = self.model.copy()
            self.replay(trial, done)
            if ending != "abort":
                self.model = trial
                self._take_over(done)

    async def run(self, step: Transaction, ending: str = "commit") -> Done:
        """The calls of a step in one transaction. An audit row gives it its place in the order."""
        calls = [self.call(call) for call in step.calls]
        if self.told is not None:
            calls = self._of_told_holds(calls)
        done: list[Done] = []

        async def work(tx: CellTx) -> None:
            await audit.record(tx, [audit.Act("test", "script")])
            answers = [(call, await self.verbs[call.verb](tx, call.commands)) for call in calls]
            done.append(Done(tx.commit_id, tx.now, answers))
            if ending == "abort":
                raise _Abort

        try:
            await (self.slow if step.slow else self.world.cell).run(ACTOR, new_trace_id(), work)
        except _Abort:
            return done[-1]
        self.batches += len(calls)
        if self.told is not None:
            self.told.update(_reserved(done[-1].calls))
        return done[-1]

    def _of_told_holds(self, calls: list[Call]) -> list[Call]:
        """A caller ends a hold after it was told of it, not while it is being made elsewhere."""
        known = {*(self.told or ()), *(c.hold_id for call in calls for c in call.commands
                                       if isinstance(c, Reserve))}  # fmt: skip
        return [
            Call(call.verb, tuple(c for c in call.commands
                                  if not isinstance(c, Settle) or c.hold_id in known))
            for call in calls
        ]  # fmt: skip

    async def other(self, step: Close | Wait) -> Done | None:
        """Close an account or let time pass."""
        if isinstance(step, Close):
            return await self._close(self.account(step.account), step.closed)
        self.world.clock.advance(timedelta(seconds=min(step.hours * 3600, self.most_seconds)))
        if step.close_days_before is None:
            return None
        return await self._close_days(step.close_days_before)

    async def _close(self, account: Account, closed: bool) -> Done:
        async def work(tx: CellTx) -> Done:
            await audit.record(tx, [audit.Act("test", "script")])
            rows = await tx.execute(
                "UPDATE account SET closed_at = %s WHERE kind = %s AND owner_id = %s"
                " AND asset = %s",
                (tx.now if closed else None, *account),
            )
            return Done(tx.commit_id, tx.now, [], account=(account, closed and rows > 0))

        return await self.world.run(work)

    async def _close_days(self, before: int) -> Done:
        async def work(tx: CellTx) -> Done:
            await audit.record(tx, [audit.Act("test", "script")])
            day = (tx.now - timedelta(days=before + 1)).date()
            await tx.execute(
                "UPDATE head SET closed_through = greatest(closed_through, %s) WHERE id = 1",
                (day,),
            )
            day = await tx.value("SELECT closed_through FROM head WHERE id = 1")
            return Done(tx.commit_id, tx.now, [], closed_through=day)

        return await self.world.run(work)

    def _take_over(self, done: Done) -> None:
        self.model.recorded_at = max(done.now, self.model.recorded_at or done.now)
        if done.account is not None:
            account, closed = done.account
            (self.model.closed.add if closed else self.model.closed.discard)(account)
        if done.closed_through is not None:
            self.model.closed_through = done.closed_through

    def replay(self, model: Model, done: Done) -> None:
        """The same calls on the model. Raises Wrong at the first other answer."""
        for call, answers in done.calls:
            expected: list[Answer] = getattr(model, call.verb)(done.now, call.commands)
            self.counted.update(answer.verdict for answer in expected)
            if len(answers) != len(expected):
                raise Wrong(f"{len(answers)} answers to {len(expected)} commands")
            for command, found, wanted in zip(call.commands, answers, expected, strict=True):
                entry = _entry_of(command)
                moved = found.moved if wanted.verdict == "posted" else ()
                if (found.entry_id, found.verdict, moved) != (entry.id, *wanted):
                    raise Wrong(f"{call.verb} {entry}: {found} instead of {wanted}")

    # ------------------------------------------------------------ at once

    async def play_at_once(self, steps: Sequence[Step], workers: int, rng: random.Random) -> None:
        """Run the first step, then the others at once, some of them twice, and replay the order
        in which they were committed. Raises Wrong."""
        await self._to_the_last_seconds_of_a_day()
        self.most_seconds, self.told = 3, set()
        await self.begin(steps)
        first, *rest = steps
        assert isinstance(first, Transaction)
        await self._transaction(first)
        lists = [[step for step in rest if rng.random() < 1.6 / workers] for _ in range(workers)]
        found = await asyncio.gather(
            *(self._worker(mine, random.Random(rng.random())) for mine in lists)
        )
        await self._replay_in_order([done for part in found for done in part])
        await self.compare()

    async def _to_the_last_seconds_of_a_day(self) -> None:
        """Ids are leased for a minute: while transactions are open, time may not leap."""
        now = self.world.clock.now().astimezone(ZoneInfo(ZONE))
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        self.world.clock.advance(midnight - timedelta(seconds=3) - now)

    async def _worker(self, steps: list[Step], rng: random.Random) -> list[Done]:
        found: list[Done] = []
        for step in steps:
            await asyncio.sleep(rng.choice([0, 0, 0.001]))
            if isinstance(step, Transaction):
                if step.ending == "abort":
                    await self._until_not_busy(lambda s=step: self.run(s, "abort"))
                found.append(await self._until_not_busy(lambda s=step: self.run(s)))
                if step.ending == "lost":
                    found.append(await self._until_not_busy(lambda s=step: self.run(s)))
            else:
                done = await self._until_not_busy(lambda s=step: self.other(s))
                found += [] if done is None else [done]
        return found

    async def _until_not_busy(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(20):
            try:
                return await attempt()
            except Busy:
                self.counted["busy"] += 1
        raise Wrong("busy for ever")

    async def _replay_in_order(self, found: list[Done]) -> None:
        rows = await self.world.read(
            lambda tx: tx.tuples(
                "SELECT id, first_seq FROM commit WHERE id = ANY(%s)",
                ([done.commit_id for done in found],),
            )
        )
        place = dict(rows)
        for done in sorted(found, key=lambda one: place[one.commit_id]):
            self.replay(self.model, done)
            self._take_over(done)

    # ------------------------------------------------------------ what is stored

    async def compare(self) -> None:
        """Every row that this script can have written equals the model. Raises Wrong."""
        rows = await self.world.read(
            lambda tx: read_rows(tx, self.base, self.base + OWNERS, list(self.ids.values()))
        )
        model = self.model
        written = rows.written
        if self.told is not None and len(written) == len(model.written):
            written = [_as_dated(*pair) for pair in zip(written, model.written, strict=True)]
        _same("entries", written, model.written)
        _same("balances", rows.balances, {a: b for a, b in model.balances.items() if b})
        _same("holds", rows.holds, {k: vars(h) for k, h in model.holds.items()})
        moving = {written.id for written in model.written if written.lines}
        await self._as_of(rows)
        _same("late entries", sorted(rows.late), sorted(model.late & moving))

    async def _as_of(self, rows: Rows) -> None:
        """Balances at moments around those at which something happened."""
        rng, now = random.Random(self.base), self.world.clock.now()
        moments = sorted({at for legs in rows.legs.values() for leg in legs for at in leg[1:]})
        for account in rng.sample(sorted(rows.legs), min(20, len(rows.legs))):
            at = rng.choice(moments) + timedelta(seconds=rng.choice([-1, 0, 0, 1]))
            basis = rng.choice(BASES)
            at = min(at, now)
            found = await self.world.read(
                lambda tx, a=account, at=at, basis=basis: as_of(tx, a, at, basis=basis)
            )
            expected = rows.as_of(account, at, basis)
            if found != expected:
                raise Wrong(f"{account} as of {at}, {basis}: {found} instead of {expected}")


def _entry_of(command: Command) -> Entry:
    return command if isinstance(command, Entry) else command.entry


def _reserved(calls: list[tuple[Call, list[Posted]]]) -> set[int]:
    return {
        command.hold_id
        for call, answers in calls
        for command, answer in zip(call.commands, answers, strict=True)
        if isinstance(command, Reserve) and answer.done
    }


def _as_dated(stored: Written, expected: Written) -> Written:
    """At once, an entry without a date may miss a moment that was recorded while it was decided."""
    early = expected.effective_at - stored.effective_at
    day = stored.effective_at.astimezone(ZoneInfo(ZONE)).date()
    if timedelta() < early < timedelta(seconds=30) and stored.effective_day == day:
        return stored._replace(
            effective_at=expected.effective_at, effective_day=expected.effective_day
        )
    return stored


def _same(what: str, stored: Any, expected: Any) -> None:
    if stored == expected:
        return
    if isinstance(stored, dict):
        odd = {k: (stored.get(k), expected.get(k)) for k in {*stored, *expected}
               if stored.get(k) != expected.get(k)}  # fmt: skip
        raise Wrong(f"{what}: {dict(list(odd.items())[:5])}")
    pairs = [(a, b) for a, b in zip(stored, expected, strict=False) if a != b][:2]
    raise Wrong(f"{what}: {len(stored)} stored, {len(expected)} expected, first {pairs}")
