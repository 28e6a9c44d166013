"""Claiming and judging withdrawals, for the tests of screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.world import World

from paymaster.screen import RuleSet, default_rule_set
from paymaster.screen.decide import Claimed, Decided, claim, decide

LENIENT = RuleSet.read({"version": 100, "rules": [{"rule": "standing"}]})


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
