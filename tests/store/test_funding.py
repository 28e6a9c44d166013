"""What users are owed against what is there, and that no account pays what it has not got."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.planting import plant
from tests.scripted_rails import ScriptedRail
from tests.withdrawals import BANK, CAMPAIGN
from tests.world import PostgresServer, World, make_world

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.dispatch.purse import REASON, Purse, afford, take
from paymaster.dispatch.purse_store import Waiting
from paymaster.dispatch.run import Dispatcher
from paymaster.funding import alert, outflow
from paymaster.funding.figures import positions
from paymaster.funding.guard import FloatGuard
from paymaster.funding.look import all_figures, look, split
from paymaster.kernel.errors import Conflict
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import KINDS
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.settings import Funding
from paymaster.withdraw import holds

LEASE = timedelta(seconds=60)
ENFORCE = Funding(mode="enforce", patience_hours=24)


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, cells=2) as made:
        yield made


@pytest.fixture
async def payouts(postgres: PostgresServer) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, ScriptedRail("wallet"), cells=2) as made:
        yield made


async def books(world: World, cell: int, *postings: Posting) -> bool:
    """Whether an entry was posted."""

    async def work(tx: CellTx) -> bool:
        return (await post(tx, [Entry(tx.id(), "test", "x", postings)]))[0].done

    return await world.run(work, cell)


def eur(minor: int) -> Money:
    return Money(minor, "EUR")


# Figures


def _recipe(random: Random, cell: int) -> tuple[Posting, ...]:
    """Something that happens, to one of few users, accounts and campaigns."""
    user, account, campaign = random.randint(1, 4), random.randint(1, 2), random.randint(1, 2)
    money = Money(random.randint(1, 5000), random.choice(["EUR", "JPY"]))
    zero = Money.zero(money.currency)
    return random.choice([
        recipes.fund(account, campaign, money + money + money),
        recipes.opening(account, money),
        recipes.reward(campaign, user, money, vests=False, owes=True, commission=zero),
        recipes.reward(campaign, user, money, vests=True, owes=False, commission=money),
        recipes.mature(user, money, owes=True),
        recipes.reserve(user, money),
        recipes.reverse(campaign, user, money, money),
        recipes.request(user, money),
        recipes.paid(user, account, money, money),
        recipes.returned(user, account, money),
        recipes.booked_out(account, 1, money) if cell == 2 else recipes.rail_fee(account, money),
        recipes.booked_cash(account, 2, money) if cell == 1 else recipes.release(user, money),
        recipes.lease_out(campaign, 3 - cell, money),
        recipes.topup_out(account, money),
        recipes.suspend(account, money),
        recipes.write_off(user, money),
    ])  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
async def test_figures_are_the_sums_over_all_accounts(world: World, seed: int) -> None:
    random = Random(seed)
    done = 0
    for _ in range(80):
        cell = random.randint(1, 2)
        done += await books(world, cell, *_recipe(random, cell))
    assert done > 20
    cells = await all_figures(world.dbs, 1)
    found = positions(cells)
    sums: Counter[tuple[str, str]] = Counter()
    for cell in (1, 2):
        for kind, asset, balance in await world.read(
            lambda tx: tx.tuples("SELECT kind, asset, balance FROM account"), cell
        ):
            sums[kind, asset] += balance
    parts = await split(world.dbs, 1)
    for asset, one in found.items():
        of = {kind: sums[kind, asset] for kind in KINDS}
        held = of["available"] + of["vesting"] + of["reserve"] + of["held"]
        assert one.owed == held == sum(n for (a, _), n in parts.items() if a == asset)
        assert one.debts == -of["debt"]
        assert (one.settled, one.leaving) == (-of["cash"], of["clearing"])
        assert (one.budgets, one.commission, one.fees) == (
            of["budget"], of["commission"], of["fee_revenue"],
        )  # fmt: skip
        assert (one.transit, one.between_cells) == (-of["transit"], of["intercell"])
        assert one.other == 0
        assert one.cover == -of["cash"] - of["clearing"] - of["intercell"] - max(
            0, of["commission"] + of["fee_revenue"]
        )
        # What is there and what is owed account for all of it.
        assert (
            one.settled + one.transit + one.debts + one.rail_fees + one.losses
            == one.owed + one.leaving + one.between_cells + one.budgets + one.commission
            + one.fees + one.suspense + one.equity + one.fx
        )  # fmt: skip
    assert {one.cell: one.seq for one in cells} == {
        cell: await world.read(lambda tx: tx.value("SELECT seq FROM head"), cell) for cell in (1, 2)
    }


async def test_it_tells_once_that_it_is_short_and_once_that_it_is_not(world: World) -> None:
    async def told() -> list[str]:
        await alert.tell(world.dbs, 1, await look(world.dbs, 1))
        _, messages = await world.read(lambda tx: outbox.after(tx, 0, 1000))
        return [one.topic for one in messages]

    zero = Money.zero("EUR")
    await books(world, 1, *recipes.fund(BANK, CAMPAIGN, eur(10_000)))
    paid = recipes.reward(CAMPAIGN, 5, eur(9_000), vests=False, owes=False, commission=eur(500))
    await books(world, 1, *paid)
    assert await told() == []
    # The bank charged more than sponsors have left with us.
    await books(world, 1, *recipes.rail_fee(BANK, eur(700)))
    assert await told() == ["funding.short"]
    assert await told() == ["funding.short"]
    [one] = (await look(world.dbs, 1)).positions.values()
    assert (one.owed, one.cover, one.missing) == (9_000, 8_800, 200)
    more = recipes.reward(CAMPAIGN, 6, eur(100), vests=True, owes=False, commission=zero)
    await books(world, 1, *more)
    assert await told() == ["funding.short"], "more of the same is no news"
    await books(world, 1, *recipes.opening(BANK, eur(1_000)))
    assert await told() == ["funding.short", "funding.covered"]


# Who may go


def waiting(world: World, *amounts: int, hours: float = 1) -> list[Waiting]:
    since = world.clock.now() - timedelta(hours=hours)
    return [Waiting(number, amount, since) for number, amount in enumerate(amounts, 1)]


async def test_the_oldest_go_first_and_smaller_ones_past_a_large_one(world: World) -> None:
    now, day = world.clock.now(), timedelta(days=1)
    assert afford(waiting(world, 50, 60, 40), 100, now, day) == ([1, 3], [2])
    assert afford(waiting(world, 500, 60, 40), 100, now, day) == ([2, 3], [1])
    # One that has waited for too long is not passed any more.
    assert afford(waiting(world, 50, 60, 40, hours=24), 100, now, day) == ([1], [2, 3])
    assert afford(waiting(world, 1), 0, now, day) == ([], [1])
    random = Random(4)
    for _ in range(300):
        amounts = [random.randint(1, 100) for _ in range(random.randint(0, 12))]
        room = random.randint(0, 400)
        given = waiting(world, *amounts, hours=random.choice([1, 48]))
        goes, stays = afford(given, room, now, day)
        assert sum(amounts[number - 1] for number in goes) <= room
        assert sorted(goes + stays) == [one.id for one in given]


def guarded(payouts: Payouts) -> Dispatcher:
    """Another process that enforces."""
    guard = FloatGuard(payouts.world.dbs, 1, ENFORCE, LEASE)
    return Dispatcher(
        payouts.world.dbs,
        1,
        payouts.rails,
        payouts.sealer,
        pace=payouts.pace,
        random=Random(2),
        guard=guard,
    )


async def fill(payouts: Payouts, minor: int) -> None:
    """Money arrives on the account of the rail."""
    account = payouts.accounts["wallet"].id
    assert await books(payouts.world, 1, *recipes.opening(account, eur(minor)))


async def left(payouts: Payouts) -> int:
    """What was really paid by the provider, in minor units."""
    total = 0
    for cell in (1, 2):
        total += await payouts.value(
            "SELECT coalesce(sum(amount), 0)::bigint FROM attempt", cell=cell
        )
    return total


async def ask(payouts: Payouts, *amounts: str, cells: int = 2) -> list[int]:
    """Approved withdrawals, in the cells in turns."""
    found: list[int] = []
    for number, amount in enumerate(amounts):
        cell = 1 + number % cells
        payee = await new_payee(payouts, 700 + number, cell=cell)
        found.append(await approved(payouts, payee, amount))
    return found


async def states(payouts: Payouts, numbers: list[int], cells: int = 2) -> list[str]:
    return [(await payouts.states(one, 1 + at % cells))[0] for at, one in enumerate(numbers)]


async def go(payouts: Payouts, *dispatchers: Dispatcher, rounds: int = 6) -> None:
    """Everybody works in both cells at the same time."""
    for _ in range(rounds):
        await asyncio.gather(*(one.tick(cell) for one in dispatchers for cell in (1, 2)))
        await asyncio.gather(*(one.drain() for one in dispatchers))


async def test_what_the_float_does_not_cover_waits_until_there_is_more(payouts: Payouts) -> None:
    numbers = await ask(payouts, "30.00", "40.00", "90.00", "20.00", "35.00", cells=1)
    await fill(payouts, 10_000)
    one = guarded(payouts)
    await go(payouts, one)
    assert await states(payouts, numbers, 1) == ["sent", "sent", "queued", "sent", "queued"]
    why = await payouts.value("SELECT reason FROM withdrawal WHERE id = %s", numbers[2])
    assert str(why).startswith(REASON)
    assert await left(payouts) == 9_000
    found = (await look(payouts.world.dbs, 1)).floats[payouts.accounts["wallet"].id]
    assert (found.free, found.under_way, found.queued) == (1_000, 9_000, 12_500)
    assert one._guard is not None
    async with one._guard.purse(payouts.accounts["wallet"]) as purse:
        assert purse is not None
        assert purse.room == found.free
    # Nothing changes while nothing arrives, and all of it goes when enough has.
    payouts.world.clock.advance(timedelta(seconds=30))
    await go(payouts, one)
    assert await left(payouts) == 9_000
    await fill(payouts, 11_500)
    payouts.world.clock.advance(timedelta(seconds=30))
    await go(payouts, one)
    assert await states(payouts, numbers, 1) == ["sent"] * 5
    assert await left(payouts) == 21_500
    await assert_paid_once(payouts)


async def test_a_row_of_large_ones_lets_small_ones_behind_it_go(payouts: Payouts) -> None:
    await fill(payouts, 1_200)  # more of them than the account's lane has room for, some frozen
    numbers = await ask(payouts, *["50.00"] * 20, "5.00", "5.00", "5.00", cells=1)

    async def freeze(tx: CellTx) -> None:
        for number in numbers[::2]:
            await holds.place(tx, "withdrawal", number, "order", "ordered")

    one = guarded(payouts)
    await go(payouts, one)
    assert await states(payouts, numbers, 1) == ["queued"] * 20 + ["sent", "sent", "queued"]
    await payouts.world.run(freeze)
    await fill(payouts, 300)
    payouts.world.clock.advance(timedelta(seconds=30))
    await go(payouts, one)
    assert await states(payouts, numbers[20:], 1) == ["sent", "sent", "queued"], "it is frozen"
    payouts.world.clock.advance(timedelta(hours=24))
    last = await approved(payouts, await new_payee(payouts, 650), "1.00")
    await go(payouts, one)
    assert await states(payouts, [last], 1) == ["queued"], "now the float gathers for the oldest"
    await assert_paid_once(payouts)


async def test_no_money_is_kept_together_for_what_an_authority_holds(payouts: Payouts) -> None:
    """However long it waits, those behind it are paid; lifted, it waits its turn as any other."""
    numbers = await ask(payouts, "90.00", "40.00", cells=1)
    one = guarded(payouts)
    await go(payouts, one)
    assert await states(payouts, numbers, 1) == ["queued", "queued"]
    hold = await payouts.world.run(
        lambda tx: holds.place(tx, "withdrawal", numbers[0], "12 Gs 3", "served")
    )
    payouts.world.clock.advance(timedelta(hours=25))
    await fill(payouts, 8_000)
    await go(payouts, one)
    assert await states(payouts, numbers, 1) == ["queued", "sent"]
    await payouts.world.run(lambda tx: holds.lift(tx, hold.id, "ended"))
    await fill(payouts, 5_000)
    await go(payouts, one)
    assert await states(payouts, numbers, 1) == ["sent", "sent"]
    assert await left(payouts) == 13_000


@pytest.mark.parametrize("seed", range(2))
async def test_two_processes_never_pay_more_than_there_is(payouts: Payouts, seed: int) -> None:
    random = Random(seed)
    amounts = [random.randint(100, 4_000) for _ in range(16)]
    numbers = await ask(payouts, *(f"{one // 100}.{one % 100:02}" for one in amounts))
    pair, there = (guarded(payouts), guarded(payouts)), 0
    for _ in range(5):
        more = random.randint(500, 9_000)
        there += more
        await fill(payouts, more)
        await go(payouts, *pair, rounds=3)
        assert await left(payouts) <= there
        # Past the pause of those that wait, sometimes past the lease of who counts.
        payouts.world.clock.advance(timedelta(seconds=random.choice([25, 90])))
    gone = [at for at, state in enumerate(await states(payouts, numbers)) if state != "queued"]
    assert sum(amounts[at] for at in gone) == await left(payouts)
    smallest = min((amounts[at] for at in range(16) if at not in gone), default=10**9)
    assert there - await left(payouts) < smallest, "what fits has gone"
    await assert_paid_once(payouts)


async def test_who_has_lost_the_lease_takes_nothing(payouts: Payouts) -> None:
    await ask(payouts, "60.00", "60.00")
    await fill(payouts, 10_000)
    # Into the queue, by a process that may send nothing yet.
    account = payouts.accounts["wallet"]
    late, other = (FloatGuard(payouts.world.dbs, 1, ENFORCE, LEASE) for _ in range(2))
    async with late.purse(account) as purse:
        assert isinstance(purse, Purse)
        assert purse.room == 10_000
        async with other.purse(account) as none:
            assert none is None
        payouts.world.clock.advance(timedelta(seconds=61))
        async with other.purse(account) as now:
            assert now is not None
            assert now.room == 10_000
        for cell in (1, 2):
            with pytest.raises(Conflict, match="lease-lost"):
                await payouts.world.run(lambda tx: take(tx, purse, 10), cell)


async def test_the_cells_of_one_process_count_one_after_the_other(payouts: Payouts) -> None:
    await fill(payouts, 100)
    guard, account = FloatGuard(payouts.world.dbs, 1, ENFORCE, LEASE), payouts.accounts["wallet"]

    async def count() -> int:
        async with guard.purse(account) as purse:
            assert purse is not None
            return purse.room

    async with guard.purse(account):
        second = asyncio.create_task(count())
        await asyncio.wait([second], timeout=0.3)
        assert not second.done()
    assert await second == 100


async def test_a_minimum_stays_and_other_modes_hold_nothing_back(payouts: Payouts) -> None:
    await payouts.add_account("kept", "wallet", settings={"minimum_float": "2500"})
    guard = FloatGuard(payouts.world.dbs, 1, ENFORCE, LEASE)
    await books(payouts.world, 1, *recipes.opening(payouts.accounts["kept"].id, eur(3_000)))
    async with guard.purse(payouts.accounts["kept"]) as purse:
        assert purse is not None
        assert purse.room == 500
    # A line that says that money went out, while the payment's own cell is asked about it.
    line = {"state": "asked", "amount": -200, "rail_account_id": payouts.accounts["kept"].id}
    plant(payouts.world, "cell_1", "statement_line", **line)
    async with guard.purse(payouts.accounts["kept"]) as purse:
        assert purse is not None
        assert purse.room == 300
    found = (await look(payouts.world.dbs, 1)).floats[payouts.accounts["kept"].id]
    assert (found.unanswered, found.free) == (200, 2_800)
    await guard.give_up()
    alerts = FloatGuard(payouts.world.dbs, 1, Funding(), LEASE)
    assert not alerts.watches(payouts.accounts["wallet"])
    live = Funding(mode="enforce", modes={"acme/test": "off"})
    assert not FloatGuard(payouts.world.dbs, 1, live, LEASE).watches(payouts.accounts["wallet"])


async def test_what_left_is_counted_once_when_the_day_is_over(payouts: Payouts) -> None:
    world, account = payouts.world, payouts.accounts["wallet"].id
    await ask(payouts, "30.00", "20.00", "12.50")
    one = payouts.dispatcher()
    await go(payouts, one)
    assets = {account: "EUR"}
    today, found = await outflow.histories(world.dbs, 1, 28)
    assert found == {}
    world.clock.advance(timedelta(days=1))
    for cell in (1, 2):
        for _ in range(7):
            assert await outflow.count(world.dbs.cell(cell), "Europe/Berlin", assets, 7) == 1
        assert await outflow.count(world.dbs.cell(cell), "Europe/Berlin", assets, 7) == 0
    tomorrow, found = await outflow.histories(world.dbs, 1, 7)
    assert tomorrow == today + timedelta(days=1)
    assert found == {(account, "EUR"): {today: 6_250}}
