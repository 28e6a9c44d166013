"""The settings of paying: warnings about unknown payments, and what is paid automatically."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from paymaster.settings.base import Group


def _numbers(given: object) -> object:
    return (
        [part for part in given.replace(",", " ").split() if part]
        if isinstance(given, str)
        else given
    )


class Payouts(Group):
    """Paying: what nobody can tell about, and what nobody has to ask for."""

    unknown_alert_minutes: Annotated[
        tuple[Annotated[int, Field(ge=1, le=525_600)], ...],
        NoDecode,
        BeforeValidator(_numbers),
    ] = Field(
        default=(30, 240, 1440),
        max_length=10,
        description="After how long a payment of which nobody knows whether it was made is warned "
        "about, once for each (in the environment variable separated by commas). Of top-ups from "
        "when they could be paid last, of their refunds from when they were asked for.",
    )
    silent_alert_hours: int = Field(
        default=96,
        ge=1,
        le=8760,
        description="After how long a payment that its provider took in, and cannot be asked "
        "about, is warned about when nothing was heard of it.",
    )
    awaiting_alert_hours: int = Field(
        default=25,
        ge=1,
        le=8760,
        description="After how long a payment that its payee has not accepted, and that the "
        "provider has not ended either, is warned about.",
    )
    automatic_batch_items: int = Field(
        default=200, ge=1, le=1000, description="Most automatic payouts made in one transaction."
    )
    automatic_sweep_seconds: float = Field(
        default=60.0,
        ge=0.05,
        le=86_400,
        description="Pause between two looks for balances that have reached their threshold.",
    )

    @field_validator("unknown_alert_minutes")
    @classmethod
    def _grow(cls, minutes: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(minutes)) != list(minutes):
            raise ValueError("they must grow")
        return minutes
