"""One sick rail delays no other, and is left alone until it may be well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.withdrawals import assert_proven
from tests.world import ACTOR, PostgresServer

from paymaster.dispatch import batch
from paymaster.kernel.errors import LEASE_LOST, Conflict, NeverSent, RailRefused
from paymaster.kernel.ids import new_trace_id


@pytest.fixture
def bank() -> AskableRail:
    return AskableRail("bank")


@pytest.fixture
def wallet() -> AskableRail:
    return AskableRail("wallet", kinds=frozenset({"sandbox-wallet"}))


@pytest.fixture
async def payouts(
    postgres: PostgresServer, bank: AskableRail, wallet: AskableRail
) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, bank, wallet) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def some(payouts: Payouts, kind: str, numbers: range) -> list[int]:
    return [
        await approved(payouts, await new_payee(payouts, number, kind=kind), "1.00")
        for number in numbers
    ]


async def test_a_provider_that_hangs_holds_up_only_itself(
    payouts: Payouts, bank: AskableRail, wallet: AskableRail
) -> None:
    bank.gate = asyncio.Event()
    stuck = await some(payouts, "iban", range(20))
    dispatcher = payouts.dispatcher()
    for _ in range(3):
        await dispatcher.tick(1)
    through = await some(payouts, "sandbox-wallet", range(20, 30))
    for _ in range(5):
        await dispatcher.tick(1)
        await asyncio.sleep(0.05)
    for withdrawal in through:
        assert (await payouts.states(withdrawal))[0] == "sent"
    states = [(await payouts.states(withdrawal))[0] for withdrawal in stuck]
    # Its lane is full; the rest waits outside, where it can still be stopped.
    assert states.count("sending") == 8
    assert states.count("queued") == 12
    bank.gate.set()
    bank.gate = None
    for _ in range(5):
        await payouts.run(dispatcher)
    for withdrawal in stuck:
        assert (await payouts.states(withdrawal))[0] == "sent"


async def test_a_provider_that_is_away_is_left_alone_and_tried_again(
    payouts: Payouts, bank: AskableRail, wallet: AskableRail
) -> None:
    bank.before = [NeverSent("provider-unreachable", "No connection.") for _ in range(100)]
    waiting = await some(payouts, "iban", range(20))
    dispatcher = payouts.dispatcher()
    for _ in range(10):
        await payouts.run(dispatcher)
    tried = len(bank.orders)
    assert tried <= 16, "after five failures in a row nothing more is tried"
    bank_id = payouts.accounts["bank"].id
    assert not dispatcher.lanes[bank_id].healthy(payouts.world.clock.now())
    through = await some(payouts, "sandbox-wallet", range(20, 22))
    await payouts.run(dispatcher)
    assert [(await payouts.states(each))[0] for each in through] == ["sent", "sent"]
    assert len(bank.orders) == tried
    payouts.world.clock.advance(timedelta(seconds=30))
    await dispatcher.tick(1)
    await dispatcher.drain()
    assert len(bank.orders) == tried + 1, "one call finds out"
    bank.before = []
    for _ in range(6):
        payouts.world.clock.advance(timedelta(minutes=5))
        await payouts.run(dispatcher)
    assert {(await payouts.states(each))[0] for each in waiting} == {"paid"}


async def test_an_account_without_money_is_not_asked_for_every_payment(
    payouts: Payouts, bank: AskableRail
) -> None:
    bank.before = [
        RailRefused("provider-refused", "No.", extra={"code": "insufficient_funds"})
        for _ in range(100)
    ]
    await some(payouts, "iban", range(20))
    dispatcher = payouts.dispatcher()
    for _ in range(10):
        await payouts.run(dispatcher)
    assert len(bank.orders) <= 16
    assert await payouts.value("SELECT count(*) FROM withdrawal WHERE state = 'failed'") == 0


async def test_a_fault_in_one_accounts_work_leaves_the_others_alone(
    payouts: Payouts, bank: AskableRail
) -> None:
    def broken(*_: object) -> None:
        raise SystemError("a fault that is nobody's")

    bank.prepare = broken  # pyright: ignore[reportAttributeAccessIssue]
    stuck = await some(payouts, "iban", range(2))
    through = await some(payouts, "sandbox-wallet", range(20, 22))
    await payouts.run(payouts.dispatcher())
    assert [(await payouts.states(each))[0] for each in through] == ["sent", "sent"]
    assert [(await payouts.states(each))[0] for each in stuck] == ["queued", "queued"]


async def test_work_that_went_to_another_process_is_said_in_one_line(
    payouts: Payouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: object) -> list[object]:
        raise Conflict(LEASE_LOST, "Another process lets payments out of this account.")

    monkeypatch.setattr(batch, "claim_approved", lost)
    await some(payouts, "iban", range(1))
    with capture_logs() as said:
        await payouts.run(payouts.dispatcher())
    found = [line for line in said if line["event"] == "dispatch_failed"]
    assert found
    assert all(line["log_level"] == "warning" and "exc_info" not in line for line in found)
    assert {line["slug"] for line in found} == {LEASE_LOST}


async def test_a_rate_limit_spreads_calls(payouts: Payouts, bank: AskableRail) -> None:
    await payouts.add_account("slow", "bank", settings={"rate_per_second": "3"})
    names = {account.rail.name for account in payouts.accounts.values()}
    assert "slow" in names
    dispatcher = payouts.dispatcher()
    await dispatcher.tick(1)
    slow = payouts.accounts["slow"].id
    assert dispatcher.lanes[slow].room(payouts.world.clock.now()) == 3


async def test_a_full_lane_goes_on_when_a_call_ends_and_not_at_its_next_look(
    payouts: Payouts, bank: AskableRail
) -> None:
    """Patience is a minute: had it waited that long, `work` would have said 0."""
    await payouts.world.dbs.control.run(
        ACTOR,
        new_trace_id(),
        lambda tx: tx.execute('UPDATE rail_account SET settings = \'{"concurrency": "1"}\''),
    )
    bank.gate = asyncio.Event()
    first, second, third = await some(payouts, "iban", range(3))
    dispatcher = payouts.dispatcher()
    assert await dispatcher.work(1, 60.0) > 0
    waiting = asyncio.create_task(dispatcher.work(1, 60.0))
    while not bank.gate.is_set():
        await asyncio.sleep(0.05)
        assert not waiting.done(), "there is no room"
        bank.gate.set()
    assert await waiting == 1
    for _ in range(6):
        await dispatcher.work(1, 60.0)
    await dispatcher.drain()
    for each in (first, second, third):
        assert (await payouts.states(each))[0] == "sent"


async def test_with_all_lanes_full_what_is_approved_keeps_its_choice(
    payouts: Payouts, bank: AskableRail, wallet: AskableRail
) -> None:
    bank.gate = wallet.gate = asyncio.Event()
    kinds = ("iban", "sandbox-wallet")
    busy = [
        await some(payouts, kind, range(n, n + 8)) for n, kind in zip((0, 8), kinds, strict=True)
    ]
    dispatcher = payouts.dispatcher()
    await dispatcher.tick(1)
    (late,) = await some(payouts, "iban", range(20, 21))
    assert await dispatcher.tick(1) == 0
    assert (await payouts.states(late)) == ("approved", [])
    bank.gate.set()
    await dispatcher.drain()
    await payouts.run(dispatcher)
    for each in (late, *busy[0], *busy[1]):
        assert (await payouts.states(each))[0] == "sent"
