"""What the conformance suite needs of a rail's surroundings.

Whoever writes a rail writes a `Harness` for it: the rail, an account, and the provider (a sandbox,
or the provider's own test system) that can be asked what it really paid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from paymaster.rails.base import Instruction, Rail, RailAccount


class Fault(StrEnum):
    """What a provider can do to the next call."""

    LOSE_ANSWER = "lose-answer"
    """Execute the order, then drop the connection without a word."""
    FAIL_BEFORE = "fail-before"
    """Answer with a failure of its own, having executed nothing."""
    PAY_LATER = "pay-later"
    """Take orders in and execute them after a while."""


class Fate(StrEnum):
    """What becomes of payments to a payee."""

    REFUSED = "refused"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification as the provider sent it. Header names are lower case."""

    headers: Mapping[str, str]
    body: bytes
    at: datetime


class Harness(Protocol):
    """A rail, an account, and the world behind it."""

    account: RailAccount
    seen: set[str]
    """Names of the files that were read, by all checks together."""

    @property
    def faults(self) -> frozenset[Fault]:
        """What this provider can be made to do."""
        ...

    def make_rail(self) -> Rail:
        """The rail as a process that has just started would make it."""
        ...

    def instructions(self, count: int, amounts: Sequence[int] = ()) -> list[Instruction]:
        """New payments to payees that nobody was ever paid to; amounts in minor units."""
        ...

    def batch_key(self) -> str:
        """A new name for an order."""
        ...

    def now(self) -> datetime:
        """The moment that the provider signs and dates with."""
        ...

    def unreachable(self) -> RailAccount:
        """The same account at an address where nobody listens."""
        ...

    def foreign(self) -> RailAccount:
        """Another account of the same kind, that the provider has no statements for."""
        ...

    async def decide(self, instruction: Instruction, fate: Fate) -> None:
        """What is to become of payments to this payee."""
        ...

    async def arm(self, fault: Fault) -> None:
        """Let the next order meet a fault."""
        ...

    async def rest(self) -> None:
        """Wait until the provider has nothing left to do or to tell."""
        ...

    async def close_day(self) -> None:
        """End the provider's business day: statements appear."""
        ...

    async def times_paid(self, instruction: Instruction) -> int:
        """How often the provider paid this reference, by its own books."""
        ...

    async def minor_paid(self, instruction: Instruction) -> int:
        """How much the payee got altogether, before returns."""
        ...

    async def calls(self) -> int:
        """How many orders have reached the provider so far."""
        ...

    async def deliveries(self) -> list[Delivery]:
        """Notifications since the last time this was asked."""
        ...
