"""The settings of the staff: sessions, logins, four eyes, break-glass."""

from __future__ import annotations

from pydantic import Field

from paymaster.settings.groups import Group


class Staff(Group):
    """Persons who work here: their sessions, their logins, and acts that need two of them."""

    session_idle_minutes: int = Field(
        default=30, ge=1, le=24 * 60, description="A session that is not used so long is over."
    )
    session_hours: int = Field(
        default=12, ge=1, le=24 * 7, description="A session is over after this time, used or not."
    )
    login_failures: int = Field(
        default=10,
        ge=2,
        le=1000,
        description="Logins that may fail within `login_window_minutes`, of one account and of one "
        "address; then both wait.",
    )
    login_window_minutes: int = Field(
        default=15,
        ge=1,
        le=24 * 60,
        description="In which failed logins are counted, and how long the first lock lasts.",
    )
    approval_hours: int = Field(
        default=72,
        ge=1,
        le=24 * 90,
        description="How long an act waits for a second person; then it has to be proposed anew.",
    )
    lift_holds_by_two: bool = Field(
        default=True,
        description="Whether lifting a regulatory hold needs a second person.",
    )
    break_glass_minutes: int = Field(
        default=240, ge=1, le=24 * 60, description="Longest time for which a role can be lent."
    )
