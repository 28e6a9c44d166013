"""Two at the same money at once, in both orders: one holds its locks until the other waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.clawing import DAY, ONCE, Clawing, clawing_world, usd
from tests.withdrawals import insert_destination
from tests.world import PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.earn import debt, reserve, reversal, reward
from paymaster.earn.clawback import Fate
from paymaster.earn.reversal import Reverse
from paymaster.earn.store import reversals
from paymaster.kernel.errors import Conflict
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.withdraw.request import RequestWithdrawal, request

Act = Callable[[CellTx], Awaitable[Any]]
RESERVE = {"ppm": 100_000, "seconds": 10 * DAY}


@pytest.fixture
async def claw(postgres: PostgresServer) -> AsyncIterator[Clawing]:
    async with clawing_world(postgres) as made:
        yield made


async def one_after_the_other(claw: Clawing, first: Act, second: Act) -> tuple[Any, Any]:
    """`second` begins when `first` has done its work, and `first` commits when `second` waits."""
    done, go = asyncio.Event(), asyncio.Event()

    async def holding(tx: CellTx) -> Any:
        result = await first(tx)
        done.set()
        await go.wait()
        return result

    one = asyncio.create_task(claw.world.run(holding))
    await done.wait()
    other = asyncio.create_task(claw.world.run(second))
    await somebody_waits(claw, other)
    go.set()
    return await one, await other


async def somebody_waits(claw: Clawing, task: asyncio.Task[Any]) -> None:
    """Until the task waits for a lock, or is done without."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    while not task.done() and owner_rows(claw.world, waiting) == [(0,)]:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def reversing(reward_id: int) -> Act:
    return lambda tx: reversal.reverse(tx, [Reverse(reward_id, "fraud")])


async def asking(claw: Clawing, minor: int) -> Act:
    destination = await claw.world.run(
        lambda tx: insert_destination(tx, claw.user(), currency="USD")
    )
    command = RequestWithdrawal(claw.user(), destination, usd(minor))
    return lambda tx: request(tx, [command])


async def test_a_reversal_before_a_request(claw: Clawing):
    reward_id = await claw.earn()
    await claw.earn(reward_="0.30")
    _, [asked] = await one_after_the_other(claw, reversing(reward_id), await asking(claw, 31))
    assert asked.slug == "insufficient-funds"
    assert await claw.balance() == {"available": 30}
    await claw.prove()


async def test_a_request_before_a_reversal(claw: Clawing):
    reward_id = await claw.earn()
    [asked], _ = await one_after_the_other(claw, await asking(claw, 80), reversing(reward_id))
    assert asked.slug is None
    assert await claw.balance() == {"held": 80, "debt": 80}
    await claw.prove()


@pytest.mark.parametrize("reversal_first", [True, False])
async def test_a_reversal_and_its_reward_maturing(claw: Clawing, *, reversal_first: bool):
    await claw.put(clearing_seconds=DAY, reserve=RESERVE)
    reward_id = await claw.earn()
    await pass_a_day(claw)
    acts: tuple[Act, Act] = (reversing(reward_id), reward.mature_due)
    first, second = acts if reversal_first else acts[::-1]
    await one_after_the_other(claw, first, second)
    await claw.work()
    assert await claw.balance() == {}
    assert await claw.budget() == 100_000
    await claw.prove()


async def pass_a_day(claw: Clawing) -> None:
    claw.world.clock.advance(timedelta(days=1))


@pytest.mark.parametrize("reversal_first", [True, False])
async def test_a_reversal_while_another_reward_is_put_aside(claw: Clawing, *, reversal_first: bool):
    """The part that is kept aside meanwhile is taken too, before anything is owed."""
    early = await claw.earn()
    await claw.pay(100)
    await claw.put(clearing_seconds=DAY, reserve=RESERVE)
    await claw.earn()
    await pass_a_day(claw)
    acts: tuple[Act, Act] = (reversing(early), reward.mature_due)
    first, second = acts if reversal_first else acts[::-1]
    await one_after_the_other(claw, first, second)
    assert await claw.balance() == {}
    await claw.prove()


@pytest.mark.parametrize("reversal_first", [True, False])
async def test_a_reversal_while_the_reserve_is_released(claw: Clawing, *, reversal_first: bool):
    await claw.put(reserve={"ppm": 100_000, "seconds": DAY})
    reward_id = await claw.earn()
    await claw.pay(90)
    await pass_a_day(claw)
    acts: tuple[Act, Act] = (reversing(reward_id), reserve.release_due)
    first, second = acts if reversal_first else acts[::-1]
    await one_after_the_other(claw, first, second)
    assert await claw.balance() == {"debt": 90}
    await claw.prove()


@pytest.mark.parametrize("reversal_first", [True, False])
async def test_two_reversals_of_one_reward_in_parts(claw: Clawing, *, reversal_first: bool):
    reward_id = await claw.earn()

    def part(minor: int, reference: str) -> Act:
        command = Reverse(reward_id, "x", usd(minor), reference)
        return lambda tx: reversal.reverse(tx, [command])

    acts = part(60, "a"), part(60, "b")
    first, second = acts if reversal_first else acts[::-1]
    [one], [other] = await one_after_the_other(claw, first, second)
    assert (one.slug, other.slug) == (None, "reversal-too-large")
    assert await claw.balance() == {"available": 40}
    await claw.prove()


async def test_a_write_off_while_the_debt_is_paid_back(claw: Clawing):
    """It gives up what is owed, not what was owed when somebody looked."""
    reward_id = await claw.earn()
    await claw.pay(100)
    await claw.reverse(reward_id)
    await claw.put(clearing_seconds=DAY)
    await claw.earn(reward_="0.40")
    await pass_a_day(claw)
    with pytest.raises(Conflict, match="debt-changed"):
        await one_after_the_other(
            claw,
            reward.mature_due,
            lambda tx: debt.write_off(tx, claw.user(), usd(50), "lost"),
        )
    assert await claw.balance() == {"debt": 60}
    assert await claw.house() == 0
    await claw.prove()


async def test_a_reversal_waits_for_parts_that_are_being_released(
    claw: Clawing, monkeypatch: pytest.MonkeyPatch
):
    """Rows before accounts, as those who release them do: neither has to begin again."""
    await claw.put(reserve={"ppm": 100_000, "seconds": DAY})
    reward_id = await claw.earn()
    await claw.pay(90)
    await pass_a_day(claw)
    look, claimed, go = reserve.owing_of, asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    async def slow(tx: Any, purses: Any) -> Any:
        claimed.set()
        await go.wait()
        return await look(tx, purses)

    def counted(name: str, act: Act) -> Act:
        async def work(tx: CellTx) -> Any:
            runs.append(name)
            return await act(tx)

        return work

    monkeypatch.setattr(reserve, "owing_of", slow)
    release = asyncio.create_task(claw.world.run(counted("release", reserve.release_due)))
    await claimed.wait()
    taking = asyncio.create_task(claw.world.run(counted("take", reversing(reward_id))))
    await somebody_waits(claw, taking)
    go.set()
    await asyncio.gather(release, taking)
    assert runs == ["release", "take"]
    assert await claw.balance() == {"debt": 90}
    await claw.prove()


@pytest.mark.parametrize("seen", [True, False])
async def test_what_is_released_pays_a_debt_that_an_older_version_made(
    claw: Clawing, monkeypatch: pytest.MonkeyPatch, *, seen: bool
):
    """While two versions run, the older one knows no reserve: it opens a debt beside it."""
    await claw.put(reserve={"ppm": 100_000, "seconds": DAY})
    await claw.earn()
    await claw.pay(90)
    debt_of, budget = (Account(kind, owner, "USD") for kind, owner in (
        ("debt", claw.user()), ("budget", claw.campaigns["camp"])
    ))  # fmt: skip

    async def older(tx: CellTx) -> None:
        posting = Posting(debt_of, budget, usd(4))
        [posted] = await post(tx, [Entry(tx.id(), "reverse", "rw_x", (posting,))])
        assert posted.done

    await claw.world.run(older)
    assert await claw.balance() == {"reserve": 10, "debt": 4}
    look, calls = reserve.owing_of, 0

    async def stale(tx: Any, purses: Any) -> Any:
        nonlocal calls
        calls += 1
        return await look(tx, purses) if seen or calls > 1 else set()

    monkeypatch.setattr(reserve, "owing_of", stale)
    await claw.pass_days(1)
    assert calls == 2
    assert await claw.balance() == {"available": 6}


@pytest.mark.parametrize("event_first", [True, False])
async def test_an_event_and_its_claw_back(
    claw: Clawing, monkeypatch: pytest.MonkeyPatch, *, event_first: bool
):
    """The row of the event decides who was first; the other waits for it and sees it."""
    await claw.earning.put_task(ONCE, "t")
    module, name = (reward, "credit") if event_first else (reversals, "keep_early")
    work, done, go = getattr(module, name), asyncio.Event(), asyncio.Event()

    async def slow(tx: Any, what: Any) -> Any:
        result = await work(tx, what)
        done.set()
        await go.wait()
        return result

    monkeypatch.setattr(module, name, slow)
    acts = (lambda: claw.send("t")), (lambda: claw.claw_back("u1-t"))
    first, second = acts if event_first else acts[::-1]
    one = asyncio.ensure_future(first())
    await done.wait()
    other = asyncio.ensure_future(second())
    await somebody_waits(claw, other)
    go.set()
    told: tuple[Any, Any] = await one, await other
    sent, taken = told if event_first else told[::-1]
    assert (sent.slug, taken.fate) == (
        (None, Fate.REVERSED) if event_first else ("event-reversed", Fate.KEPT)
    )
    assert await claw.balance() == {}
    assert await claw.budget() == 100_000
    await claw.prove()
