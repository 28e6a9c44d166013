"""The settings of taking money in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from paymaster.settings.base import Group


class PayIn(Group):
    """Top-ups: who may pay in, and how long a charge can be paid."""

    users: Literal["off", "on"] = Field(
        default="off",
        description="Whether users may top up their wallets. Taking money in for users may need a "
        "licence where you are; sponsors may always pay into their campaigns. The least and the "
        "most of one payment are settings of the rail account: `payin_minimum` and "
        "`payin_maximum`, in minor units.",
    )
    users_in: dict[str, str] = Field(
        default_factory=dict,
        description="By environment, where it differs: `tenant/mode` to `off` or `on`.",
    )
    lasts_minutes: int = Field(
        default=30,
        ge=5,
        le=120,
        description="How long a charge can be paid, where the caller does not say.",
    )

    @field_validator("users_in")
    @classmethod
    def _known(cls, given: dict[str, str]) -> dict[str, str]:
        if set(given.values()) - {"off", "on"}:
            raise ValueError("write off or on")
        return given

    def users_may(self, tenant: str, mode: str) -> bool:
        """Whether users of an environment may top up their wallets."""
        return self.users_in.get(f"{tenant}/{mode}", self.users) == "on"
