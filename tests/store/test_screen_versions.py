from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.screening import rule_set
from tests.withdrawals import (
    withdrawal_world,
)
from tests.world import ACTOR, PostgresServer, World

from paymaster.kernel.errors import Conflict, Refusal
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.screen import default_rule_set
from paymaster.screen.activate import activate, current, ensure, history, limits
from paymaster.withdraw.request import Limits

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


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
    with pytest.raises(Conflict):  # nobody can have seen a version that is not there yet
        await control.run(actor, trace, lambda tx: activate(tx, 1, rules, based_on=9))
    broken = {"rules": [{"rule": "minimum", "parameters": {"amount": {"EUR": "2"}}}, {"rule": "?"}]}
    with pytest.raises(Refusal) as refused:
        await control.run(actor, trace, lambda tx: activate(tx, 1, broken, based_on=2))
    assert refused.value.slug == "rule-invalid"
    assert len(refused.value.problems) >= 2
    assert await control.read(lambda tx: current(tx, 1)) == second
    listed = await control.read(lambda tx: history(tx, 1))
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
