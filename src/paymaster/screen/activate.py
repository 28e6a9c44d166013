"""Which rules are in force: versions of an environment's rule set, in the directory.

A version is never changed, only followed by another one. Version 1 is the default set; it is
stored like any other, so that a later release with other defaults changes nothing that is in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paymaster.db import audit
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.errors import Broken, Conflict
from paymaster.kernel.money import Money
from paymaster.screen import store
from paymaster.screen.defaults import default_rule_set
from paymaster.screen.rule_set import RuleSet
from paymaster.screen.rules.base import ANY_CURRENCY
from paymaster.screen.rules.maximum import Maximum
from paymaster.screen.rules.minimum import Minimum
from paymaster.screen.store import RuleSetRow
from paymaster.screen.verdict import Outcome
from paymaster.withdraw.request import Limits


async def current(tx: ControlRead, environment_id: int) -> RuleSet | None:
    """The rule set in force; None in an environment that has never had one."""
    row = await store.newest_rule_set(tx, environment_id)
    return None if row is None else RuleSet.read(row.rules)


async def version(tx: ControlRead, environment_id: int) -> int | None:
    """The version in force; None in an environment that has never had one."""
    return await store.newest_version(tx, environment_id)


async def history(tx: ControlRead, environment_id: int) -> list[RuleSetRow]:
    """All versions, newest first, each with the moment from which it was in force."""
    return await store.rule_sets(tx, environment_id)


async def ensure(tx: ControlTx, environment_id: int) -> RuleSet:
    """The rule set in force; the default one is put in force where there is none."""
    found = await current(tx, environment_id)
    if found is None:
        default = default_rule_set()
        await store.insert_rule_set(tx, environment_id, default.version, default.data())
        found = await current(tx, environment_id)
    if found is None:
        raise Broken("rule-set-missing", f"Environment {environment_id} has no rule set.")
    return found


async def activate(
    tx: ControlTx, environment_id: int, rules: Mapping[str, Any], *, based_on: int
) -> RuleSet:
    """Put a new version in force: `rules` is the document with or without its version.

    `based_on` is the version that its author has seen. Raises Refusal `rule-invalid` with every
    fault, Conflict `rule-set-changed` when another version has come into force since.
    """
    before = await ensure(tx, environment_id)
    made = RuleSet.read({**rules, "version": based_on + 1})
    if before.version != based_on or not await store.insert_rule_set(
        tx, environment_id, made.version, made.data()
    ):
        raise Conflict(
            "rule-set-changed",
            f"Version {max(before.version, made.version)} is in force by now; look at it first.",
        )
    await audit.record(
        tx,
        [
            audit.Act(
                "rule_set.activate",
                f"rule-set:{environment_id}",
                detail={"version": made.version, "rules": made.data()["rules"]},
            )
        ],
    )
    return made


def limits(rule_set: RuleSet) -> dict[str, Limits]:
    """What a request is refused for at once, by currency: the bounds that mean `denied`.

    They hold for everybody, whatever the level and the jurisdiction; the rules know them exactly.
    """
    least: dict[str, list[Money]] = {}
    most: dict[str, list[Money]] = {}
    for spec in rule_set.rules:
        rule = spec.rule
        if isinstance(rule, Minimum | Maximum) and rule.outcome is Outcome.DENIED:
            bounds = least if isinstance(rule, Minimum) else most
            for currency in rule.amounts.currencies() - {ANY_CURRENCY}:
                every = rule.amounts.every(currency)
                known = [one for one in every if one is not None]
                if len(known) == len(every):
                    widest = min(known) if isinstance(rule, Minimum) else max(known)
                    bounds.setdefault(currency, []).append(widest)
    return {
        currency: Limits(
            max(least.get(currency, ()), default=None), min(most.get(currency, ()), default=None)
        )
        for currency in sorted({*least, *most})
    }
