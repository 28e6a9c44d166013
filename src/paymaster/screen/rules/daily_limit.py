"""Number and amount per user and business day (time zone of the environment)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paymaster.screen.facts import Facts, Scope, Window
from paymaster.screen.rules.base import Finding, Parameters
from paymaster.screen.rules.counting import Limits
from paymaster.screen.verdict import Outcome

_TODAY = Window(Scope.USER, None)


@dataclass(frozen=True, slots=True)
class DailyLimit:
    """Parameters: `count`, `amounts` (one of them at least), `levels`, `jurisdictions`, `outcome`.

    The outcome is `denied` unless it is said.
    """

    limits: Limits

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        """From the data of a rule set."""
        count = parameters.optional_whole("count", least=0, most=1_000_000)
        by_amount = any(map(parameters.has, ("amounts", "levels", "jurisdictions")))
        if count is None and not by_amount:
            parameters.problem("", "Give count, amounts or both.")
        amounts = parameters.amounts("amounts", required=False) if by_amount else None
        return cls(Limits(count, amounts, parameters.outcome(Outcome.DENIED)))

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """See Rule."""
        if facts.amount is None:
            return ()
        return tuple(self.limits.exceeded(facts, _TODAY, "a day"))

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset({_TODAY})
