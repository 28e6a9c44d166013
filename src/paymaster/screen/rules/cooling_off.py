"""A destination that was added a moment ago is not paid yet: it may not be the user's own hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from paymaster.kernel.clock import rfc3339
from paymaster.screen.facts import Facts, Window
from paymaster.screen.rules.base import AmountTable, Finding, Parameters
from paymaster.screen.verdict import Outcome

_MAX_SECONDS = 366 * 86_400


@dataclass(frozen=True, slots=True)
class CoolingOff:
    """Amounts up to `exempt_up_to` may go at once.

    Parameters: `seconds`, `exempt_up_to`, `levels`, `jurisdictions`, `outcome` (review).
    """

    seconds: int
    exempt_up_to: AmountTable
    outcome: Outcome

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        """From the data of a rule set."""
        return cls(
            parameters.whole("seconds", least=0, most=_MAX_SECONDS),
            parameters.amounts("exempt_up_to", required=False),
            parameters.outcome(Outcome.REVIEW),
        )

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """See Rule."""
        if facts.destination is None or facts.amount is None:
            return ()
        exempt = self.exempt_up_to.find(facts.amount.currency, facts.user)
        if exempt is not None and facts.amount <= exempt:
            return ()
        until = facts.destination.added_at + timedelta(seconds=self.seconds)
        if facts.at >= until:
            return ()
        return (
            Finding(self.outcome, f"The destination is new: it cools off until {rfc3339(until)}."),
        )

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset()
