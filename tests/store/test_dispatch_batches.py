"""Files of many payments: windows, one that cannot be written, company money among them."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.contract.support import iban_of
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail, FileRail
from tests.withdrawals import assert_proven, available
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.db.tx import CellTx, ControlTx
from paymaster.dispatch import accounts, window
from paymaster.kernel.errors import Conflict, NeverSent, RailRefused, RailUnknown, Unprocessable
from paymaster.kernel.ids import new_trace_id, parse_reference
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw import moves

PSP = iban_of("FR", "20041010050500013000001")
_numbers = itertools.count(100)


@pytest.fixture
def bank() -> FileRail:
    return FileRail("bank", batch_items=3)


@pytest.fixture
async def payouts(postgres: PostgresServer, bank: FileRail) -> AsyncIterator[Payouts]:
    wallet = AskableRail("wallet", kinds=frozenset({"sandbox-wallet"}))
    async with payout_world(postgres, bank, wallet, cells=2) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def many(payouts: Payouts, *amounts: str, cell: int = 1) -> list[int]:
    return [
        await approved(payouts, await new_payee(payouts, next(_numbers), cell=cell), amount)
        for amount in amounts
    ]


async def in_states(payouts: Payouts, withdrawals: list[int]) -> list[str]:
    return [(await payouts.states(each))[0] for each in withdrawals]


async def closes(payouts: Payouts, name: str, value: str, time_zone: str = "UTC") -> None:
    """Give an account a window, as an installation would have from the start."""
    owner_rows(
        payouts.world,
        "UPDATE control.rail_account SET payout_window = %s, time_zone = %s WHERE name = %s"
        " RETURNING 1",
        value,
        time_zone,
        name,
    )
    await payouts.reload()


# --------------------------------------------------------------------------------- orders


async def test_payments_are_grouped_as_the_rail_takes_them(
    payouts: Payouts, bank: FileRail
) -> None:
    withdrawals = await many(payouts, "1.00", "2.00", "3.00", "4.00", "5.00")
    orders = await payouts.claim()
    assert sorted(len(order.prepared.keys) for order in orders) == [2, 3]
    assert len({order.prepared.batch_key for order in orders}) == 2
    await payouts.deliver(orders)
    assert set(await in_states(payouts, withdrawals)) == {"sent"}
    assert await payouts.value("SELECT sum(total) FROM batch") == 1500
    rows = owner_rows(payouts.world, "SELECT batch_key, id FROM batch")
    for batch_key, batch_id in rows:
        ref = parse_reference(batch_key)
        assert ref is not None
        assert (ref.cell, ref.id) == (1, batch_id)


async def test_one_payment_that_cannot_be_written_fails_alone(
    payouts: Payouts, bank: FileRail
) -> None:
    bank.unwritable = {200}
    withdrawals = await many(payouts, "1.00", "2.00", "3.00")
    await payouts.deliver(await payouts.claim())
    assert await in_states(payouts, withdrawals) == ["sent", "failed", "sent"]
    reason = await payouts.value("SELECT reason FROM withdrawal WHERE amount = 200")
    assert reason == "instruction-refused: The name is in no Latin script."
    assert await payouts.value("SELECT count(*) FROM attempt") == 2
    assert await payouts.value("SELECT count(*) FROM hold WHERE state = 'open'") == 2


async def test_an_order_of_which_nothing_can_be_written_is_not_made(
    payouts: Payouts, bank: FileRail
) -> None:
    bank.unwritable = {100}
    (withdrawal,) = await many(payouts, "1.00")
    assert await payouts.claim() == []
    assert await payouts.states(withdrawal) == ("failed", [])
    assert await payouts.value("SELECT count(*) FROM batch") == 0


async def test_dub_3449_one_that_breaks_the_rail_is_found_and_the_others_go(
    payouts: Payouts, bank: FileRail
) -> None:
    bank.poison = {200}
    withdrawals = await many(payouts, "1.00", "2.00", "3.00")
    await payouts.deliver(await payouts.claim())
    assert await in_states(payouts, withdrawals) == ["sent", "queued", "sent"]
    reason = str(await payouts.value("SELECT reason FROM withdrawal WHERE amount = 200"))
    assert reason.startswith("prepare-failed: ")
    bank.poison = set()
    payouts.world.clock.advance(payouts.pace.look_again)
    await payouts.run(payouts.dispatcher())
    assert set(await in_states(payouts, withdrawals)) == {"sent"}


async def test_an_account_that_is_not_set_up_fails_nobody(payouts: Payouts, bank: FileRail) -> None:
    withdrawals = await many(payouts, "1.00", "2.00")

    def unusable(*_: object) -> None:
        raise NeverSent("rail-account-invalid", "The account has no IBAN.")

    good, bank.prepare = bank.prepare, unusable  # pyright: ignore[reportAttributeAccessIssue]
    assert await payouts.claim() == []
    assert set(await in_states(payouts, withdrawals)) == {"queued"}
    bank.prepare = good
    payouts.world.clock.advance(payouts.pace.look_again)
    await payouts.run(payouts.dispatcher())
    assert set(await in_states(payouts, withdrawals)) == {"sent"}


async def test_a_destination_that_cannot_be_opened_fails_alone(payouts: Payouts) -> None:
    withdrawals = await many(payouts, "1.00", "2.00", "3.00")
    owner_rows(
        payouts.world,
        "UPDATE destination SET sealed = 'x' WHERE id ="
        " (SELECT destination_id FROM withdrawal WHERE amount = 200) RETURNING 1",
    )
    await payouts.deliver(await payouts.claim())
    assert await in_states(payouts, withdrawals) == ["sent", "failed", "sent"]


async def test_a_destination_that_was_closed_meanwhile_goes_to_a_person(payouts: Payouts) -> None:
    withdrawals = await many(payouts, "1.00", "2.00")
    owner_rows(
        payouts.world,
        "UPDATE destination SET state = 'closed' WHERE id ="
        " (SELECT destination_id FROM withdrawal WHERE amount = 200) RETURNING 1",
    )
    await payouts.deliver(await payouts.claim())
    assert await in_states(payouts, withdrawals) == ["sent", "in_review"]


async def test_files_of_two_cells_are_apart(payouts: Payouts, bank: FileRail) -> None:
    await many(payouts, "1.00")
    await many(payouts, "2.00", cell=2)
    await payouts.deliver(await payouts.claim())
    await payouts.deliver(await payouts.claim(cell=2), cell=2)
    cells = [parse_reference(order.batch_key) for order in bank.orders]
    assert [ref.cell for ref in cells if ref is not None] == [1, 2]
    for order in bank.orders:
        assert {key[:2] for key in order.keys} == {order.batch_key[:2]}


# -------------------------------------------------------------------------- no answer at all


async def test_a_file_whose_delivery_is_unproven_waits_for_the_bank(
    payouts: Payouts, bank: FileRail
) -> None:
    withdrawals = await many(payouts, "1.00", "2.00")
    bank.after = [RailUnknown("transport-unproven", "The connection broke.")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    for _ in range(5):
        payouts.world.clock.advance(timedelta(hours=2))
        await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"unknown"}
    assert len(bank.orders) == 1
    for withdrawal in withdrawals:
        await payouts.hear("bank", Outcome(await payouts.key_of(withdrawal), Verdict.ACCEPTED))
    payouts.world.clock.advance(timedelta(hours=2))
    await payouts.run(dispatcher)
    assert await payouts.value("SELECT state FROM batch") == "answered"


async def test_a_bank_that_refuses_second_copies_gets_the_same_file_again(
    postgres: PostgresServer,
) -> None:
    bank = FileRail("unique", replay_window=timedelta(days=7))
    async with payout_world(postgres, bank) as payouts:
        withdrawals = await many(payouts, "1.00", "2.00")
        bank.before = [
            RailUnknown("transport-unproven", "The connection broke."),
            RailRefused("provider-refused", "A duplicate.", extra={"code": "AM05"}),
        ]
        dispatcher = payouts.dispatcher()
        await payouts.run(dispatcher)
        assert set(await in_states(payouts, withdrawals)) == {"unknown"}
        payouts.world.clock.advance(timedelta(minutes=1))
        await payouts.run(dispatcher)
        # A no to the second copy says nothing about the first.
        assert set(await in_states(payouts, withdrawals)) == {"unknown"}
        payouts.world.clock.advance(payouts.pace.after_refused_copy)
        await payouts.run(dispatcher)
        assert set(await in_states(payouts, withdrawals)) == {"sent"}
        assert len(bank.orders) == 3
        assert len(bank.bodies) == 1


# --------------------------------------------------------------------------------- windows


async def test_a_daily_window_gathers_and_leaves_at_its_time(
    payouts: Payouts, bank: FileRail
) -> None:
    await closes(payouts, "bank", "11:30", "Europe/Berlin")  # 10:30 UTC; it is 09:00
    withdrawals = await many(payouts, "1.00", "2.00")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"queued"}
    payouts.world.clock.advance(timedelta(minutes=89))
    await payouts.run(dispatcher)
    assert bank.orders == []
    payouts.world.clock.advance(timedelta(minutes=1))
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"sent"}
    late = await many(payouts, "9.00")
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, late)) == {"queued"}
    payouts.world.clock.advance(timedelta(days=1))
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, late)) == {"sent"}
    assert len(bank.orders) == 2


async def test_a_manual_window_waits_for_the_operator(payouts: Payouts, bank: FileRail) -> None:
    await closes(payouts, "bank", "manual")
    withdrawals = await many(payouts, "1.00", "2.00", "3.00", "4.00")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    payouts.world.clock.advance(timedelta(days=30))
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"queued"}
    bank_id = payouts.accounts["bank"].id
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "pay day"))
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"sent"}
    assert len(bank.orders) == 2
    (row,) = owner_rows(
        payouts.world, "SELECT action, reason FROM audit WHERE action LIKE 'payout%%'"
    )
    assert row == ("payout_window.close", "pay day")
    more = await many(payouts, "5.00")
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, more)) == {"queued"}


async def test_what_somebody_holds_as_the_window_closes_still_leaves_by_it(
    payouts: Payouts, bank: FileRail
) -> None:
    await closes(payouts, "bank", "manual")
    withdrawals = await many(payouts, "1.00", "2.00")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    bank_id, world = payouts.accounts["bank"].id, payouts.world
    await world.run(lambda tx: window.close_now(tx, bank_id, 1, "pay day"))

    async def look_at_it(tx: CellTx) -> None:
        await moves.lock(tx, withdrawals[0])
        await asyncio.create_task(payouts.run(dispatcher), context=contextvars.Context())

    await world.run(look_at_it)
    assert sorted(await in_states(payouts, withdrawals)) == ["queued", "sent"]
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"sent"}


async def test_two_dispatchers_empty_a_window_once(payouts: Payouts, bank: FileRail) -> None:
    await closes(payouts, "bank", "manual")
    await many(payouts, "1.00", "2.00", "3.00", "4.00")
    first, second = payouts.dispatcher(), payouts.dispatcher()
    await payouts.run(first)
    bank_id = payouts.accounts["bank"].id
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "pay day"))
    await asyncio.gather(payouts.run(first), payouts.run(second))
    keys = [key for order in bank.orders for key in order.keys]
    assert len(keys) == len(set(keys)) == 4


async def test_a_paused_account_keeps_what_waits_and_hears_answers(
    payouts: Payouts, bank: FileRail
) -> None:
    (sent,) = await many(payouts, "1.00")
    await payouts.deliver(await payouts.claim())
    await closes(payouts, "bank", "manual")
    (queued,) = [await approved(payouts, await new_payee(payouts, 9), "2.00")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)

    async def pause(tx: ControlTx) -> None:
        await accounts.set_state(tx, 1, 1, "bank", "paused", "bank holiday")

    await payouts.world.dbs.control.run(ACTOR, new_trace_id(), pause)
    await payouts.reload()
    bank_id = payouts.accounts["bank"].id
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "by mistake"))
    await payouts.run(payouts.dispatcher())
    assert await in_states(payouts, [sent, queued]) == ["sent", "queued"]
    await payouts.hear("bank", Outcome(await payouts.key_of(sent), Verdict.PAID))
    assert await in_states(payouts, [sent, queued]) == ["paid", "queued"]


async def test_a_paused_account_sends_nothing_again_either(postgres: PostgresServer) -> None:
    bank = FileRail("unique", replay_window=timedelta(days=7))
    async with payout_world(postgres, bank) as payouts:
        bank.before = [NeverSent("transport-unreachable", "Away.")]
        await many(payouts, "1.00")
        await payouts.deliver(await payouts.claim())
        bank.before = [RailUnknown("transport-unproven", "?")]
        await many(payouts, "2.00")
        await payouts.deliver(await payouts.claim())
        assert len(bank.orders) == 2
        owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'paused' RETURNING 1")
        for _ in range(3):
            payouts.world.clock.advance(timedelta(hours=1))
            await payouts.run(payouts.dispatcher())
        assert len(bank.orders) == 2
        owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'active' RETURNING 1")
        payouts.world.clock.advance(timedelta(hours=1))
        await payouts.run(payouts.dispatcher())
        assert len(bank.orders) == 4
        assert len(bank.bodies) == 2


# -------------------------------------------------------------------------------- accounts


async def test_an_account_is_added_once_and_refused_with_each_fault(payouts: Payouts) -> None:
    first = await payouts.add_account("second-bank", "bank")
    assert (await payouts.add_account("second-bank", "bank")).id == first.id
    with pytest.raises(Conflict, match="second-bank"):
        await payouts.add_account("second-bank", "wallet")
    with pytest.raises(Unprocessable) as caught:
        await payouts.add_account(
            "Bad Name", "none", currency="XXX", payout_window="noon", time_zone="UTC"
        )
    assert [problem.pointer for problem in caught.value.problems] == [
        "/name", "/currency", "/payout_window", "/rail",
    ]  # fmt: skip


async def test_money_given_back_is_what_was_taken(payouts: Payouts, bank: FileRail) -> None:
    earner = await new_payee(payouts, 50)
    withdrawal = await approved(payouts, earner, "2.00", "0.50")
    bank.unwritable = {200}
    await payouts.claim()
    assert await payouts.states(withdrawal) == ("failed", [])
    assert await available(payouts.world, earner) == ("100.00", "0.00")


async def test_a_window_that_is_changed_to_close_earlier_does_so(
    payouts: Payouts, bank: FileRail
) -> None:
    await closes(payouts, "bank", "manual")
    withdrawals = await many(payouts, "1.00")
    await payouts.run(payouts.dispatcher())
    await closes(payouts, "bank", "10:00")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"queued"}
    payouts.world.clock.advance(timedelta(hours=1))
    await payouts.run(dispatcher)
    assert set(await in_states(payouts, withdrawals)) == {"sent"}
