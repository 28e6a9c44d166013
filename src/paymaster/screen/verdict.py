"""What the rules said, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What may happen next."""

    APPROVED = "approved"
    CHALLENGE = "challenge"
    """The user must prove who they are; then the rules are asked again."""
    REVIEW = "review"
    """A person decides."""
    DENIED = "denied"


_SEVERITY = (Outcome.APPROVED, Outcome.CHALLENGE, Outcome.REVIEW, Outcome.DENIED)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The gravest of several; approved when there is none."""
    return max(outcomes, key=_SEVERITY.index, default=Outcome.APPROVED)


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule found. `rule` is its id in the rule set; `text` is for operators."""

    rule: str
    rule_version: int
    outcome: Outcome
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome with every reason, in the order of the rules, not only the gravest."""

    outcome: Outcome
    reasons: tuple[Reason, ...]
    facts_digest: str
    rule_set_version: int

    def canonical(self) -> bytes:
        """The one way to write it as JSON: sorted names, no spaces."""
        return msgspec.json.encode(self, order="sorted")
