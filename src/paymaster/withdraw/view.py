"""What people are shown: one withdrawal with its whole story, and lists of them.

Lists are paged by key, newest first. A cell answers for itself; the list of a whole environment is
the merge of its cells' pages (`merge`), and a cursor of it holds for every cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from paymaster.db import audit
from paymaster.db.audit import Recorded
from paymaster.db.tx import CellRead
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import Money
from paymaster.withdraw import story
from paymaster.withdraw.machine import WITHDRAWAL


@dataclass(frozen=True, slots=True)
class Summary:
    """A line of a list."""

    ref: Ref
    user_id: int
    external_id: str
    destination_id: int
    destination_kind: str
    mask: str
    amount: Money
    fee: Money
    state: str
    reason: str | None
    rail_account_id: int | None
    requested_at: datetime
    trace_id: str
    version: int

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("wd", self.ref.cell, self.ref.id)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "user": text_id("us", self.ref.cell, self.user_id),
            "destination": {
                "id": text_id("de", self.ref.cell, self.destination_id),
                "kind": self.destination_kind,
                "mask": self.mask,
            },
            "amount": _wire(self.amount),
            "fee": _wire(self.fee),
            "state": self.state,
            "reason": self.reason,
            "requested_at": rfc3339(self.requested_at),
            "trace_id": self.trace_id,
        }
