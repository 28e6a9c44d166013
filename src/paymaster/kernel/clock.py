"""Time comes from one place, so that a test or a simulation can own it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from paymaster.kernel.sources import SOURCES


class Clock(Protocol):
    """Says what time it is, in UTC."""

    def now(self) -> datetime:
        """The moment, timezone-aware, in UTC, to the microsecond."""
        ...


class WallClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """The moment it was last set to."""
        return self._now

    def advance(self, step: timedelta) -> None:
        """Move on; never back."""
        if step < timedelta(0):
            raise ValueError("a clock does not run backwards")
        self._now += step


class AheadClock:
    """A clock that runs ahead of another one: that of a test environment."""

    def __init__(self, base: Clock) -> None:
        self._base = base
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        """The moment there."""
        return self._base.now() + self._ahead

    @property
    def ahead_seconds(self) -> int:
        """How far it is ahead, as far as is known here."""
        return self._ahead // timedelta(seconds=1)

    def learn(self, ahead_seconds: int) -> bool:
        """How far it is ahead by now; whether that is new. It never comes nearer again."""
        ahead = timedelta(seconds=ahead_seconds)
        if ahead <= self._ahead:
            return False
        self._ahead = ahead
        return True


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def business_day(moment: datetime, zone: str) -> date:
    """The calendar day of a moment in a time zone (IANA name)."""
    return moment.astimezone(ZoneInfo(zone)).date()


def start_of_day(day: date, zone: str) -> datetime:
    """The first moment of a day in a time zone, in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with Z, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(text: str) -> datetime:
    """Read RFC 3339 with an offset. Raises ValueError for all else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("the time has no offset")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


def monotonic_seconds() -> float:
    """For measuring durations only."""
    return SOURCES.get().monotonic_seconds()
