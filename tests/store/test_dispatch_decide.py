"""Unknown, resolved by a person with a proof."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import FileRail
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch.decide import Finding, decide
from paymaster.dispatch.outcome import Applied
from paymaster.kernel.errors import Conflict, NotFound, RailError, RailUnknown, Unprocessable
from paymaster.observe import Metrics
from paymaster.rails.base import Outcome, Verdict
from paymaster.roles.gauges import measure
from paymaster.withdraw import view


@pytest.fixture
def bank() -> FileRail:
    return FileRail("bank", replay_window=timedelta(days=7))


@pytest.fixture
async def payouts(postgres: PostgresServer, bank: FileRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, bank) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def unknown(payouts: Payouts, bank: FileRail, *, arrived: bool) -> list[int]:
    """Three withdrawals in one file whose delivery is unproven."""
    withdrawals = [
        await approved(payouts, await new_payee(payouts, number), "10.00") for number in range(3)
    ]
    silence: list[RailError | Exception] = [RailUnknown("transport-unproven", "?")]
    bank.before, bank.after = ([], silence) if arrived else (silence, [])
    await payouts.deliver(await payouts.claim())
    return withdrawals


async def says(
    payouts: Payouts, withdrawal: int, finding: Finding, proof: str = "the bank said so"
) -> list[Applied]:
    attempt = await payouts.value("SELECT id FROM attempt WHERE withdrawal_id = %s", withdrawal)
    return await payouts.world.run(lambda tx: decide(tx, int(str(attempt)), finding, proof))


async def states(payouts: Payouts, withdrawals: list[int]) -> list[str]:
    return [(await payouts.states(each))[0] for each in withdrawals]


async def test_paid_concerns_one_payment(payouts: Payouts, bank: FileRail) -> None:
    withdrawals = await unknown(payouts, bank, arrived=True)
    (applied,) = await says(payouts, withdrawals[1], Finding.PAID)
    assert applied.done
    assert await states(payouts, withdrawals) == ["unknown", "paid", "unknown"]
    rows = owner_rows(
        payouts.world, "SELECT actor, reason, detail FROM audit WHERE action = 'attempt.decide'"
    )
    assert rows == [("test", "the bank said so", {"finding": "paid", "state": "paid"})]


async def test_the_story_tells_who_decided_and_with_which_words(
    payouts: Payouts, bank: FileRail
) -> None:
    withdrawals = await unknown(payouts, bank, arrived=False)
    proof = "asked at the bank by telephone: its ticket BN-4711, the file never came"
    await says(payouts, withdrawals[0], Finding.NOT_PAID, proof)
    for each in withdrawals:
        told = (await payouts.world.read(lambda tx, n=each: view.story(tx, n))).wire()
        decided = [act for act in told["acts"] if act["action"] == "attempt.decide"]
        assert [(act["actor"], act["reason"]) for act in decided] == [("test", proof)]
        assert told["attempts"][0]["detail"] is None, "a provider's words, not a person's"


async def test_not_paid_concerns_the_whole_order_which_never_goes_again(
    payouts: Payouts, bank: FileRail
) -> None:
    withdrawals = await unknown(payouts, bank, arrived=False)
    assert len(await says(payouts, withdrawals[0], Finding.NOT_PAID)) == 3
    assert await states(payouts, withdrawals) == ["failed"] * 3
    for _ in range(3):
        payouts.world.clock.advance(timedelta(hours=2))
        await payouts.run(payouts.dispatcher())
    assert len(bank.orders) == 1
    assert await payouts.value("SELECT state FROM batch") == "answered"


async def test_an_order_with_a_refused_payment_is_not_sent_again(
    payouts: Payouts, bank: FileRail
) -> None:
    withdrawals = await unknown(payouts, bank, arrived=False)
    key = await payouts.key_of(withdrawals[0])
    await payouts.hear("bank", Outcome(key, Verdict.REJECTED, code="MS03"))
    for _ in range(3):
        payouts.world.clock.advance(timedelta(hours=2))
        await payouts.run(payouts.dispatcher())
    assert len(bank.orders) == 1
    assert await states(payouts, withdrawals) == ["failed", "unknown", "unknown"]


async def test_an_order_with_a_payment_that_a_person_saw_paid_is_not_sent_again(
    payouts: Payouts, bank: FileRail
) -> None:
    """It was paid at the bank's own desk, perhaps; the file would pay it once more."""
    withdrawals = await unknown(payouts, bank, arrived=False)
    bank.paid[await payouts.key_of(withdrawals[1])] = 1
    await says(payouts, withdrawals[1], Finding.PAID, "paid at the desk, ticket 12")
    sent = len(bank.orders)
    dispatcher = payouts.dispatcher()
    for _ in range(3):
        payouts.world.clock.advance(timedelta(hours=7))
        await payouts.run(dispatcher)
    assert len(bank.orders) == sent
    assert await states(payouts, withdrawals) == ["unknown", "paid", "unknown"]
    await says(payouts, withdrawals[0], Finding.NOT_PAID)
    assert await states(payouts, withdrawals) == ["failed", "paid", "failed"]


async def test_there_is_nothing_to_decide_about_what_is_known_or_on_the_wire(
    payouts: Payouts, bank: FileRail
) -> None:
    withdrawals = await unknown(payouts, bank, arrived=True)
    await payouts.hear("bank", Outcome(await payouts.key_of(withdrawals[1]), Verdict.PAID))
    with pytest.raises(Conflict, match="attempt-not-unknown"):
        await says(payouts, withdrawals[1], Finding.NOT_PAID)
    payouts.world.clock.advance(timedelta(hours=1))
    assert len(await payouts.replays("bank")) == 1
    with pytest.raises(Conflict, match="attempt-not-unknown"):
        await says(payouts, withdrawals[0], Finding.NOT_PAID)


async def test_a_decision_needs_its_proof_and_its_attempt(payouts: Payouts, bank: FileRail) -> None:
    withdrawals = await unknown(payouts, bank, arrived=True)
    with pytest.raises(Unprocessable, match="reason-missing"):
        await says(payouts, withdrawals[0], Finding.PAID, " ")
    with pytest.raises(NotFound):
        await payouts.world.run(lambda tx: decide(tx, 4711, Finding.PAID, "x"))


async def test_unknown_payments_are_watched_though_nobody_can_be_asked(
    payouts: Payouts, bank: FileRail
) -> None:
    await unknown(payouts, bank, arrived=True)
    owner_rows(payouts.world, "UPDATE attempt SET due_at = NULL RETURNING id")
    metrics = Metrics()
    await measure(payouts.world.dbs, metrics)
    [family] = metrics.unknown_attempts.collect()
    assert [sample.value for sample in family.samples] == [3]
