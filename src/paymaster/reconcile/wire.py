"""The two commands between the treasury cell and the cell of a payout, as they travel.

`line.book` asks: here are lines of one statement with references of yours. `line.booked` answers
for each. Amounts travel as decimal strings, ids as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from paymaster.kernel.money import Money

BOOK, BOOKED = "line.book", "line.booked"
CHUNK = 500
"""Lines in one command."""


@dataclass(frozen=True, slots=True)
class Question:
    """A line with a reference. `amount` is positive; `accepted`: book our own amount anyway.

    `kind` is that of `decide.Ask`.
    """

    line: str
    key: str
    kind: str
    amount: Money
    code: str | None
    booked_on: date
    accepted: bool

    @property
    def is_return(self) -> bool:
        """Whether the money came back."""
        return self.kind in {"return", "back"}

    @property
    def proves(self) -> bool:
        """Whether the line says what became of the payment, and not only where its money is."""
        return self.kind in {"payout", "return"}

    def write(self) -> dict[str, Any]:
        """For the payload."""
        return {
            "line": self.line,
            "key": self.key,
            "kind": self.kind,
            "amount": self.amount.text(),
            "currency": self.amount.currency,
            "code": self.code,
            "booked_on": self.booked_on.isoformat(),
            "accepted": self.accepted,
        }

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Question:
        """From the payload."""
        return cls(
            row["line"],
            row["key"],
            row["kind"],
            Money.parse(row["amount"], row["currency"]),
            row["code"],
            date.fromisoformat(row["booked_on"]),
            row["accepted"],
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the payout's cell did with a line.

    `booked` is what it booked, `subjects` the attempts (`at_...`) it booked, `matched` what the
    line stands for: an attempt or a whole order (`ba_...`). Without `ok`, `slug` is a break's kind.
    """

    line: str
    ok: bool
    slug: str | None = None
    detail: str | None = None
    booked: Money | None = None
    expected: Money | None = None
    matched: str | None = None
    subjects: Sequence[str] = ()

    def write(self) -> dict[str, Any]:
        """For the payload."""
        return {
            "line": self.line,
            "ok": self.ok,
            "slug": self.slug,
            "detail": self.detail,
            "booked": _write(self.booked),
            "expected": _write(self.expected),
            "matched": self.matched,
            "subjects": list(self.subjects),
        }

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Answer:
        """From the payload."""
        return cls(
            row["line"],
            row["ok"],
            row["slug"],
            row["detail"],
            _read(row["booked"]),
            _read(row["expected"]),
            row["matched"],
            tuple(row["subjects"]),
        )


def _write(money: Money | None) -> dict[str, str] | None:
    return None if money is None else {"amount": money.text(), "currency": money.currency}


def _read(value: Mapping[str, str] | None) -> Money | None:
    return None if value is None else Money.parse(value["amount"], value["currency"])
