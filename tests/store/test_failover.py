"""Another account pays only with proof: every earlier order of the withdrawal is dead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import LAG, WINDOW, AskableRail, FileRail
from tests.withdrawals import assert_proven, available
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.dispatch import accounts, batch, policy
from paymaster.dispatch import proof as proofs
from paymaster.dispatch.policy import PayoutPolicy
from paymaster.dispatch.run import Dispatcher
from paymaster.kernel.errors import NeverSent, RailRefused, RailUnknown
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw import moves, view


@pytest.fixture
def first() -> AskableRail:
    return AskableRail("first")


@pytest.fixture
def second() -> AskableRail:
    return AskableRail("second")


@pytest.fixture
async def payouts(
    postgres: PostgresServer, first: AskableRail, second: AskableRail
) -> AsyncIterator[Payouts]:
    """Two accounts that could pay everything; `first` is chosen by its name."""
    async with payout_world(postgres, first, second) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def one(payouts: Payouts, number: int = 1) -> int:
    return await approved(payouts, await new_payee(payouts, number), "30.00")


async def want(payouts: Payouts, **changes: Any) -> None:
    wanted = replace(PayoutPolicy(), **changes)
    await payouts.world.dbs.control.run(
        ACTOR, "", lambda tx: policy.replace(tx, 1, wanted, "for a test")
    )


async def pause(payouts: Payouts, name: str) -> None:
    await payouts.world.dbs.control.run(
        ACTOR, "", lambda tx: accounts.set_state(tx, 1, 1, name, "paused", "sick")
    )


async def go_on(payouts: Payouts, dispatcher: Dispatcher, step: timedelta, times: int) -> None:
    for _ in range(times):
        payouts.world.clock.advance(step)
        dispatcher.reload()
        await payouts.run(dispatcher)


async def kinds(payouts: Payouts) -> list[tuple[str, str | None]]:
    rows = owner_rows(
        payouts.world, "SELECT kind, code FROM attempt_proof ORDER BY withdrawal_id, number"
    )
    return [(kind, code) for kind, code in rows]


async def at(payouts: Payouts, withdrawal: int) -> list[str]:
    """The accounts of a withdrawal's orders, in order."""
    names = {account.id: name for name, account in payouts.accounts.items()}
    rows = owner_rows(
        payouts.world,
        "SELECT rail_account_id FROM attempt WHERE withdrawal_id = %s ORDER BY number",
        withdrawal,
    )
    return [names[number] for (number,) in rows]


def no(code: str) -> RailRefused:
    return RailRefused("provider-refused", "No.", extra={"code": code})


def away(count: int) -> list[NeverSent]:
    return [NeverSent("provider-unreachable", "No connection.") for _ in range(count)]


# ------------------------------------------------------------------------- another account


async def test_an_account_that_cannot_be_reached_is_left_for_one_that_can(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [*away(100)]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, timedelta(seconds=3), 1)
    assert await payouts.states(withdrawal) == ("sending", ["sending"]), "it may still recover"
    await go_on(payouts, dispatcher, timedelta(seconds=60), 4)
    assert (await payouts.states(withdrawal))[1] == ["rejected", "paid"]
    assert await at(payouts, withdrawal) == ["first", "second"]
    assert await kinds(payouts) == [("never_sent", "provider-unreachable")]
    tried = len(first.orders)
    await go_on(payouts, dispatcher, timedelta(hours=1), 3)
    assert len(first.orders) == tried, "what was given up is never sent again"
    assert sum(second.paid.values()) == 1


@pytest.mark.parametrize("code", ["insufficient_funds", "invalid_request", "AM02"])
async def test_a_no_about_our_account_sends_it_to_another_at_once(
    payouts: Payouts, first: AskableRail, code: str
) -> None:
    withdrawal = await one(payouts)
    first.before = [no(code)]
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("sent", ["rejected", "sent"])
    assert await at(payouts, withdrawal) == ["first", "second"]
    assert await kinds(payouts) == [("refused", code)]
    ((why,), (again,)) = owner_rows(payouts.world, "SELECT routed FROM attempt ORDER BY number")
    assert why == "of 2 that can pay it: equal to second, first by name"
    assert again.startswith("second: the only account that can pay it; at_")
    assert again.endswith("is proven dead")
    story = await payouts.world.read(lambda tx: view.story(tx, withdrawal))
    dead, alive = story.wire()["attempts"]
    assert dead["proof"] == {
        "kind": "refused", "evidence": "send:refused", "at": "2026-11-20T09:00:00.000Z"
    }  # fmt: skip
    assert (dead["routed"], alive["proof"]) == (why, None)


@pytest.mark.parametrize("code", ["wallet_closed", "recipient_unverified", "RR04", "what?"])
async def test_a_no_about_the_payee_is_no_reason_for_another_account(
    payouts: Payouts, first: AskableRail, second: AskableRail, code: str
) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    first.before = [no(code)]
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await available(payouts.world, earner) == ("100.00", "0.00")
    assert second.orders == []
    assert await kinds(payouts) == [("refused", code)], "the proof is kept all the same"


async def test_gumroad_7569_what_may_have_been_paid_goes_to_no_other_account(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    """Silence after paying, silence to every question, the account paused, days go by."""
    withdrawal = await one(payouts)
    first.after = [RailUnknown("provider-silent", "No answer.")]
    first.silent = 10_000
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await pause(payouts, "first")
    await go_on(payouts, dispatcher, timedelta(hours=6), 8)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    assert second.orders == []
    assert await kinds(payouts) == []


async def test_a_paused_account_gives_up_what_never_left(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [*away(1)]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await pause(payouts, "first")
    await go_on(payouts, dispatcher, timedelta(seconds=5), 2)
    assert (await payouts.states(withdrawal))[1] == ["rejected", "sent"]
    assert await kinds(payouts) == [("never_sent", None)]
    assert len(first.orders) == 1
    assert sum(second.paid.values()) == 1


async def test_not_found_is_a_proof_only_after_the_lag_and_where_nothing_goes_again(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [RailUnknown("provider-silent", "No answer.")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await pause(payouts, "first")
    await go_on(payouts, dispatcher, LAG - timedelta(seconds=1), 1)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    await go_on(payouts, dispatcher, timedelta(minutes=20), 2)
    assert (await payouts.states(withdrawal))[1] == ["rejected", "paid"]
    assert await kinds(payouts) == [("not_found", "not-found")]
    assert len(first.orders) == 1, "its bytes never go again"


async def test_not_found_at_an_account_that_works_is_the_same_order_again(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [RailUnknown("provider-silent", "No answer.")]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, LAG, 3)
    assert (await payouts.states(withdrawal))[1] == ["paid"]
    assert len(first.orders) == 2
    assert len(first.bodies) == 1
    assert second.orders == []


async def test_after_its_window_what_is_not_found_is_left_for_another_account(
    payouts: Payouts, first: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [RailUnknown("provider-silent", "No answer.")]
    first.silent = 5
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    await go_on(payouts, dispatcher, timedelta(minutes=5), 4)
    first.silent = 0
    await go_on(payouts, dispatcher, WINDOW, 2)
    assert await at(payouts, withdrawal) == ["first", "second"]
    assert await kinds(payouts) == [("not_found", "not-found")]
    assert len(first.orders) == 1


async def test_where_no_other_account_is_left_it_waits_for_funds_or_fails(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    waits, fails = await one(payouts, 1), await one(payouts, 2)
    poor, wrong = no("insufficient_funds"), no("invalid_request")
    first.before, second.before = [poor, wrong], [poor, wrong]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    states = {await payouts.states(each) for each in ()} | {
        (await payouts.states(each))[0] for each in (waits, fails)
    }
    assert states == {"queued", "failed"}
    await go_on(payouts, dispatcher, timedelta(minutes=10), 1)
    assert sum(first.paid.values()) + sum(second.paid.values()) == 1
    assert await payouts.value(
        "SELECT count(*) FROM withdrawal WHERE state = 'failed' AND reason = 'invalid_request'"
    )


async def test_an_environment_can_do_without(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    await want(payouts, failover=False)
    waits = await one(payouts, 1)
    first.before = [no("insufficient_funds"), *away(8)]
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    assert await payouts.states(waits) == ("queued", ["rejected"])
    await go_on(payouts, dispatcher, timedelta(minutes=11), 12)
    assert await at(payouts, waits) == ["first", "first"]
    assert second.orders == []
    first.before = [no("invalid_request")]
    fails = await one(payouts, 2)
    await payouts.run(dispatcher)
    assert await payouts.states(fails) == ("failed", ["rejected"])


async def test_after_the_most_orders_it_fails_and_the_money_is_back(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    await want(payouts, most_orders=2)
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    first.before = [no("insufficient_funds")]
    second.before = [no("insufficient_funds")]
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("failed", ["rejected", "rejected"])
    assert await available(payouts.world, earner) == ("100.00", "0.00")


async def test_what_somebody_holds_meanwhile_stays_where_it_is(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    withdrawal = await one(payouts)
    first.before = [no("insufficient_funds")]
    await payouts.deliver(await payouts.claim())
    await payouts.world.run(lambda tx: moves.hold(tx, withdrawal, "looked at"))
    dispatcher = payouts.dispatcher()
    await go_on(payouts, dispatcher, timedelta(hours=1), 2)
    assert await payouts.states(withdrawal) == ("held", ["rejected"])
    assert second.orders == []


async def test_a_report_and_a_person_prove_as_well(payouts: Payouts, first: AskableRail) -> None:
    withdrawal = await one(payouts)
    first.before = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    key, account = await payouts.key_of(withdrawal), payouts.accounts["first"].id

    async def work(tx):
        from paymaster.dispatch import outcome

        said = Outcome(key, Verdict.REJECTED, code="insufficient_funds")
        await outcome.apply(tx, account, [said], evidence="files:camt.xml")

    await payouts.world.run(work)
    await payouts.run(payouts.dispatcher())
    assert await kinds(payouts) == [("report", "insufficient_funds")]
    assert await at(payouts, withdrawal) == ["first", "second"]
    assert proofs.kind_of("person:pe_1") is proofs.ProofKind.BY_HAND


async def test_an_approved_one_that_comes_back_goes_to_no_account_where_it_died(
    payouts: Payouts, first: AskableRail
) -> None:
    """Held while it waited, released, approved anew: the choice starts again, but not there."""
    withdrawal = await one(payouts)
    first.before = [no("insufficient_funds")]
    await payouts.deliver(await payouts.claim())
    await payouts.world.run(lambda tx: moves.hold(tx, withdrawal, "looked at"))
    await payouts.world.run(lambda tx: moves.release(tx, withdrawal, "fine"))
    steps = [moves.Step(withdrawal, moves.Event.SCREEN, lease_token=None)]
    await payouts.world.run(lambda tx: moves.move(tx, steps))
    owner_rows(payouts.world, "UPDATE withdrawal SET lease_token = 77 RETURNING 1")
    step = moves.Step(withdrawal, moves.Event.APPROVE, lease_token=77)
    (moved,) = await payouts.world.run(lambda tx: moves.move(tx, [step]))
    assert moved.done
    desk = payouts.desk
    rooms = dict.fromkeys(desk.accounts, 5)
    (order,) = await payouts.world.run(lambda tx: batch.claim_approved(tx, desk, rooms))
    assert order.account.rail.name == "second"


async def test_not_found_proves_nothing_while_a_sender_that_went_silent_may_wake_up(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    """It claimed the order and has not come back: its call may still begin."""
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    dispatcher = payouts.dispatcher()
    await pause(payouts, "first")
    await go_on(payouts, dispatcher, timedelta(hours=6), 8)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    assert second.orders == []
    await first.send(order.account.rail, order.prepared)
    await go_on(payouts, dispatcher, timedelta(hours=6), 1)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_a_second_try_that_ended_does_not_speak_for_the_first_that_did_not(
    payouts: Payouts, first: AskableRail, second: AskableRail
) -> None:
    """A sender went silent; another sent the same bytes, was not answered, and has ended."""
    withdrawal = await one(payouts)
    (order,) = await payouts.claim()
    first.before = [RailUnknown("provider-silent", "No answer.") for _ in range(100)]
    dispatcher = payouts.dispatcher()
    await go_on(payouts, dispatcher, timedelta(minutes=3), 3)
    assert len(first.orders) > 0, "it was tried again"
    await pause(payouts, "first")
    await go_on(payouts, dispatcher, timedelta(hours=6), 4)
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    first.before = []
    await first.send(order.account.rail, order.prepared)
    await go_on(payouts, dispatcher, timedelta(hours=6), 1)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert second.orders == []


async def test_a_replay_that_reaches_nobody_is_no_reason_for_another_account(
    postgres: PostgresServer,
) -> None:
    """The file was executed and the answer lost; then the bank cannot be reached for days."""
    file, other = FileRail("file", batch_items=1, replay_window=WINDOW), AskableRail("other")
    async with payout_world(postgres, file, other) as payouts:
        withdrawal = await one(payouts)
        file.after = [RailUnknown("transport-unproven", "?")]
        dispatcher = payouts.dispatcher()
        await payouts.run(dispatcher)
        file.before = [*away(10_000)]
        await go_on(payouts, dispatcher, timedelta(minutes=11), 12)
        assert len(file.orders) > 6, "it was sent again"
        assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
        assert other.orders == []
        await assert_paid_once(payouts)
