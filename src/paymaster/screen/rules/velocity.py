"""Number and amount per user or per destination over a sliding window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paymaster.screen.facts import Facts, Scope, Window
from paymaster.screen.rules.base import Finding, Parameters
from paymaster.screen.rules.counting import Limits
from paymaster.screen.verdict import Outcome

_MAX_SECONDS = 366 * 86_400


@dataclass(frozen=True, slots=True)
class Velocity:
    """At least one of `count` and `amounts` must be given.

    Parameters: `scope`, `window_seconds`, `count`, `amounts`, `levels`, `jurisdictions`,
    `outcome` (review).
    """

    window: Window
    limits: Limits

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        """From the data of a rule set."""
        scope = Scope(parameters.choice("scope", [scope.value for scope in Scope]))
        seconds = parameters.whole("window_seconds", least=1, most=_MAX_SECONDS)
        count = parameters.optional_whole("count", least=0, most=1_000_000)
        by_amount = any(map(parameters.has, ("amounts", "levels", "jurisdictions")))
        if count is None and not by_amount:
            parameters.problem("", "Give count, amounts or both.")
        amounts = parameters.amounts("amounts", required=False) if by_amount else None
        limits = Limits(count, amounts, parameters.outcome(Outcome.REVIEW))
        return cls(Window(scope, seconds), limits)

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """See Rule."""
        if facts.amount is None:
            return ()
        if self.window.scope is Scope.DESTINATION and facts.destination is None:
            return ()
        where = f"per {self.window.scope.value} in {self.window.seconds} seconds"
        return tuple(self.limits.exceeded(facts, self.window, where))

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset({self.window})
