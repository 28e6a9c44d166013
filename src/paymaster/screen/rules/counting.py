"""What the daily limit and velocity have in common: a figure plus this request, against limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paymaster.screen.facts import Facts, Window
from paymaster.screen.rules.base import AmountTable, Finding, no_figure, no_limit
from paymaster.screen.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Limits:
    """At most `count` requests and at most so much money; None is no limit of that kind."""

    count: int | None
    amounts: AmountTable | None
    outcome: Outcome

    def exceeded(self, facts: Facts, window: Window, where: str) -> Iterator[Finding]:
        """What this request would exceed. `where` completes "the limit ... "."""
        figure = facts.figure(window)
        if figure is None:
            yield no_figure(window)
            return
        if self.count is not None and figure.count + 1 > self.count:
            yield Finding(
                self.outcome,
                f"Request {figure.count + 1} exceeds the limit of {self.count} {where}.",
            )
        if self.amounts is None or facts.amount is None:
            return
        most = self.amounts.find(facts.amount.currency, facts.user)
        if most is None:
            yield no_limit(facts.amount.currency)
            return
        total = figure.amount(facts.amount.currency) + facts.amount
        if total > most:
            yield Finding(self.outcome, f"{total} exceeds the limit of {most} {where}.")
