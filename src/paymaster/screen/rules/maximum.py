"""The most that may be withdrawn at once. A currency without a line goes to a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paymaster.screen.facts import Facts, Window
from paymaster.screen.rules.base import AmountTable, Finding, Parameters, no_limit
from paymaster.screen.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Maximum:
    """Parameters: `amounts`, `levels`, `jurisdictions`, `outcome` (denied)."""

    amounts: AmountTable
    outcome: Outcome

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        """From the data of a rule set."""
        return cls(parameters.amounts("amounts", required=True), parameters.outcome(Outcome.DENIED))

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """See Rule."""
        if facts.amount is None:
            return ()
        most = self.amounts.find(facts.amount.currency, facts.user)
        if most is None:
            return (no_limit(facts.amount.currency),)
        if facts.amount <= most:
            return ()
        return (Finding(self.outcome, f"{facts.amount} is above the maximum of {most}."),)

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset()
