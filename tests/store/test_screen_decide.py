from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.withdrawals import (
    assert_proven,
    available,
    new_earner,
    requested,
    state_of,
    step,
    withdrawal_world,
)
from tests.world import ACTOR, PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, Conflict, Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.screen import Facts, Outcome, RuleSet, Scope, Window, default_rule_set, store
from paymaster.screen.activate import activate, current, ensure, limits
from paymaster.screen.decide import (
    Claimed,
    Decided,
    check,
    claim,
    decide,
    gather,
    pass_challenge,
)
from paymaster.screen.rule_set import RuleSpec
from paymaster.screen.rules.base import Finding
from paymaster.withdraw import moves
from paymaster.withdraw.machine import Event
from paymaster.withdraw.request import Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCES = Path(__file__).resolve().parents[2] / "src"
LENIENT = RuleSet.read({"version": 100, "rules": [{"rule": "standing"}]})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


async def claimed(world: World, *ids: int, limit: int = 500) -> list[Claimed]:
    """Claim everything that is due; these ids must be among it."""
    found = await world.run(lambda tx: claim(tx, limit))
    wanted = [one for one in found if one.withdrawal_id in ids]
    assert len(wanted) == len(ids)
    return wanted


async def judged(
    world: World, *ids: int, rules: RuleSet | None = None, shared: Mapping[int, int] | None = None
) -> dict[int, Decided]:
    """Claim and decide."""
    taken = await claimed(world, *ids)
    found = await world.run(lambda tx: decide(tx, taken, rules or default_rule_set(), shared))
    return {one.withdrawal_id: one for one in found}


async def reason_of(world: World, withdrawal_id: int) -> str | None:
    return await world.read(
        lambda tx: tx.value("SELECT reason FROM withdrawal WHERE id = %s", (withdrawal_id,))
    )


def rule_set(version: int, *rules: dict[str, Any]) -> RuleSet:
    return RuleSet.read({"version": version, "rules": list(rules)})


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


# -------------------------------------------------------------------------------------- figures


async def figures(world: World, withdrawal_id: int, destination_id: int, *windows: Window) -> Facts:
    one = Claimed(withdrawal_id, destination_id, 1, 0)
    found = await world.read(lambda tx: gather(tx, [one], frozenset(windows), {}))
    return found[withdrawal_id]


async def test_windows_count_what_was_asked_before_and_not_what_went_back(world: World):
    hour, today = Window(Scope.USER, 3600), Window(Scope.USER, None)
    earner = await new_earner(world, "100.00")
    other = await new_earner(world, "100.00")
    await requested(world, earner, "1.00")
    world.clock.advance(timedelta(minutes=50))
    cancelled = await requested(world, earner, "2.00")
    await step(world, cancelled, Event.CANCEL)
    await requested(world, earner, "4.00")
    await requested(world, other, "8.00")
    world.clock.advance(timedelta(minutes=20))
    asked = await requested(world, earner, "16.00")
    later = await requested(world, earner, "32.00")
    world.clock.advance(timedelta(hours=3))  # a long queue does not make the burst any older
    facts = await figures(world, asked, earner.destination_id, hour, today)
    assert [(f.window, f.count, f.amount("EUR").text()) for f in facts.figures] == [
        (today, 2, "5.00"),
        (hour, 1, "4.00"),
    ]
    facts = await figures(world, later, earner.destination_id, hour)
    assert [(f.count, f.amount("EUR").text()) for f in facts.figures] == [(2, "20.00")]


async def test_the_day_is_that_of_the_environment(world: World):
    """Europe/Berlin: 23:30 in UTC is the next day there already."""
    today = Window(Scope.USER, None)
    earner = await new_earner(world, "100.00")
    now = world.clock.now()
    world.clock.advance(now.replace(hour=22, minute=50, second=0, microsecond=0) - now)
    await requested(world, earner, "1.00")
    world.clock.advance(timedelta(minutes=5))
    late = await requested(world, earner, "2.00")
    world.clock.advance(timedelta(minutes=35))
    early = await requested(world, earner, "4.00")
    counts = [
        (await figures(world, i, earner.destination_id, today)).figures[0].count
        for i in (late, early)
    ]
    assert counts == [1, 0]


async def test_a_destination_is_counted_whoever_uses_it(world: World):
    day = Window(Scope.DESTINATION, 86400)
    mark = os.urandom(16)
    first, second = [await new_earner(world, fingerprint=mark) for _ in range(2)]
    await requested(world, first, "3.00")
    asked = await requested(world, second, "4.00")
    facts = await figures(world, asked, second.destination_id, day)
    assert [(f.count, f.amount("EUR").text()) for f in facts.figures] == [(1, "3.00")]
    assert facts.destination is not None
    assert facts.destination.users == 2
    assert facts.destination.fingerprint == mark.hex()


async def test_users_elsewhere_with_the_same_destination_count_too(world: World):
    earner = await new_earner(world)
    one = await requested(world, earner, "1.00")
    found = await judged(world, one, shared={earner.destination_id: 4})
    assert found[one].state == "in_review"
    two = await requested(world, earner, "1.00")
    found = await judged(world, two, shared={earner.destination_id: 3})
    assert found[two].state == "approved"


async def test_a_burst_in_one_batch_is_seen_in_its_own_order(world: World):
    earner = await new_earner(world)
    ids = [await requested(world, earner, "1.00") for _ in range(7)]
    found = await judged(world, *ids)
    assert [found[i].state for i in ids] == ["approved"] * 5 + ["in_review"] * 2


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


# ------------------------------------------------------------------------------------- replay


REPLAY = """
import json, sys
from paymaster.screen import replay
for stored in json.load(sys.stdin):
    print(replay(stored["facts"], stored["rules"]).canonical().decode())
"""


async def test_a_verdict_is_the_same_in_another_process(world: World):
    earner = await new_earner(world, "9000.00", age=timedelta(minutes=5))
    ids = [await requested(world, earner, a) for a in ("0.50", "10.00", "150.00", "3000.00")]
    await judged(world, *ids)
    found = [
        stored
        for i in ids
        for stored in await world.read(lambda tx, i=i: store.stored_verdicts(tx, i))
    ]
    assert {stored.outcome for stored in found} == {"denied", "approved", "review"}
    given = json.dumps([{"facts": s.facts, "rules": s.rules} for s in found])
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", REPLAY],
        input=given,
        env={**os.environ, "PYTHONPATH": str(SOURCES), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [check(stored).canonical().decode() for stored in found]
    altered = replace(found[0], facts={**found[0].facts, "at": "2026-01-01T00:00:00Z"})
    with pytest.raises(Broken) as broken:
        check(altered)
    assert broken.value.slug == "verdict-differs"


# ----------------------------------------------------------------------------------- versions


async def test_versions_follow_one_another_and_the_newest_is_in_force(world: World):
    control, actor, trace = world.dbs.control, ACTOR, new_trace_id()
    assert await control.read(lambda tx: current(tx, 1)) is None
    first = await control.run(actor, trace, lambda tx: ensure(tx, 1))
    assert first == default_rule_set()
    assert await control.run(actor, trace, lambda tx: ensure(tx, 1)) == first
    rules = {"rules": [{"rule": "minimum", "parameters": {"amounts": {"EUR": "2.00"}}}]}
    second = await control.run(actor, trace, lambda tx: activate(tx, 1, rules, based_on=1))
    assert second.version == 2
    assert await control.read(lambda tx: current(tx, 1)) == second
    with pytest.raises(Conflict) as late:
        await control.run(actor, trace, lambda tx: activate(tx, 1, rules, based_on=1))
    assert late.value.slug == "rule-set-changed"
    broken = {"rules": [{"rule": "minimum", "parameters": {"amount": {"EUR": "2"}}}, {"rule": "?"}]}
    with pytest.raises(Refusal) as refused:
        await control.run(actor, trace, lambda tx: activate(tx, 1, broken, based_on=2))
    assert refused.value.slug == "rule-invalid"
    assert len(refused.value.problems) >= 2
    assert await control.read(lambda tx: current(tx, 1)) == second
    listed = await control.read(lambda tx: store.rule_sets(tx, 1))
    assert [row.version for row in listed] == [2, 1]


async def test_two_authors_at_once_make_one_version(world: World):
    control, trace = world.dbs.control, new_trace_id()
    before = await control.run(ACTOR, trace, lambda tx: ensure(tx, 1))
    rules = {"rules": [{"rule": "standing"}]}

    async def author() -> object:
        try:
            return await control.run(
                ACTOR, trace, lambda tx: activate(tx, 1, rules, based_on=before.version)
            )
        except Conflict as conflict:
            return conflict.slug

    results = await asyncio.gather(*(author() for _ in range(4)))
    assert sorted(str(r) for r in results if isinstance(r, str)) == ["rule-set-changed"] * 3


async def test_the_bounds_that_deny_are_known_at_the_request():
    found = limits(default_rule_set())
    assert found["EUR"] == Limits(Money.parse("1.00", "EUR"), None)  # above the maximum: a person
    assert found["JPY"] == Limits(Money.parse("150", "JPY"), None)
    strict = rule_set(
        1,
        {"rule": "minimum", "parameters": {"amounts": {"EUR": "2.00", "*": "1"}}},
        {"id": "m2", "rule": "minimum", "parameters": {"amounts": {"EUR": "3.00"}}},
        {"rule": "maximum", "parameters": {"amounts": {"EUR": "9.00"}}},
    )
    assert limits(strict) == {"EUR": Limits(Money.parse("3.00", "EUR"), Money.parse("9.00", "EUR"))}
