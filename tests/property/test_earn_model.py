"""Rewards, reserve, withdrawals, reversals and debts against a plain model, in random order."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from random import Random

import pytest
from tests.clawing import DAY, PAID, Clawing, clawing_world, usd
from tests.world import PostgresServer

from paymaster.earn import clawback, debt
from paymaster.earn.clawback import Fate
from paymaster.earn.reversal import Took
from paymaster.earn.terms import share
from paymaster.withdraw.machine import Event

BUDGET = 100_000
CLEARS = {"camp": 0, "slow": 2}
PPM, KEPT_DAYS = 150_000, 3

LONG_SEEDS = int(os.environ.get("PAYMASTER_SEEDS", "8"))
"""How many long plays; more of them before a release."""


@dataclass
class Earned:
    """A reward: what was not taken back, what of it still vests, what of it is kept aside."""

    campaign: str
    left: int
    vests: int
    matures: float
    kept: int = 0
    released: float = 0
    told: dict[str, int] = field(default_factory=dict[str, int])


@dataclass
class Model:
    """One user's money in whole numbers, and where all the rest went."""

    rewards: dict[int, Earned] = field(default_factory=dict[int, Earned])
    available: int = 0
    debt: int = 0
    held: dict[int, int] = field(default_factory=dict[int, int])
    paid: dict[int, int] = field(default_factory=dict[int, int])
    budgets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLEARS, BUDGET))
    given_up: int = 0
    day: float = 0

    @property
    def kept(self) -> int:
        return sum(one.kept for one in self.rewards.values())

    def shown(self) -> dict[str, int]:
        found = {
            "available": self.available,
            "vesting": sum(one.vests for one in self.rewards.values()),
            "reserve": self.kept,
            "held": sum(self.held.values()),
            "debt": self.debt,
        }
        return {kind: minor for kind, minor in found.items() if minor}

    def come_free(self, minor: int) -> None:
        """Money becomes available: debt first."""
        pays = min(minor, self.debt)
        self.debt -= pays
        self.available += minor - pays

    def keep(self, one: Earned) -> None:
        one.kept = min(share(one.left, PPM), self.available)
        one.released = self.day + KEPT_DAYS
        self.available -= one.kept

    def earn(self, number: int, campaign: str, minor: int) -> None:
        self.budgets[campaign] -= minor
        one = self.rewards[number] = Earned(campaign, minor, 0, self.day + CLEARS[campaign])
        if CLEARS[campaign]:
            one.vests = minor
        else:
            self.come_free(minor)
            self.keep(one)

    def pass_days(self, days: int) -> None:
        self.day += days
        due = [one for one in self.rewards.values() if one.vests and one.matures <= self.day]
        for one in due:
            self.come_free(one.vests)
        for one in due:
            one.vests = 0
            self.keep(one)
        for one in self.rewards.values():
            if one.kept and one.released <= self.day:
                self.come_free(one.kept)
                one.kept = 0

    def reverse(self, number: int, minor: int) -> None:
        one = self.rewards[number]
        one.left -= minor
        self.budgets[one.campaign] += minor
        vests = min(minor, one.vests)
        one.vests -= vests
        free = min(minor - vests, self.available)
        self.available -= free
        left = minor - vests - free
        for other in (one, *self.rewards.values()):
            part = min(left, other.kept)
            other.kept -= part
            left -= part
        self.debt += left

    def reopen(self, minor: int) -> None:
        self.given_up -= minor
        free = min(minor, self.available)
        self.available -= free
        left = minor - free
        for one in self.rewards.values():
            part = min(left, one.kept)
            one.kept -= part
            left -= part
        self.debt += left

    def total(self) -> int:
        """Nothing is made and nothing is lost: what there is, less what is owed to us."""
        users = sum(self.shown().values()) - 2 * self.debt
        return users + sum(self.budgets.values()) + sum(self.paid.values()) - self.given_up


class Play:
    """The same acts on both."""

    def __init__(self, claw: Clawing, random: Random) -> None:
        self.claw, self.random, self.model = claw, random, Model()
        self.destination = 0
        self.early: list[str] = []
        self.write_offs: list[debt.WriteOff] = []

    async def begin(self) -> None:
        await self.claw.offer("slow", vesting_seconds=CLEARS["slow"] * DAY)
        await self.claw.put(reserve={"ppm": PPM, "seconds": KEPT_DAYS * DAY})
        terms = {"reserve": {"ppm": PPM, "seconds": KEPT_DAYS * DAY}, "loss": "sponsor"}
        await self.claw.put("campaign:slow", **terms)
        self.destination = await self.claw.destination()

    async def run(self, steps: int) -> None:
        acts = (
            [self.earn] * 4 + [self.pass_days] * 3 + [self.withdraw] * 4 + [self.reverse] * 4
            + [self.reverse_again, self.come_back, self.cancel, self.early_reversal]
            + [self.write_off, self.undo]
        )  # fmt: skip
        for _ in range(steps):
            act = self.random.choice(acts)
            await act()
            await self.compare(act.__name__)
        await self.claw.prove()

    async def compare(self, act: str) -> None:
        model = self.model
        assert await self.claw.balance() == model.shown(), act
        assert model.debt >= 0
        assert not (model.debt and (model.available or model.kept)), act
        budgets = {name: await self.claw.budget(name) for name in CLEARS}
        borne = sum(
            row.from_budget for one in self.write_offs for row in one.rows if not one.undone
        )
        assert budgets["camp"] == model.budgets["camp"], act
        assert budgets["slow"] == model.budgets["slow"] - borne, act
        assert await self.claw.house() == borne - model.given_up, act
        assert model.total() == BUDGET * len(CLEARS), act

    async def earn(self) -> None:
        campaign, minor = self.random.choice(list(CLEARS)), self.random.randint(1, 300)
        number = await self.claw.earn(campaign=campaign, reward_=usd(minor).text())
        self.model.earn(number, campaign, minor)

    async def pass_days(self) -> None:
        days = self.random.randint(1, 3)
        self.model.pass_days(days)
        await self.claw.pass_days(days)

    async def withdraw(self) -> None:
        model = self.model
        minor = self.random.randint(1, max(1, 2 * model.available))
        made = await self.claw.request(self.destination, minor)
        if model.debt or minor > model.available:
            assert made.slug == ("debt-open" if model.debt else "insufficient-funds")
            return
        assert made.withdrawal_id is not None, made
        model.available -= minor
        if self.random.random() < 0.7:
            await self.claw.move(made.withdrawal_id, *PAID)
            model.paid[made.withdrawal_id] = minor
        else:
            model.held[made.withdrawal_id] = minor

    async def cancel(self) -> None:
        if self.model.held:
            number = self.random.choice(list(self.model.held))
            await self.claw.move(number, Event.CANCEL)
            self.model.come_free(self.model.held.pop(number))

    async def come_back(self) -> None:
        if self.model.paid:
            number = self.random.choice(list(self.model.paid))
            await self.claw.move(number, Event.RETURN)
            self.model.come_free(self.model.paid.pop(number))

    async def reverse(self) -> None:
        there = [number for number, one in self.model.rewards.items() if one.left]
        if not there:
            return
        number = self.random.choice(there)
        one = self.model.rewards[number]
        if self.random.random() < 0.5:
            took = await self.claw.reverse(number)
            minor = one.left
        else:
            minor, reference = self.random.randint(1, one.left), f"r{len(one.told)}"
            took = await self.claw.reverse(number, minor, reference)
            one.told[reference] = minor
        assert took is Took.REVERSED
        self.model.reverse(number, minor)

    async def reverse_again(self) -> None:
        for number, one in self.model.rewards.items():
            if one.told:
                reference, minor = self.random.choice(list(one.told.items()))
                assert await self.claw.reverse(number, minor, reference) is Took.ALREADY
            if not one.left:
                assert await self.claw.reverse(number) is Took.ALREADY
                return

    async def early_reversal(self) -> None:
        name = f"early{len(self.early)}"
        self.early.append(name)
        await self.claw.earning.put_task({"kind": "count", "event": "done"}, name)
        assert (await self.claw.claw_back(f"u1-{name}")).fate is Fate.KEPT
        assert (await self.claw.send(name)).slug == "event-reversed"
        assert await self.claw.world.run(clawback.apply_due) == 0

    async def write_off(self) -> None:
        if self.model.debt:
            minor = self.random.randint(1, self.model.debt)
            self.write_offs.append(await self.claw.write_off(minor))
            self.model.debt -= minor
            self.model.given_up += minor

    async def undo(self) -> None:
        there = [place for place, one in enumerate(self.write_offs) if not one.undone]
        if there:
            place = self.random.choice(there)
            made = self.write_offs[place] = await self.claw.undo(self.write_offs[place])
            self.model.reopen(made.amount.minor)


async def play(postgres: PostgresServer, seed: int, steps: int) -> None:
    async with clawing_world(postgres) as claw:
        one = Play(claw, Random(seed))
        await one.begin()
        await one.run(steps)


@pytest.mark.parametrize("seed", range(3))
async def test_all_ways_of_a_reward_follow_the_model(postgres: PostgresServer, seed: int):
    await play(postgres, seed, 45)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 100 + LONG_SEEDS))
async def test_all_ways_of_many_rewards_follow_the_model(postgres: PostgresServer, seed: int):
    await play(postgres, seed, 150)
