"""Which acts of an environment need a proof: rules that are data, changed by staff, audited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from paymaster.db import audit
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.kernel.money import Money, exponent
from paymaster.people.factors.binding import Purpose

Applies = Literal["users", "servers", "both"]
By = Literal["users", "servers"]
"""Who acts: the earner with a token, or a server (or a person of the staff) for the earner."""

EVERY = "*"
MAX_RULES = 200


@dataclass(frozen=True, slots=True)
class Rule:
    """A withdrawal above so much of a currency, or a new destination, needs a proof."""

    purpose: Purpose
    currency: str = EVERY
    above_minor: int = 0
    applies_to: Applies = "both"

    def wire(self) -> dict[str, Any]:
        """For JSON and the audit."""
        above = None
        if self.currency != EVERY:
            money = Money(self.above_minor, self.currency)
            above = {"amount": money.text(), "currency": money.currency}
        return {"purpose": self.purpose.value, "above": above, "applies_to": self.applies_to}


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of an environment; without any, nothing needs a proof."""

    rules: tuple[Rule, ...] = ()

    def requires(self, purpose: Purpose, by: By, currency: str, minor: int = 0) -> bool:
        """Whether an act of this caller needs a proof; `minor` is a withdrawal's amount."""
        return any(
            rule.purpose == purpose
            and rule.applies_to in ("both", by)
            and rule.currency in (EVERY, currency)
            and (purpose is not Purpose.WITHDRAWAL or minor > rule.above_minor)
            for rule in self.rules
        )


NONE = Policy()


def read(rows: Iterable[Sequence[Any]] | None) -> Policy:
    """A policy out of rows of `(purpose, currency, above_minor, applies_to)`."""
    if not rows:
        return NONE
    return Policy(
        tuple(
            Rule(Purpose(purpose), currency, int(above), cast("Applies", applies))
            for purpose, currency, above, applies in rows
        )
    )


async def current(tx: ControlRead, environment_id: int) -> Policy:
    """The policy in force."""
    return read(
        await tx.tuples(
            "SELECT purpose, currency, above_minor, applies_to FROM step_up_policy"
            " WHERE environment_id = %s ORDER BY purpose, currency",
            (environment_id,),
        )
    )


async def required(
    tx: ControlRead, environment_id: int, purpose: Purpose, by: By, currency: str, minor: int = 0
) -> bool:
    """Whether an act needs a proof; screening may ask as well."""
    return (await current(tx, environment_id)).requires(purpose, by, currency, minor)


async def replace(tx: ControlTx, environment_id: int, rules: Sequence[Rule], reason: str) -> Policy:
    """Put rules in the place of all that there were. Raises Unprocessable `step-up-policy-invalid`.

    The audit keeps the rules before and after.
    """
    _check(rules)
    before = await current(tx, environment_id)
    await tx.execute("DELETE FROM step_up_policy WHERE environment_id = %s", (environment_id,))
    await tx.execute(
        """
        INSERT INTO step_up_policy (environment_id, purpose, currency, above_minor, applies_to,
            changed_at)
        SELECT %s, p, c, m, a, %s
        FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[]) AS n (p, c, m, a)
        """,
        (
            environment_id,
            tx.now,
            [rule.purpose.value for rule in rules],
            [rule.currency for rule in rules],
            [rule.above_minor for rule in rules],
            [rule.applies_to for rule in rules],
        ),
    )
    after = await current(tx, environment_id)
    detail = {
        "before": [rule.wire() for rule in before.rules],
        "after": [rule.wire() for rule in after.rules],
    }
    subject = f"step-up-policy:{environment_id}"
    await audit.record(tx, [audit.Act("step-up-policy.change", subject, reason, detail)])
    return after


def _check(rules: Sequence[Rule]) -> None:
    problems: list[Problem] = []
    if len(rules) > MAX_RULES:
        problems.append(Problem("/rules", f"At most {MAX_RULES} rules."))
    seen: set[tuple[str, str]] = set()
    for index, rule in enumerate(rules):
        if rule.above_minor < 0:
            problems.append(Problem(f"/rules/{index}/above/amount", "Zero or more."))
        if rule.purpose is Purpose.FACTOR:
            problems.append(Problem(f"/rules/{index}/purpose", "Acts on factors always need one."))
        if rule.purpose is Purpose.DESTINATION and rule.above_minor:
            problems.append(Problem(f"/rules/{index}/above", "A destination has no amount."))
        if (rule.purpose, rule.currency) in seen:
            problems.append(Problem(f"/rules/{index}", "One rule for a purpose and currency."))
        if rule.currency != EVERY:
            exponent(rule.currency)
        seen.add((rule.purpose, rule.currency))
    if problems:
        raise Unprocessable(
            "step-up-policy-invalid", "The policy cannot be used.", problems=problems
        )
