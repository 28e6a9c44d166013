"""The least that may be withdrawn. A currency without a line has no minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paymaster.screen.facts import Facts, Window
from paymaster.screen.rules.base import AmountTable, Finding, Parameters
from paymaster.screen.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Minimum:
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
        least = self.amounts.find(facts.amount.currency, facts.user)
        if least is None or facts.amount >= least:
            return ()
        return (Finding(self.outcome, f"{facts.amount} is below the minimum of {least}."),)

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset()
