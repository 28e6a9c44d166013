"""Settings of quotes and of rates between currencies."""

from __future__ import annotations

from pydantic import Field

from paymaster.settings.base import Group


class Fx(Group):
    """Quotes of withdrawals, and rates between currencies."""

    quote_seconds: int = Field(
        default=900,
        ge=10,
        le=86_400,
        description="How long a quote is good for, its rate included.",
    )
    open_quotes_per_user: int = Field(
        default=20,
        ge=1,
        le=10_000,
        description="How many quotes of a user may be good at the same time and unused.",
    )
    ecb_age_hours: int = Field(
        default=96,
        ge=1,
        le=24 * 31,
        description="How old a rate of the European Central Bank may be; there is none on weekends "
        "and holidays.",
    )
    provider_age_seconds: int = Field(
        default=300, ge=1, le=86_400, description="How old a provider's rate may be."
    )
    operator_age_hours: int = Field(
        default=24, ge=1, le=24 * 31, description="How old a rate that a person entered may be."
    )
    most_change_percent: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="A rate from outside that differs more from the one before it is refused; a "
        "person can enter it.",
    )
