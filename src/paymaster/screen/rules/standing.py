"""A suspended or closed account asks for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paymaster.screen.facts import Facts, Standing, Window
from paymaster.screen.rules.base import Finding, Parameters
from paymaster.screen.verdict import Outcome


@dataclass(frozen=True, slots=True)
class AccountStanding:
    """No parameters."""

    @classmethod
    def read(cls, parameters: Parameters) -> Self:  # noqa: ARG003 - it has none
        """From the data of a rule set."""
        return cls()

    def judge(self, facts: Facts) -> Sequence[Finding]:
        """See Rule."""
        if facts.user.standing is Standing.ACTIVE:
            return ()
        return (Finding(Outcome.DENIED, f"The account is {facts.user.standing.value}."),)

    def windows(self) -> frozenset[Window]:
        """See Rule."""
        return frozenset()
