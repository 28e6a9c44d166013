"""What people and programs are shown of sponsors, campaigns, tasks and rewards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.earn.store.offers import CampaignRow, SponsorRow, TaskRow
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money


def money(amount: Money) -> dict[str, str]:
    """An amount on the wire."""
    return {"amount": amount.text(), "currency": amount.currency}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


@dataclass(frozen=True, slots=True)
class SponsorView:
    """Who pays for campaigns."""

    id: str
    number: int
    external_id: str
    name: str
    created_at: datetime

    @classmethod
    def of(cls, row: SponsorRow, home_cell: int) -> SponsorView:
        """From its row."""
        name = text_id("sp", home_cell, row.id)
        return cls(name, row.id, row.external_id, row.name, row.created_at)

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "external_id": self.external_id,
            "name": self.name,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class CampaignView:
    """A campaign; `number` is its id in the directory and the owner of its budget account."""

    id: str
    number: int
    home_cell: int
    sponsor: str
    external_id: str
    name: str
    currency: str
    starts_at: datetime
    ends_at: datetime | None
    state: str
    when_exhausted: str
    vesting_seconds: int
    targeting: dict[str, Any]
    funding_reference: str
    version: int
    created_at: datetime

    @classmethod
    def of(cls, row: CampaignRow) -> CampaignView:
        """From its row."""
        return cls(
            text_id("cp", row.home_cell, row.id),
            row.id,
            row.home_cell,
            text_id("sp", row.home_cell, row.sponsor_id),
            row.external_id,
            row.name,
            row.currency,
            row.starts_at,
            row.ends_at,
            row.state,
            row.when_exhausted,
            row.vesting_seconds,
            row.targeting,
            row.funding_reference,
            row.version,
            row.created_at,
        )

    def wire(self, budget: Money | None = None) -> dict[str, Any]:
        """For JSON; `budget` is what is left and not leased out."""
        shown: dict[str, Any] = {
            "id": self.id,
            "external_id": self.external_id,
            "sponsor": self.sponsor,
            "name": self.name,
            "currency": self.currency,
            "starts_at": rfc3339(self.starts_at),
            "ends_at": _time(self.ends_at),
            "state": self.state,
            "when_exhausted": self.when_exhausted,
            "vesting_seconds": self.vesting_seconds,
            "targeting": self.targeting,
            "funding_reference": self.funding_reference,
            "version": self.version,
            "created_at": rfc3339(self.created_at),
        }
        if budget is not None:
            shown["budget"] = money(budget)
        return shown


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task."""

    id: str
    number: int
    campaign: str
    external_id: str
    type: str
    title: str
    reward: Money
    verification: dict[str, Any]
    requirements: dict[str, Any]
    user_cap: int | None
    starts_at: datetime
    expires_at: datetime | None
    state: str
    version: int
    created_at: datetime

    @classmethod
    def of(cls, row: TaskRow, parent: CampaignRow) -> TaskView:
        """From its row and its campaign's."""
        return cls(
            text_id("tk", parent.home_cell, row.id),
            row.id,
            text_id("cp", parent.home_cell, parent.id),
            row.external_id,
            row.type,
            row.title,
            Money(row.reward_minor, parent.currency),
            row.verification,
            row.requirements,
            row.user_cap,
            row.starts_at,
            row.expires_at,
            row.state,
            row.version,
            row.created_at,
        )

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "external_id": self.external_id,
            "campaign": self.campaign,
            "type": self.type,
            "title": self.title,
            "reward": money(self.reward),
            "verification": self.verification,
            "requirements": self.requirements,
            "user_cap": self.user_cap,
            "starts_at": rfc3339(self.starts_at),
            "expires_at": _time(self.expires_at),
            "state": self.state,
            "version": self.version,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True, slots=True)
class RewardView:
    """A reward of a user."""

    id: str
    number: int
    user_id: int
    campaign: str
    task: str
    occurrence: str
    amount: Money
    state: str
    matures_at: datetime
    created_at: datetime
    trace_id: str
    taken_back: Money
    waits_for: str | None
    policy: dict[str, Any] | None

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "campaign": self.campaign,
            "task": self.task,
            "occurrence": self.occurrence,
            "amount": money(self.amount),
            "taken_back": money(self.taken_back),
            "state": self.state,
            "matures_at": rfc3339(self.matures_at),
            "waits_for": self.waits_for,
            "policy": self.policy,
            "created_at": rfc3339(self.created_at),
            "trace_id": self.trace_id,
        }
