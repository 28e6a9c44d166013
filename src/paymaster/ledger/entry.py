"""Entries and postings as values, and the verdict on each entry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money
from paymaster.ledger.chart import Account


class Mode(StrEnum):
    """How much a posting moves.

    The UP_TO and REST postings of one entry share one total: what earlier ones of them moved counts
    against the amount of each later one.
    """

    EXACT = "exact"
    UP_TO = "up_to"
    """As much as source and destination have room for, at most the amount; may be nothing."""
    REST = "rest"
    """What the UP_TO postings before it left of the amount, exactly."""


@dataclass(frozen=True, slots=True)
class Posting:
    """`amount` from `source` to `destination`; positive, of the currency of both accounts."""

    source: Account
    destination: Account
    amount: Money
    mode: Mode = Mode.EXACT

    def __post_init__(self) -> None:
        if self.amount.minor <= 0:
            raise Broken("posting-amount", "A posting moves a positive amount.")
        if self.source == self.destination:
            raise Broken("posting-self", "A posting needs two different accounts.")


@dataclass(frozen=True, slots=True)
class Entry:
    """An atomic group of postings under one business fact.

    `id` is allocated with the business row, so that every retry carries it. `subject` is the text
    id of what it is about. `effective_at` None means now. Entries of one batch with the same
    `link` are posted together or not at all. `trace_id` None means the transaction's.
    """

    id: int
    kind: str
    subject: str
    postings: tuple[Posting, ...]
    effective_at: datetime | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict[str, Any])
    reverses_id: int | None = None
    link: str | None = None
    recipe_version: int = 1
    trace_id: str | None = None

    def digest(self) -> bytes:
        """What makes two entries of one id the same: kind, subject and postings."""
        text = f"{self.kind}\n{self.subject}"
        for posting in self.postings:
            kind, owner, _ = posting.source
            to_kind, to_owner, _ = posting.destination
            amount = posting.amount
            # A sum of texts: an f-string would ask the enumeration how to write its member.
            text += (
                f"\n{kind}:{owner}>{to_kind}:{to_owner}={amount.minor}{amount.currency}/"
                + posting.mode
            )
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


class Verdict(StrEnum):
    """What became of an entry."""

    POSTED = "posted"
    DUPLICATE = "duplicate"
    """The same entry is in the books already: nothing to do."""
    CONFLICT = "conflict"
    """Another entry stands in the books under this id."""
    INSUFFICIENT = "insufficient"
    """A source would fall below its floor."""
    CEILING = "ceiling"
    """A destination would rise above its ceiling."""
    CLOSED = "closed"
    """An account is closed."""
    CURRENCY = "currency"
    """The posting's currency is not the account's."""
    OVERFLOW = "overflow"
    """A balance would not fit into 63 bits."""
    LINKED = "linked"
    """Another entry of the same link failed."""
    HOLD = "hold"
    """The hold is not open, or has less remaining than asked."""


class Posted(NamedTuple):
    """The verdict on one entry; `moved` has the minor units of each posting (0 = not stored)."""

    entry_id: int
    verdict: Verdict
    moved: tuple[int, ...] = ()

    @property
    def done(self) -> bool:
        """The entry is in the books, by this call or an earlier one."""
        return self.verdict in (Verdict.POSTED, Verdict.DUPLICATE)
