"""Times as the provider writes them: Beijing's clock, which has no summer time."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Final

from paymaster_sandbox.chassis.clock import microseconds, moment

BEIJING: Final = timezone(timedelta(hours=8))


def beijing(at: int) -> str:
    """RFC 3339 to the second, as APIv3 has it."""
    return moment(at).astimezone(BEIJING).isoformat(timespec="seconds")


def plain(at: int) -> str:
    """`2026-01-05 12:00:00`, as bills and old transfers have it."""
    return moment(at).astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")


def packed(at: int) -> str:
    """`20260105120000`, as APIv2 has it."""
    return moment(at).astimezone(BEIJING).strftime("%Y%m%d%H%M%S")


def from_packed(written: str) -> int | None:
    """The moment of such a text; None if it is none."""
    if len(written) != len("20260105120000") or not (written.isascii() and written.isdigit()):
        return None
    try:
        found = datetime.strptime(written, "%Y%m%d%H%M%S").replace(tzinfo=BEIJING)
    except ValueError:
        return None
    return microseconds(found.astimezone(UTC))


def day_of(at: int) -> date:
    """The day in Beijing."""
    return moment(at).astimezone(BEIJING).date()


def day_start(day: date) -> int:
    """The first moment of a day in Beijing."""
    start = datetime(day.year, day.month, day.day, tzinfo=BEIJING)
    return microseconds(start.astimezone(UTC))
