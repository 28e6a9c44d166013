"""What people and programs are shown of users, destinations and keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import msgspec

from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import Ref, text_id
from paymaster.people.machine import DestinationState
from paymaster.people.profile import Profile


@dataclass(frozen=True, slots=True)
class UserView:
    """A user as the API shows it."""

    ref: Ref
    external_id: str = field(repr=False)
    status: str
    status_reason: str | None
    profile: Profile | None = field(repr=False)
    created_at: datetime
    version: int

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("us", self.ref.cell, self.ref.id)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        profile = None if self.profile is None else msgspec.to_builtins(self.profile)
        return {
            "id": self.id,
            "external_id": self.external_id,
            "status": self.status,
            "status_reason": self.status_reason,
            "profile": profile,
            "created_at": rfc3339(self.created_at),
        }

    def wire_own(self) -> dict[str, Any]:
        """For JSON, for the user: without the words of the staff."""
        return {**self.wire(), "status_reason": None}


@dataclass(frozen=True, slots=True)
class DestinationView:
    """A destination, masked."""

    ref: Ref
    user_id: int
    kind: str
    currency: str
    mask: str
    state: str
    closed_reason: str | None
    usable_at: datetime
    created_at: datetime
    created: bool = False
    """Whether this very call made it."""
    paused_code: str | None = None
    paused_at: datetime | None = None

    @property
    def id(self) -> str:
        """The text id."""
        return text_id("de", self.ref.cell, self.ref.id)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        paused = self.state == DestinationState.PAUSED
        return {
            "id": self.id,
            "user": text_id("us", self.ref.cell, self.user_id),
            "kind": self.kind,
            "currency": self.currency,
            "mask": self.mask,
            "state": self.state,
            "closed_reason": self.closed_reason,
            "paused_at": rfc3339(self.paused_at) if paused and self.paused_at else None,
            "paused_code": self.paused_code if paused else None,
            "usable_at": rfc3339(self.usable_at),
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class CredentialView:
    """An API key without its secret."""

    id: int
    environment_id: int
    prefix: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_on: date | None
    person_id: int | None = None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        owner = self.person_id
        return {
            "prefix": self.prefix,
            "name": self.name,
            "scopes": list(self.scopes),
            "owner": None if owner is None else text_id("pe", 0, owner),
            "created_at": rfc3339(self.created_at),
            "expires_at": rfc3339(self.expires_at) if self.expires_at else None,
            "revoked_at": rfc3339(self.revoked_at) if self.revoked_at else None,
            "last_used_on": self.last_used_on.isoformat() if self.last_used_on else None,
        }
