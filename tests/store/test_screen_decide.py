from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from tests.screening import LENIENT, claimed, judged, reason_of, rule_set
from tests.withdrawals import (
    assert_proven,
    available,
    new_earner,
    requested,
    state_of,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money
from paymaster.screen import Facts, Outcome, RuleSet, Window, default_rule_set, store
from paymaster.screen.decide import (
    Claimed,
    Decided,
    claim,
    decide,
    pass_challenge,
)
from paymaster.screen.rule_set import RuleSpec
from paymaster.screen.rules.base import Finding
from paymaster.withdraw import moves

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


# -------------------------------------------------------------------------------- what it decides


async def test_the_default_rules_decide_the_usual_cases(world: World):
    rich, new, strange = (
        await new_earner(world, "9000.00"),
        await new_earner(world, "500.00", age=timedelta(hours=1)),
        await new_earner(world, "500.00", currency="NZD"),
    )
    cases = {
        await requested(world, rich, "10.00"): (Outcome.APPROVED, "approved", None),
        await requested(world, rich, "0.99"): (Outcome.DENIED, "denied", "minimum"),
        await requested(world, rich, "1000.01"): (Outcome.REVIEW, "in_review", "maximum"),
        await requested(world, rich, "4500.00"): (
            Outcome.DENIED, "denied", "daily_limit",
        ),
        await requested(world, new, "101.00"): (Outcome.REVIEW, "in_review", "cooling_off"),
        await requested(world, strange, "5.00"): (
            Outcome.REVIEW, "in_review", "maximum, daily_limit, destination-day",
        ),
    }  # fmt: skip
    found = await judged(world, *cases)
    for withdrawal_id, (outcome, state, reason) in cases.items():
        assert found[withdrawal_id] == Decided(withdrawal_id, outcome, state, None)
        stored = await world.read(
            lambda tx, i=withdrawal_id: tx.value(
                "SELECT reason FROM withdrawal WHERE id = %s", (i,)
            )
        )
        assert stored == reason
    held = Money.parse("10.00", "EUR") + Money.parse("1000.01", "EUR")
    assert (await available(world, rich))[1] == held.text()  # what was denied is back
    await assert_proven(world)


async def test_a_verdict_keeps_facts_reasons_and_rules(world: World):
    earner = await new_earner(world, "5000.00")
    withdrawal_id = await requested(world, earner, "2000.00")
    await judged(world, withdrawal_id)
    (stored,) = await world.read(lambda tx: store.stored_verdicts(tx, withdrawal_id))
    assert stored.outcome == "review"
    assert [reason["rule"] for reason in stored.reasons] == ["maximum"]
    assert RuleSet.read(stored.rules) == default_rule_set()
    facts = Facts.read(stored.facts)
    assert facts.amount == Money.parse("2000.00", "EUR")
    assert facts.at == world.clock.now()


async def test_a_user_who_was_suspended_after_the_request_is_denied(world: World):
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, "10.00")

    async def suspend(tx: CellTx) -> None:
        await tx.execute(
            "UPDATE app_user SET status = 'suspended' WHERE id = %s", (earner.user_id,)
        )

    await world.run(suspend)
    found = await judged(world, withdrawal_id)
    assert found[withdrawal_id].outcome is Outcome.DENIED
    assert await available(world, earner) == ("100.00", "0.00")


async def test_a_destination_closed_since_the_request_goes_to_a_person(world: World):
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, "10.00")

    async def close(tx: CellTx) -> None:
        await tx.execute(
            "UPDATE destination SET state = 'closed' WHERE id = %s", (earner.destination_id,)
        )

    await world.run(close)
    found = await judged(world, withdrawal_id)
    assert found[withdrawal_id] == Decided(
        withdrawal_id, Outcome.APPROVED, "in_review", "destination-closed"
    )
    assert await state_of(world, withdrawal_id) == "in_review"
    assert len(await world.read(lambda tx: store.stored_verdicts(tx, withdrawal_id))) == 1


async def test_a_passed_challenge_lets_the_rules_judge_again(world: World):
    rules = rule_set(
        101,
        {
            "rule": "maximum",
            "parameters": {"amounts": {"EUR": "50.00"}, "outcome": "challenge"},
        },
    )
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, "60.00")
    found = await judged(world, withdrawal_id, rules=rules)
    assert found[withdrawal_id].state == "challenged"
    assert not await world.run(lambda tx: claim(tx, 500))  # nothing to do until it is passed
    assert await world.run(lambda tx: pass_challenge(tx, withdrawal_id))
    found = await judged(world, withdrawal_id, rules=rules)
    assert found[withdrawal_id].state == "approved"
    assert not await world.run(lambda tx: pass_challenge(tx, withdrawal_id))


class Failing:
    """A rule with a fault in it."""

    def judge(self, facts: Facts) -> list[Finding]:
        if facts.amount == Money.parse("10.00", "EUR"):
            raise Broken("rule-fault", "It cannot count to ten.")
        return []

    def windows(self) -> frozenset[Window]:
        return frozenset()


async def test_a_rule_that_fails_hands_over_to_a_person_and_stops_nobody_else(world: World):
    rules = RuleSet(102, (RuleSpec("failing", "failing", 1, {}, Failing()),))
    earner = await new_earner(world)
    one, two = await requested(world, earner, "10.00"), await requested(world, earner, "11.00")
    found = await judged(world, one, two, rules=rules)
    assert (found[one].outcome, found[one].state) == (None, "in_review")
    assert found[two].state == "approved"
    assert await reason_of(world, one) == "screening-failed: rule-fault"


async def test_a_version_is_never_two_rule_sets(world: World):
    earner = await new_earner(world)
    one = await requested(world, earner, "1.00")
    await judged(world, one, rules=rule_set(103, {"rule": "standing"}))
    two = await requested(world, earner, "1.00")
    taken = await claimed(world, two)
    with pytest.raises(Broken) as broken:
        await world.run(lambda tx: decide(tx, taken, rule_set(103)))
    assert broken.value.slug == "rule-set-differs"
    await world.run(lambda tx: decide(tx, taken, LENIENT))


# --------------------------------------------------------------------------- leases and races


async def test_a_worker_stopped_past_its_lease_writes_nothing(world: World):
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, "10.00")
    stopped = await claimed(world, withdrawal_id)
    assert not await world.run(lambda tx: claim(tx, 500))  # it is taken
    world.clock.advance(timedelta(seconds=61))
    successor = await claimed(world, withdrawal_id)
    assert successor[0].tries == 1  # a second claim of it while it is being screened
    (late,) = await world.run(lambda tx: decide(tx, stopped, default_rule_set()))
    assert late == Decided(withdrawal_id, None, "screening", "lease-lost")
    assert not await world.read(lambda tx: store.stored_verdicts(tx, withdrawal_id))
    (done,) = await world.run(lambda tx: decide(tx, successor, default_rule_set()))
    assert done.state == "approved"
    (again,) = await world.run(lambda tx: decide(tx, successor, default_rule_set()))
    assert (again.outcome, again.slug) == (None, "already")
    assert len(await world.read(lambda tx: store.stored_verdicts(tx, withdrawal_id))) == 1


async def test_a_claim_does_not_wait_for_another_one(world: World):
    earner = await new_earner(world)
    ids = [await requested(world, earner, "1.00") for _ in range(3)]
    inside, finish = asyncio.Event(), asyncio.Event()

    async def slow(tx: CellTx) -> list[Claimed]:
        taken = await claim(tx, 2)
        inside.set()
        await finish.wait()
        return taken

    first = asyncio.create_task(world.run(slow))
    await inside.wait()
    second = await asyncio.wait_for(world.run(lambda tx: claim(tx, 5)), 5)
    finish.set()
    taken = [one.withdrawal_id for one in [*await first, *second]]
    assert (len(await first), sorted(taken)) == (2, sorted(ids))
    await world.run(lambda tx: decide(tx, second, LENIENT))
    world.clock.advance(timedelta(seconds=61))
    await judged(world, *(one.withdrawal_id for one in await first))


async def test_what_nobody_could_finish_goes_to_a_person(world: World):
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, "10.00")
    for _ in range(6):
        await claimed(world, withdrawal_id)
        world.clock.advance(timedelta(seconds=61))
    found = await judged(world, withdrawal_id)
    assert found[withdrawal_id] == Decided(withdrawal_id, None, "in_review", "screening-failed")


async def test_cancelled_while_it_was_screened(world: World):
    earner = await new_earner(world)
    one, two = [await requested(world, earner, "10.00") for _ in range(2)]
    taken = await claimed(world, one, two)
    await world.run(lambda tx: moves.cancel(tx, earner.user_id, one))
    found = await world.run(lambda tx: decide(tx, taken, default_rule_set()))
    told = {d.withdrawal_id: (d.state, d.slug) for d in found}
    assert told == {one: ("cancelled", "lease-lost"), two: ("approved", None)}
    assert await available(world, earner) == ("90.00", "10.00")


async def test_two_workers_share_a_queue_and_judge_each_once(world: World):
    earner = await new_earner(world, "900.00")
    ids = [await requested(world, earner, "1.00") for _ in range(60)]

    async def worker() -> list[int]:
        mine: list[int] = []
        while taken := await world.run(lambda tx: claim(tx, 7)):
            found = await world.run(lambda tx, taken=taken: decide(tx, taken, LENIENT))
            mine += [one.withdrawal_id for one in found if one.outcome is not None]
        return mine

    shares = await asyncio.gather(*(worker() for _ in range(4)))
    done = [i for share in shares for i in share]
    assert sorted(i for i in done if i in set(ids)) == sorted(ids)
    assert len(done) == len(set(done))
    await assert_proven(world)
