"""Payments that their payee has to accept: waited for, shown to the owner, taken back, ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.awaiting import kept, later, owner, refused, show, waiting
from tests.confirming_rail import EXPIRES, ConfirmingRail
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch import unknowns
from paymaster.dispatch.decide import Finding, decide
from paymaster.dispatch.machine import ATTEMPT, AttemptState
from paymaster.kernel.errors import Broken, RailUnknown
from paymaster.rails.base import Notice, Outcome, Verdict
from paymaster.settle import notice as notices
from paymaster.settle.apply import apply_due

OVERDUE = "OVERDUE_CLOSE"


@pytest.fixture
def wallet() -> ConfirmingRail:
    return ConfirmingRail()


@pytest.fixture
async def payouts(postgres: PostgresServer, wallet: ConfirmingRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, wallet) as found:
        yield found
        await assert_proven(found.world)


# ---------------------------------------------------------------------------------- waiting


async def test_the_package_is_sealed_and_shown_to_its_owner_alone(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    package = f"package-of-{key}"
    shown = await show(payouts, withdrawal, await owner(payouts, withdrawal))
    assert (shown.package, shown.expires_at) == (package, EXPIRES)
    assert shown.wire()["public"]["mchId"] == "1900000109"
    assert package not in repr(shown)
    assert await refused(payouts, withdrawal, 1) == "not-found"
    assert await refused(payouts, 1) == "not-found"
    (sealed,) = owner_rows(payouts.world, "SELECT sealed FROM confirmation")[0]
    assert package.encode() not in bytes(sealed)
    told = json.dumps(owner_rows(payouts.world, "SELECT topic, payload FROM outbox"))
    assert "withdrawal.awaiting_payee" in told
    assert "attempt.awaiting_payee" in told
    assert package not in told


async def test_a_package_of_another_row_is_not_opened(payouts: Payouts) -> None:
    one, two = await waiting(payouts, 1), await waiting(payouts, 2)
    owner_rows(
        payouts.world,
        "UPDATE confirmation c SET sealed = o.sealed FROM confirmation o"
        " WHERE o.attempt_id <> c.attempt_id RETURNING 1",
    )
    for each in (one, two):
        with pytest.raises(Broken):
            await show(payouts, each)


async def test_what_the_payee_accepts_is_paid_and_the_package_is_gone(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    await later(payouts, minutes=2)
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    wallet.answers[key] = Verdict.PAID
    await later(payouts, minutes=30)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    assert await kept(payouts) == 0
    assert await refused(payouts, withdrawal) == "not-awaiting"
    await assert_paid_once(payouts)


async def test_it_is_asked_about_in_growing_intervals(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    await waiting(payouts)
    pauses: list[float] = []
    for _ in range(12):
        before = payouts.world.clock.now()
        asked = len(wallet.questions)
        while len(wallet.questions) == asked:
            payouts.world.clock.advance(timedelta(seconds=30))
            await payouts.ask("wallet")
        pauses.append((payouts.world.clock.now() - before).total_seconds())
    assert pauses[0] == 60
    assert max(pauses) <= 3630
    assert sum(pauses[-3:]) > 6 * sum(pauses[:3])


async def test_what_expires_fails_with_its_code_and_the_money_is_back(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    withdrawal = await waiting(payouts)
    wallet.answers[await payouts.key_of(withdrawal)] = Verdict.REJECTED
    wallet.code = OVERDUE
    await later(payouts, hours=26)
    assert await payouts.states(withdrawal) == ("failed", ["rejected"])
    assert await payouts.value("SELECT reason FROM withdrawal WHERE id = %s", withdrawal) == OVERDUE
    assert await kept(payouts) == 0
    assert await payouts.value("SELECT kind FROM attempt_proof") == "refused"


async def test_our_own_clock_ends_nothing_and_a_late_payment_counts(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    """The provider may close late: until it says so the money stays set aside, and paid wins."""
    withdrawal = await waiting(payouts)
    await later(payouts, hours=30)
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    wallet.answers[await payouts.key_of(withdrawal)] = Verdict.PAID
    await later(payouts, hours=2)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_a_payment_after_the_end_is_a_contradiction_for_people(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    await payouts.hear("wallet", Outcome(key, Verdict.REJECTED, code=OVERDUE))
    (applied,) = await payouts.hear("wallet", Outcome(key, Verdict.PAID))
    assert applied.slug == "outcome-contradicts"
    assert (await payouts.states(withdrawal))[0] == "failed"


@pytest.mark.parametrize("verdict", [Verdict.UNKNOWN, Verdict.NOT_FOUND])
async def test_silence_ends_nothing(
    payouts: Payouts, wallet: ConfirmingRail, verdict: Verdict
) -> None:
    withdrawal = await waiting(payouts)
    wallet.answers[await payouts.key_of(withdrawal)] = verdict
    await later(payouts, hours=2)
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])


async def test_answers_come_in_any_order(payouts: Payouts, wallet: ConfirmingRail) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    await payouts.hear("wallet", Outcome(key, Verdict.ACCEPTED))
    assert await payouts.states(withdrawal) == ("sent", ["sent"])
    assert await kept(payouts) == 1, "it may have to be accepted after all"
    await payouts.hear("wallet", Outcome(key, Verdict.AWAITING))
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    (again,) = await payouts.hear("wallet", Outcome(key, Verdict.AWAITING))
    assert again.slug == "already"
    await payouts.hear("wallet", Outcome(key, Verdict.PAID))
    (trailing,) = await payouts.hear("wallet", Outcome(key, Verdict.AWAITING))
    assert trailing.slug == "superseded"
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_a_notice_may_carry_it(payouts: Payouts, wallet: ConfirmingRail) -> None:
    wallet.verdict = Verdict.ACCEPTED
    withdrawal = await approved(payouts, await new_payee(payouts, 1), "30.00")
    await payouts.run(payouts.dispatcher())
    key = await payouts.key_of(withdrawal)
    said = Outcome(key, Verdict.AWAITING, confirmation=wallet.way(key))
    await deliver(payouts, Notice("ev-1", said))
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    assert (await show(payouts, withdrawal)).package == f"package-of-{key}"


async def deliver(payouts: Payouts, *told: Notice) -> None:
    """Notices through the inbox, as webhooks bring them."""
    from paymaster.db import inbox

    account = payouts.accounts["wallet"].id
    packed = [notices.pack(payouts.sealer, "webhook:wallet", account, n, None, "") for n in told]
    await payouts.world.run(lambda tx: inbox.receive(tx, packed))
    await apply_due(payouts.world.dbs.cell(1), payouts.sealer, payouts.random)


async def test_paid_through_a_notice_and_returned_through_another(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    """A bank card may send a transfer back after it was paid."""
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    await deliver(payouts, Notice("ev-1", Outcome(key, Verdict.PAID)))
    assert await payouts.states(withdrawal) == ("paid", ["paid"])
    back = Outcome(key, Verdict.RETURNED, code="REFUND")
    await deliver(payouts, Notice("ev-2", back), Notice("ev-3", back))
    assert await payouts.states(withdrawal) == ("returned", ["returned"])
    user = await owner(payouts, withdrawal)
    balance = await payouts.value(
        "SELECT balance FROM account WHERE kind = 'available' AND owner_id = %s", user
    )
    assert balance == 10_000


async def test_a_return_that_overtakes_the_payment_posts_both(payouts: Payouts) -> None:
    withdrawal = await waiting(payouts)
    key = await payouts.key_of(withdrawal)
    await deliver(payouts, Notice("ev-1", Outcome(key, Verdict.RETURNED, code="REFUND")))
    assert await payouts.states(withdrawal) == ("returned", ["returned"])
    moved = owner_rows(
        payouts.world,
        "SELECT event FROM withdrawal_move WHERE withdrawal_id = %s ORDER BY number DESC LIMIT 2",
        withdrawal,
    )
    assert [event for (event,) in moved] == ["return", "settle"]


# ------------------------------------------------------------------- a package that is missing


async def test_the_same_bytes_bring_the_package_that_was_lost_with_the_answer(
    payouts: Payouts, wallet: ConfirmingRail
) -> None:
    withdrawal = await approved(payouts, await new_payee(payouts, 1), "30.00")
    wallet.after = [RailUnknown("provider-silent", "No answer.")]
    await payouts.run(payouts.dispatcher())
    wallet.taken.append(await payouts.key_of(withdrawal))
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    payouts.world.clock.advance(timedelta(seconds=10))
    await payouts.run(payouts.dispatcher())
    assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    assert (await show(payouts, withdrawal)).package.startswith("package-of-")
    assert (len(wallet.orders), len(wallet.bodies)) == (2, 1)
    await later(payouts, hours=1)
    assert len(wallet.orders) == 2, "what is known is not asked for again"


async def test_without_a_safe_replay_it_is_only_waited_for(postgres: PostgresServer) -> None:
    wallet = ConfirmingRail(replay_window=None)
    wallet.hides = True
    async with payout_world(postgres, wallet) as payouts:
        withdrawal = await waiting(payouts)
        await later(payouts, hours=3)
        assert len(wallet.orders) == 1
        assert await refused(payouts, withdrawal) == "not-awaiting"
        assert await payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])


# ------------------------------------------------------------------------- warnings, and people


async def test_what_waits_too_long_is_warned_about_once_and_listed(payouts: Payouts) -> None:
    await waiting(payouts)
    world, after = payouts.world, timedelta(hours=25)
    seen: list[int] = []
    for hours in (24, 1, 24):
        world.clock.advance(timedelta(hours=hours))
        seen.append(await world.run(lambda tx: unknowns.warn_awaiting(tx, after, 100)))
    assert seen == [0, 1, 0]
    (one,) = await world.read(lambda tx: unknowns.listing(tx, tx.now, tx.now, 10))
    assert one.state == "awaiting_payee"
    comes = unknowns.next_of(one, payouts.desk.accounts, payouts.rails, world.clock.now())
    assert comes.what == "ask"
    topics = owner_rows(world, "SELECT topic FROM outbox WHERE topic ~ 'old$'")
    assert topics == [("attempt.awaiting_old",)]


async def test_a_person_may_say_how_it_ended(payouts: Payouts) -> None:
    paid, failed = await waiting(payouts, 1), await waiting(payouts, 2)
    for withdrawal, finding in ((paid, Finding.PAID), (failed, Finding.NOT_PAID)):
        attempt = int(
            str(await payouts.value("SELECT id FROM attempt WHERE withdrawal_id = %s", withdrawal))
        )
        await payouts.world.run(
            lambda tx, one=attempt, said=finding: decide(tx, one, said, "the provider's desk")
        )
    assert (await payouts.states(paid))[0] == "paid"
    assert (await payouts.states(failed))[0] == "failed"
    assert await kept(payouts) == 0


def test_no_move_leads_from_waiting_to_unknown_or_back() -> None:
    """Silence about what a provider has taken in is not news: it stays what it was."""
    leaving = {move.target for move in ATTEMPT.moves if move.source == AttemptState.AWAITING}
    assert leaving == {AttemptState.SENT, AttemptState.PAID, AttemptState.REJECTED}
