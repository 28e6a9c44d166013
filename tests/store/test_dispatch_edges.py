"""How much leaves at once, and when what cannot leave is looked at again."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail, FileRail
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch import failover, resolve, window
from paymaster.dispatch.resolve import LOOK_AGAIN
from paymaster.kernel.errors import RailRefused, RailUnknown
from paymaster.rails.base import Prepared
from paymaster.settle.files import Polled, poll
from paymaster.withdraw import holds

_numbers = itertools.count(300)


@pytest.fixture
def bank() -> FileRail:
    return FileRail("bank", batch_items=3)


@pytest.fixture
async def payouts(postgres: PostgresServer, bank: FileRail) -> AsyncIterator[Payouts]:
    wallet = AskableRail("wallet", kinds=frozenset({"sandbox-wallet"}))
    async with payout_world(postgres, bank, wallet) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def many(payouts: Payouts, count: int, kind: str = "iban") -> list[int]:
    payees = [await new_payee(payouts, next(_numbers), kind=kind) for _ in range(count)]
    return [await approved(payouts, each, "1.00") for each in payees]


async def in_state(payouts: Payouts, state: str) -> int:
    return int(str(await payouts.value("SELECT count(*) FROM withdrawal WHERE state = %s", state)))


async def due(payouts: Payouts, table: str) -> datetime:
    """When the only row of a table is looked at again."""
    ((found,),) = owner_rows(payouts.world, f"SELECT due_at FROM {table}")
    return found


async def test_as_many_orders_are_made_at_once_as_there_is_room_for(payouts: Payouts) -> None:
    await many(payouts, 7)
    orders = await payouts.claim(room=2)
    assert [len(order.prepared.keys) for order in orders] == [3, 3]
    assert (await in_state(payouts, "sending"), await in_state(payouts, "queued")) == (6, 1)
    assert len(await payouts.claim_queued("bank", room=0)) == 0
    (last,) = await payouts.claim_queued("bank", room=1)
    assert len(last.prepared.keys) == 1
    await payouts.deliver([*orders, last])


async def test_a_window_stays_closed_until_it_is_empty(payouts: Payouts) -> None:
    owner_rows(
        payouts.world,
        "UPDATE control.rail_account SET payout_window = 'manual' WHERE name = 'bank' RETURNING 1",
    )
    await payouts.reload()
    await many(payouts, 4)
    assert await payouts.claim() == []
    assert await payouts.claim_queued("bank") == [], "nobody has closed it"
    bank_id = payouts.accounts["bank"].id
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "pay day"))
    payouts.pace = type(payouts.pace)(items=3)
    sizes: list[int] = []
    for _ in range(3):
        orders = await payouts.claim_queued("bank", room=1)
        sizes += [len(order.prepared.keys) for order in orders]
        await payouts.deliver(orders)
    assert sizes == [3, 1]
    await many(payouts, 1)
    await payouts.claim()
    assert await payouts.claim_queued("bank") == [], "it is open again"


async def test_without_a_route_it_is_looked_at_again_after_a_while(payouts: Payouts) -> None:
    await many(payouts, 1)
    owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'paused' RETURNING 1")
    await payouts.reload()
    assert await payouts.claim() == []
    assert await due(payouts, "withdrawal") == payouts.world.clock.now() + payouts.pace.look_again


async def test_what_an_authority_holds_is_looked_at_again_after_a_while(payouts: Payouts) -> None:
    (withdrawal,) = await many(payouts, 1, "sandbox-wallet")
    wallet: Any = payouts.rails["wallet"]
    wallet.before = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    await payouts.world.run(lambda tx: holds.place(tx, "withdrawal", withdrawal, "12 Gs", "x"))
    payouts.world.clock.advance(payouts.pace.ask_again.most)
    await payouts.ask("wallet")
    payouts.world.clock.advance(payouts.pace.ask_again.most)
    assert await payouts.replays("wallet") == []
    assert await due(payouts, "batch") == payouts.world.clock.now() + LOOK_AGAIN


@pytest.mark.parametrize(
    ("kind", "account", "after"),
    [
        ("sandbox-wallet", "wallet", timedelta(minutes=15)),
        ("iban", "bank", timedelta(hours=1)),
    ],
)
async def test_an_unknown_order_is_looked_at_sooner_where_one_can_ask(
    payouts: Payouts, kind: str, account: str, after: timedelta
) -> None:
    await many(payouts, 1, kind)
    rail: Any = payouts.rails[account]
    rail.before = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'paused' RETURNING 1")
    await payouts.reload()
    payouts.world.clock.advance(timedelta(days=1))
    assert await payouts.replays(account) == []
    assert await due(payouts, "batch") == payouts.world.clock.now() + after


async def test_nobody_is_asked_without_room_or_rail(payouts: Payouts) -> None:
    await many(payouts, 1, "sandbox-wallet")
    rail: Any = payouts.rails["wallet"]
    rail.before = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    payouts.world.clock.advance(timedelta(days=1))
    account, there = payouts.accounts["wallet"], payouts.rails
    for room, rails, asked in ((0, there, 0), (5, {}, 0), (5, there, 1)):
        desk = replace(payouts.desk, rails=rails)
        claimed = await payouts.world.run(
            lambda tx, d=desk, r=room: resolve.claim_questions(tx, d, account, r)
        )
        assert len(claimed) == asked


async def test_where_nothing_has_died_nothing_is_followed_up(payouts: Payouts) -> None:
    account = payouts.accounts["bank"]
    assert (
        await payouts.world.run(lambda tx: failover.follow_up(tx, payouts.desk, account, 10)) == 0
    )


async def test_an_account_without_files_is_not_visited(payouts: Payouts) -> None:
    async def never(*_: object) -> None:
        pytest.fail("there are no statements")

    for name, rails in (("wallet", payouts.rails), ("bank", {})):
        account = payouts.accounts[name]
        visited = await poll(payouts.world.dbs, rails, payouts.sealer, account, never)
        assert visited == Polled()


class Choosy(FileRail):
    """It writes no file with several payments in it, and does not say which one is wrong."""

    def prepare(self, *given: Any, **named: Any) -> Prepared:
        prepared = super().prepare(*given, **named)
        if len(prepared.keys) > 1:
            raise RailRefused("file-refused", "Something in it is wrong.")
        return prepared


async def test_what_spoils_a_file_is_found_by_halving(postgres: PostgresServer) -> None:
    """Each payment gets into one order only, however often the file is taken apart."""
    async with payout_world(postgres, Choosy("bank", batch_items=5)) as payouts:
        await many(payouts, 5)
        orders = await payouts.claim()
        keys = [key for order in orders for key in order.prepared.keys]
        assert len(keys) == len(set(keys)) == 5
        await payouts.deliver(orders)
        await assert_paid_once(payouts)


class Wrong(FileRail):
    """It prepares another order than it was given."""

    fault = ""

    def prepare(self, *given: Any, **named: Any) -> Prepared:
        made = super().prepare(*given, **named)
        if self.fault == "key":
            return Prepared(made.batch_key + "x", made.body, made.keys)
        if self.fault == "payments":
            return Prepared(made.batch_key, made.body, (*made.keys[1:], "pm1-0-9"))
        return made


@pytest.mark.parametrize("fault", ["key", "payments"])
async def test_an_order_that_is_another_than_was_asked_for_does_not_leave(
    postgres: PostgresServer, fault: str
) -> None:
    rail = Wrong("bank", batch_items=2)
    async with payout_world(postgres, rail) as payouts:
        await many(payouts, 2)
        rail.fault = fault
        assert await payouts.claim() == []
        assert await in_state(payouts, "queued") == 2
        assert await payouts.value("SELECT count(*) FROM batch") == 0
        rail.fault = ""
        payouts.world.clock.advance(payouts.pace.look_again)
        await payouts.run(payouts.dispatcher())
        assert await in_state(payouts, "sent") == 2
        await assert_paid_once(payouts)
