"""By when a payment should be with its payee: windows, cut-offs and business days put together.

It is what is told to people, and nothing depends on it. Where several accounts may make the payment
the slowest one counts; where a person must act first no time is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.window import MANUAL, next_close
from paymaster.rails.base import Rail, RailCaps, pays_out
from paymaster.rails.calendar import CALENDARS, execution_day
from paymaster.withdraw.machine import State

AT_ONCE: Final = timedelta(minutes=15)
"""How long a rail without business days takes, unless the account's `arrival_minutes` says."""

_LEAVES_LATER: Final = frozenset({State.REQUESTED, State.SCREENING, State.APPROVED, State.QUEUED})
_ON_ITS_WAY: Final = frozenset({State.SENDING, State.SENT, State.UNKNOWN})


def expected_by(
    accounts: Mapping[int, PayoutAccount],
    rails: Mapping[str, Rail],
    state: str,
    *,
    kind: str,
    currency: str,
    account_id: int | None,
    sent_at: datetime | None,
    now: datetime,
) -> datetime | None:
    """When a withdrawal to a destination of this kind should arrive, at the latest; None: unknown.

    `account_id` is the account that was chosen, `sent_at` when its order was made.
    """
    chosen = accounts.get(account_id) if account_id is not None else None
    if state in _ON_ITS_WAY and chosen is not None and sent_at is not None:
        rail = rails.get(chosen.rail.rail)
        return None if rail is None else arrival(chosen, rail.caps, sent_at)
    if state not in _LEAVES_LATER:
        return None
    fitting = _fitting(accounts.values(), rails, kind, currency)
    if account_id is not None:
        fitting = [(account, caps) for account, caps in fitting if account.id == account_id]
    if not fitting or any(account.payout_window == MANUAL for account, _ in fitting):
        return None
    return max(
        arrival(account, caps, next_close(account.payout_window, account.time_zone, now))
        for account, caps in fitting
    )


def _fitting(
    accounts: Iterable[PayoutAccount], rails: Mapping[str, Rail], kind: str, currency: str
) -> list[tuple[PayoutAccount, RailCaps]]:
    return [
        (account, rail.caps)
        for account in accounts
        if (rail := rails.get(account.rail.rail)) is not None
        and account.active
        and account.rail.currency == currency
        and kind in rail.caps.destination_kinds
        and pays_out(rail, account.rail)
    ]


def arrival(account: PayoutAccount, caps: RailCaps, leaves_at: datetime) -> datetime:
    """When what leaves at a moment is with the payee, at the latest.

    With a rail of business days that is the end of the day so many business days after the one on
    which the order is executed, in the account's time zone.
    """
    if caps.business_days is None:
        minutes = account.number("arrival_minutes", 0)
        return leaves_at + (timedelta(minutes=minutes) if minutes else AT_ONCE)
    settings = account.rail.settings
    calendar, zone = settings.get("calendar", "target"), settings.get("zone", "UTC")
    day = execution_day(
        leaves_at, calendar=calendar, cut_off=settings.get("cut_off", "16:00"), zone=zone
    )
    for _ in range(account.number("arrival_days", caps.business_days)):
        day += timedelta(days=1)
        while not CALENDARS[calendar](day):
            day += timedelta(days=1)
    return datetime.combine(day, time(23, 59, 59), ZoneInfo(zone)).astimezone(UTC)
