"""The books as plain dictionaries: what every verdict must have been.

Written from the rules, not from the ledger's code: an entry is posted when its source keeps its
floor; the same entry again is a duplicate; another entry under a known id is a conflict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

POSTED, DUPLICATE, CONFLICT, INSUFFICIENT = "posted", "duplicate", "conflict", "insufficient"


@dataclass(slots=True)
class Books:
    """Balances by account number; numbers below `floored` may not fall below zero."""

    floored: int
    balances: dict[int, int]
    seen: dict[int, tuple[int, int, int]] = field(default_factory=dict[int, tuple[int, int, int]])

    def post(self, entry_id: int, source: int, destination: int, amount: int) -> str:
        """Post one entry of one posting; the verdict."""
        fact = (source, destination, amount)
        known = self.seen.get(entry_id)
        if known is not None:
            return DUPLICATE if known == fact else CONFLICT
        balances = self.balances
        if source < self.floored and balances[source] < amount:
            return INSUFFICIENT
        self.seen[entry_id] = fact
        balances[source] -= amount
        balances[destination] += amount
        return POSTED

    def compare(self, answers: Iterable[tuple[int, int, int, int, str]]) -> tuple[int, list[str]]:
        """Post `(id, source, destination, amount, verdict)` in order.

        Returns how many verdicts were compared and, at most ten, those that should have been
        different.
        """
        wrong: list[str] = []
        count = 0
        for entry_id, source, destination, amount, verdict in answers:
            count += 1
            expected = self.post(entry_id, source, destination, amount)
            if expected != verdict and len(wrong) < 10:
                wrong.append(f"entry {entry_id}: {verdict}, by the model {expected}")
        return count, wrong
