"""Facts and rules in, verdict out: the same every time, everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paymaster.screen.facts import Facts
from paymaster.screen.rule_set import RuleSet
from paymaster.screen.verdict import Outcome, Reason, Verdict, worst


def evaluate(facts: Facts, rule_set: RuleSet) -> Verdict:
    """Ask every rule; the gravest outcome wins, and every reason is kept.

    A challenge that the user has passed stays among the reasons and no longer counts.
    """
    reasons = tuple(
        Reason(spec.id, spec.version, finding.outcome, finding.text)
        for spec in rule_set.rules
        for finding in spec.rule.judge(facts)
    )
    counted = (
        reason.outcome
        for reason in reasons
        if not (facts.challenge_passed and reason.outcome is Outcome.CHALLENGE)
    )
    return Verdict(worst(counted), reasons, facts.digest(), rule_set.version)


def replay(
    stored_facts: str | bytes | Mapping[str, Any], stored_rule_set: str | bytes | Mapping[str, Any]
) -> Verdict:
    """The verdict again, from what was stored beside it; equal to the first, byte for byte.

    Raises Broken `facts-malformed`, Refusal `rule-invalid`.
    """
    return evaluate(Facts.read(stored_facts), RuleSet.read(stored_rule_set))
