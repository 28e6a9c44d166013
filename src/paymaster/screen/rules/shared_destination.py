"""One bank account or wallet behind many users: often one person with many names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paymaster.screen.facts import Facts, Window
from paymaster.screen.rules.base import Finding, Parameters
from paymaster.screen.verdict import Outcome


@dataclass(frozen=True, slots=True)
class SharedDestination:
    """At most `users` users may have the destination. Parameters: `users`, `outcome` (review)."""

    users: int
    outcome: Outcome

    @classmethod
    def read(cls, parameters: Parameters) -> Self:
        """From the data of a rule set."""
        return cls(
            parameters.whole("users", least=1, most=1_000_000), parameters.outcome(Outcome.REVIEW)
        )

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """See Rule."""
        if facts.destination is None or facts.destination.users <= self.users:
            return ()
        users = facts.destination.users
        return (Finding(self.outcome, f"{users} users have this destination; {self.users} may."),)

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset()
