"""Seeded storms: providers that fail in every way, dispatchers that die, messages in any order.

Whatever happens, nobody is paid twice, nobody's money is given back and paid as well, the books
prove, and when the weather clears everything reaches an end. The seed decides the weather; how
tasks interleave is the machine's own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import LAG, AskableRail, FileRail
from tests.withdrawals import Earner, assert_proven, available
from tests.world import PostgresServer

from paymaster.dispatch import window
from paymaster.dispatch.run import Dispatcher
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.errors import NeverSent, RailRefused, RailUnknown
from paymaster.kernel.ids import new_trace_id
from paymaster.rails.base import Notice, Outcome, Prepared, RailAccount, RemoteFile, Verdict
from paymaster.settle.apply import apply_due
from paymaster.settle.files import poll
from paymaster.settle.webhook import receive

STEPS = 60
SEEDS = int(os.environ.get("PAYMASTER_STORMS", "4"))
"""How many storms; more of them before a release."""
ENDS = ("paid", "failed", "returned")


class Weather:
    """What the seed decides about one provider."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.clock: ManualClock | None = None
        self.stormy = True
        self.away = False
        """Nothing reaches it."""
        self.refused: dict[str, str] = {}
        """Orders with a definite no: the same key gets the same answer for ever."""
        self.seen_at: dict[str, datetime] = {}

    def strikes(self, chance: float) -> bool:
        return self.stormy and self.random.random() < chance

    async def before(self, key: str) -> None:
        """Anything that may happen before the order is looked at."""
        if self.strikes(0.1):
            await asyncio.sleep(self.random.random() / 50)
        if self.away or self.strikes(0.15):
            raise NeverSent("provider-unreachable", "No connection.")
        if self.strikes(0.15):
            raise RailUnknown("provider-silent", "Gone before it arrived.")
        if key in self.refused or (key not in self.seen_at and self.strikes(0.15)):
            code = self.random.choice(["wallet_unknown", "insufficient_funds", "invalid_request"])
            self.refused.setdefault(key, code)
            raise RailRefused("provider-refused", "No.", extra={"code": self.refused[key]})

    def executed(self, key: str) -> None:
        assert self.clock is not None
        self.seen_at.setdefault(key, self.clock.now())

    def after(self) -> None:
        """Anything that may happen once it was executed."""
        if self.strikes(0.2):
            raise RailUnknown("provider-silent", "The answer was lost.")
        if self.strikes(0.1):
            raise RuntimeError("a fault in the rail")


class StormyWallet(AskableRail):
    def __init__(self, weather: Weather, name: str = "wallet") -> None:
        super().__init__(name, kinds=frozenset({"sandbox-wallet"}))
        self.weather = weather

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        (key,) = prepared.keys
        await self.weather.before(key)
        if key not in self.weather.seen_at:
            self.paid[key] += 1
        self.weather.executed(key)
        self.weather.after()
        return [Outcome(key, Verdict.ACCEPTED)]

    async def query(self, account: RailAccount, key: str) -> Outcome:
        weather = self.weather
        if weather.strikes(0.3):
            raise RailUnknown("provider-silent", "No answer.")
        assert weather.clock is not None
        since = weather.seen_at.get(key)
        # The provider's own lag: what has just been paid cannot be found yet.
        if since is not None and weather.clock.now() - since >= LAG - timedelta(seconds=1):
            return Outcome(key, Verdict.PAID)
        return Outcome(key, Verdict.NOT_FOUND)


class StormyBank(FileRail):
    """Refuses a second copy of a file by itself, so that the same file may be sent again."""

    def __init__(self, weather: Weather) -> None:
        super().__init__("bank", batch_items=4, replay_window=timedelta(days=30))
        self.weather = weather
        self.reports = 0

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        await self.weather.before(prepared.batch_key)
        if prepared.batch_key not in self.weather.seen_at:
            for key in prepared.keys:
                refused = self.weather.strikes(0.2)
                self.paid[key] += not refused
            self.orders.append(prepared)
        self.weather.executed(prepared.batch_key)
        self.weather.after()
        return [Outcome(key, Verdict.ACCEPTED) for key in prepared.keys]

    def report(self) -> None:
        """Leave a report about all that was executed, and about the files that were refused."""
        self.reports += 1
        name = f"report-{self.reports}.xml"
        self.notices[name] = [
            Notice(
                f"r/{key}",
                Outcome(key, Verdict.PAID)
                if self.paid[key]
                else Outcome(key, Verdict.REJECTED, code="MS03"),
            )
            for order in self.orders
            for key in order.keys
        ] + [
            Notice(f"r/{key}", Outcome(key, Verdict.REJECTED, code=code), key)
            for key, code in self.weather.refused.items()
        ]
        self.out.append(RemoteFile(name, name.encode()))


class Storm:
    """One run of one seed."""

    def __init__(self, payouts: Payouts, wallet: StormyWallet, bank: StormyBank, random: Random):
        self.payouts, self.wallet, self.bank, self.random = payouts, wallet, bank, random
        self.dispatchers = [payouts.dispatcher(), payouts.dispatcher()]
        self.earners: list[Earner] = []
        self.events = 0

    async def someone_asks(self) -> None:
        number = len(self.earners) + 1
        kind = self.random.choice(["iban", "sandbox-wallet"])
        earner = await new_payee(self.payouts, number, kind=kind)
        self.earners.append(earner)
        await approved(self.payouts, earner, "10.00")

    async def dispatch(self) -> None:
        await self.random.choice(self.dispatchers).tick(1)
        await asyncio.sleep(self.random.random() / 100)

    async def process_dies(self) -> None:
        number = self.random.randrange(len(self.dispatchers))
        dead: Dispatcher = self.dispatchers[number]
        self.dispatchers[number] = self.payouts.dispatcher()
        await dead.stop()

    async def provider_calls(self) -> None:
        """Webhooks about what was really paid: repeated, reordered, forged."""
        for key in self.random.sample(list(self.wallet.paid), min(3, len(self.wallet.paid))):
            self.events += 1
            verdict = self.random.choice([Verdict.ACCEPTED, Verdict.PAID])
            now = self.payouts.world.clock.now()
            call = self.wallet.call(key, verdict, f"ev_{self.random.randrange(self.events)}", now)
            forged = self.random.random() < 0.2
            headers = {"X-Signature": "0" * 64} if forged else call["headers"]
            work = receive(
                self.payouts.world.dbs, self.payouts.rails, self.payouts.sealer, 1, "wallet",
                headers, call["body"], new_trace_id(),
            )  # fmt: skip
            if forged:
                with pytest.raises(Exception, match="webhook-signature"):
                    await work
            else:
                await work

    async def bank_reports(self) -> None:
        async def no_statements(*_: object) -> None:
            raise AssertionError("there are none")

        self.bank.report()
        world, account = self.payouts.world, self.payouts.accounts["bank"]
        await poll(world.dbs, self.payouts.rails, self.payouts.sealer, account, no_statements)

    async def settle(self) -> None:
        await apply_due(self.payouts.world.dbs.cell(1), self.payouts.sealer, self.random)

    async def time_passes(self) -> None:
        seconds = self.random.choice([1, 5, 30, 61, 125, 700])
        self.payouts.world.clock.advance(timedelta(seconds=seconds))

    async def window_closes(self) -> None:
        bank_id = self.payouts.accounts["bank"].id
        await self.payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "now"))

    async def rages(self) -> None:
        acts = [
            (self.someone_asks, 3), (self.dispatch, 8), (self.process_dies, 1),
            (self.provider_calls, 2), (self.bank_reports, 1), (self.settle, 3),
            (self.time_passes, 4), (self.window_closes, 1),
        ]  # fmt: skip
        for _ in range(STEPS):
            (act,) = self.random.choices([a for a, _ in acts], [w for _, w in acts])
            await act()
            await assert_paid_once(self.payouts)

    async def clears(self) -> None:
        self.wallet.weather.stormy = self.bank.weather.stormy = False
        for _ in range(40):
            for act in (self.window_closes, self.bank_reports, self.settle):
                await act()
            for dispatcher in self.dispatchers:
                await self.payouts.run(dispatcher)
            if not await self.payouts.value(
                "SELECT count(*) FROM withdrawal WHERE state <> ALL(%s)", list(ENDS)
            ):
                return
            self.payouts.world.clock.advance(timedelta(minutes=20))
        left = await self.payouts.world.read(
            lambda tx: tx.tuples(
                "SELECT w.state, w.reason, w.due_at, a.state, a.tries, a.due_at, b.state, b.tries,"
                " b.due_at, b.detail FROM withdrawal w LEFT JOIN attempt a ON"
                " a.withdrawal_id = w.id LEFT JOIN batch b ON b.id = a.batch_id"
                " WHERE w.state <> ALL(%s)",
                (list(ENDS),),
            )
        )
        raise AssertionError(f"not everything reached an end: {left}")


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_storm_pays_nobody_twice_and_everything_reaches_an_end(
    postgres: PostgresServer, seed: int
) -> None:
    random = Random(seed)
    wallet, bank = StormyWallet(Weather(random)), StormyBank(Weather(random))
    async with payout_world(postgres, wallet, bank) as payouts:
        wallet.weather.clock = bank.weather.clock = payouts.world.clock
        storm = Storm(payouts, wallet, bank, random)
        await storm.rages()
        await storm.clears()
        for dispatcher in storm.dispatchers:
            await dispatcher.stop()
        await assert_paid_once(payouts)
        await assert_proven(payouts.world)
        really = sum(wallet.paid.values()) + sum(bank.paid.values())
        paid = await payouts.value("SELECT count(*) FROM withdrawal WHERE state = 'paid'")
        assert paid == really > 0
        for earner in storm.earners:
            assert await available(payouts.world, earner) in {
                ("90.00", "0.00"),
                ("100.00", "0.00"),
            }
        assert await payouts.value("SELECT count(*) FROM inbox WHERE due_at IS NOT NULL") == 0
