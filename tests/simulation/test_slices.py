"""Three cells, one budget, rewards of three sizes: every cent is somewhere, and none lies idle.

Commands of a cell are carried in its order, as the relay does, now and then a second time. What a
seed does is random; how it ends is not: nothing in transit, and nobody waits for what is there.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from tests.earning import ENVIRONMENT, Earning, earning_world, event
from tests.world import PostgresServer

from paymaster.db import outbox
from paymaster.db.outbox import Outgoing
from paymaster.earn import reward
from paymaster.earn import slice as slices
from paymaster.earn.reversal import Reverse, reverse
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account

CELLS = (1, 2, 3)
SIZES = {"small": "0.50", "mid": "1.00", "big": "2.50"}
NAMES = [f"u{n}" for n in range(24)]
MOST = 300
"""Commands after which an economy that does not come to rest is called a treadmill."""


@dataclass
class Economy:
    """A campaign over three cells and the commands between them."""

    e: Earning
    campaign: int
    at: dict[int, int] = field(default_factory=lambda: dict.fromkeys(CELLS, 0))
    carried: list[tuple[int, Outgoing]] = field(default_factory=list[tuple[int, Outgoing]])

    async def earn(self, name: str, task: str) -> None:
        await self.e.send({**event(name + task, name, "done"), "task": task})

    async def carry(self, cell: int) -> bool:
        """The next command of a cell; False when there is none."""
        _, messages = await self.e.world.read(lambda tx: outbox.after(tx, 0, 100_000), cell)
        for message in messages:
            if message.seq <= self.at[cell] or message.target_cell is None:
                continue
            self.at[cell] = message.seq
            assert await self.e.deliver(cell, message) == 1
            self.carried.append((cell, message))
            return True
        return False

    async def carry_again(self, rnd: random.Random) -> None:
        if self.carried:
            assert await self.e.deliver(*rnd.choice(self.carried)) == 0

    async def take_back(self, cell: int) -> None:
        found = await self.e.world.read(
            lambda tx: tx.value("SELECT min(id) FROM reward WHERE state = 'credited'"), cell
        )
        if found is not None:
            await self.e.world.run(lambda tx: reverse(tx, [Reverse(found, "random")]), cell)

    async def go_home(self, cell: int) -> None:
        now = self.e.world.clock.now()
        await self.e.world.run(lambda tx: slices.give_back_idle(tx, now), cell)

    async def rest(self) -> None:
        """Carry and retry until nothing moves any more."""
        quiet, before = 0, len(self.carried)
        while quiet < 2:
            moved = 0
            for cell in CELLS:
                while await self.carry(cell):
                    moved += 1
                    assert len(self.carried) - before < MOST, "money travels for ever"
                moved += await self.e.world.run(reward.retry_awaiting, cell)
            quiet = 0 if moved else quiet + 1

    async def budgets(self) -> list[int]:
        return [await self.e.budget(self.campaign, cell) for cell in CELLS]

    async def amounts(self, *states: str) -> list[int]:
        found: list[int] = []
        for cell in CELLS:
            rows = await self.e.world.read(
                lambda tx: tx.tuples(
                    "SELECT amount FROM reward WHERE state = ANY(%s)", (list(states),)
                ),
                cell,
            )
            found += [row[0] for row in rows]
        return found

    async def in_transit(self) -> int:
        total = 0
        for cell in CELLS:
            for other in CELLS:
                account = Account("intercell", other, "USD")
                total += await self.e.world.read(lambda tx, a=account: account_balance(tx, a), cell)
        return total

    async def check(self) -> None:
        spent = sum(await self.amounts("vesting", "credited"))
        assert spent + sum(await self.budgets()) + await self.in_transit() == self.e.funded
        await self.e.prove()


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres, cells=len(CELLS)) as made:
        made.slice_rewards = 3
        yield made


async def begin(e: Earning, budget: str, when_exhausted: str) -> Economy:
    camp = await e.put_campaign(when_exhausted=when_exhausted)
    for name, amount in SIZES.items():
        await e.put_task({"kind": "count", "event": "done"}, name=name, reward=amount)
    await e.fund(camp.number, budget)
    await e.add_users(*NAMES)
    assert len(e.world.dbs.cells(ENVIRONMENT)) == len(CELLS)
    return Economy(e, camp.number)


def users_of(e: Earning, cell: int) -> list[str]:
    return [name for name, ref in e.users.items() if ref.cell == cell]


async def test_a_rest_too_small_for_any_reward_does_not_travel_to_and_fro(earning: Earning) -> None:
    one = await begin(earning, "3.00", "refuse")
    for name in users_of(earning, 2)[:2]:
        await one.earn(name, "big")
    await one.rest()
    assert sorted(await one.amounts("credited")) == [250]
    assert sorted(await one.amounts("refused")) == [250]
    assert sum(await one.budgets()) == 50
    await one.check()


async def test_a_smaller_reward_is_not_refused_because_a_larger_one_was(earning: Earning) -> None:
    one = await begin(earning, "1.00", "refuse")
    big, small = users_of(earning, 3)[:2]
    await one.earn(big, "big")
    await one.earn(small, "small")  # while the ask for the large one is open
    await one.rest()
    assert await one.amounts("refused") == [250]
    assert await one.amounts("credited") == [50]
    await one.check()


async def test_money_that_a_reversal_brought_back_elsewhere_is_recalled(earning: Earning) -> None:
    """A cell that has spent its slice and said so gets some back: the budget is not exhausted."""
    one = await begin(earning, "1.00", "refuse")
    away, home, late = users_of(earning, 2)[0], *users_of(earning, 1)[:2]
    await one.earn(away, "mid")
    await one.rest()
    await one.earn(home, "mid")
    await one.rest()
    assert await one.amounts("refused") == [100]
    await one.take_back(2)
    await one.rest()
    await one.earn(late, "mid")
    await one.rest()
    assert await one.amounts("credited") == [100]
    assert await one.budgets() == [0, 0, 0]
    await one.check()


async def test_what_waits_at_home_recalls_though_a_rest_is_there(earning: Earning) -> None:
    one = await begin(earning, "3.00", "wait")
    away, home = users_of(earning, 2), users_of(earning, 1)
    await one.earn(away[0], "mid")  # takes a slice of 3.00
    await one.rest()
    await one.earn(home[0], "mid")
    await one.rest()
    assert await one.budgets() == [100, 0, 0]
    await one.earn(away[1], "small")  # takes what is left
    await one.carry(2)
    await one.take_back(1)
    assert (await one.budgets())[0] == 100
    await one.earn(home[1], "mid")
    await one.rest()
    await one.earn(home[2], "small")
    await one.rest()
    assert sorted(await one.amounts("credited")) == [50, 50, 100, 100]
    await one.check()


async def _something(one: Economy, rnd: random.Random, todo: list[tuple[str, str]]) -> None:
    cell = rnd.choice(CELLS)
    match rnd.choice(["earn"] * 3 + ["carry"] * 3 + ["again", "back", "home", "retry", "fund"]):
        case "earn" if todo:
            await one.earn(*todo.pop())
        case "carry":
            await one.carry(cell)
        case "again":
            await one.carry_again(rnd)
        case "back":
            await one.take_back(cell)
        case "home":
            one.e.world.clock.advance(timedelta(minutes=rnd.randrange(3)))
            await one.go_home(cell)
        case "fund" if rnd.random() < 0.2:
            await one.e.fund(one.campaign, "1.00")
        case _:
            await one.e.world.run(reward.retry_awaiting, cell)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 6))]
)
async def test_nobody_waits_for_money_that_is_there(earning: Earning, seed: int) -> None:
    rnd = random.Random(seed)
    budget = rnd.choice(["3.00", "7.50", "12.00", "20.00"])
    one = await begin(earning, budget, ("wait", "refuse")[seed % 2])
    todo = [(name, task) for name in NAMES for task in SIZES]
    rnd.shuffle(todo)
    for _ in range(40):
        await _something(one, rnd, todo)
        await one.check()
    for _ in range(3):
        await one.rest()
        earning.world.clock.advance(slices.ASK_AGAIN)
    await one.check()
    assert await one.in_transit() == 0
    waiting = await one.amounts("awaiting_funds")
    assert not waiting or sum(await one.budgets()) < min(waiting)
