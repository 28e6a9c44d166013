"""The interface of a rail whose payees agree to payments once and for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from paymaster.rails.base import Confirmation, Payee, RailAccount


class ConsentState(StrEnum):
    """Whether a payee has agreed to payments once and for all."""

    NONE = "none"
    WAITING = "waiting"
    """Asked for; the payee has not agreed yet."""
    IN_EFFECT = "in_effect"
    CLOSED = "closed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Consent:
    """What is known of a payee's consent; `confirmation` opens the provider's page meanwhile."""

    state: ConsentState
    confirmation: Confirmation | None = field(default=None, repr=False)


@runtime_checkable
class AsksConsent(Protocol):
    """Rails that pay without a further act of the payee's, who has agreed to that once.

    No money moves in any of these. They raise what `send` raises.
    """

    def needs_consent(self, account: RailAccount, payee: Payee) -> bool:
        """Whether this account pays this payee so."""
        ...

    async def ask_consent(self, account: RailAccount, payee: Payee, display_name: str) -> Consent:
        """Ask for it; again is the same. The payee is shown as `display_name` by the provider."""
        ...

    async def consent(self, account: RailAccount, payee: Payee) -> Consent:
        """What became of it."""
        ...

    async def end_consent(self, account: RailAccount, payee: Payee) -> Consent:
        """End it; asking again does no harm."""
        ...
