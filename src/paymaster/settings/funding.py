"""The settings of the funding guard."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field, field_validator

from paymaster.settings.base import Group

FundingMode = Literal["off", "alert", "enforce"]
_MODES = ("off", "alert", "enforce")


class Funding(Group):
    """Whether what users are owed is there, and what follows when it is not."""

    mode: FundingMode = Field(
        default="alert",
        description="`off`: figures only; `alert`: `funding.short` and `funding.covered` are told; "
        "`enforce`: also, payments leave an account only as far as its float reaches.",
    )
    modes: dict[str, str] = Field(
        default_factory=dict,
        description="By environment, where it differs: `tenant/mode` to one of these.",
    )
    patience_hours: int = Field(
        default=24,
        ge=0,
        le=24 * 30,
        description="So long smaller withdrawals may go before an older one that the float does "
        "not cover; then the float gathers for it.",
    )
    history_days: int = Field(
        default=28, ge=7, le=365, description="How many days a forecast looks back."
    )
    cover_days: int = Field(
        default=7, ge=1, le=60, description="For how many days a suggested top-up is to last."
    )

    @field_validator("modes")
    @classmethod
    def _known(cls, given: dict[str, str]) -> dict[str, str]:
        if set(given.values()) - set(_MODES):
            raise ValueError("a mode is off, alert or enforce")
        return given

    def mode_of(self, tenant: str, mode: str) -> FundingMode:
        """What holds for an environment."""
        return cast("FundingMode", self.modes.get(f"{tenant}/{mode}", self.mode))
