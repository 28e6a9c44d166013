"""Which day a bank executes what it is given now: calendar, cut-off and time zone as data."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_ONE_DAY = timedelta(days=1)


def easter_sunday(year: int) -> date:
    """Gregorian Easter, by the anonymous algorithm of 1876 (Meeus, Astronomical Algorithms)."""
    golden, century, in_century = year % 19, year // 100, year % 100
    leap_centuries, century_rest = divmod(century, 4)
    correction = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - leap_centuries - correction + 15) % 30
    leaps, rest = divmod(in_century, 4)
    to_sunday = (32 + 2 * century_rest + 2 * leaps - epact - rest) % 7
    late = (golden + 11 * epact + 22 * to_sunday) // 451
    month, day = divmod(epact + to_sunday - 7 * late + 114, 31)
    return date(year, month, day + 1)


def _weekday(day: date) -> bool:
    return day.weekday() < 5


def _target(day: date) -> bool:
    """The Eurosystem's payment system: its long-term calendar, in force since 2002."""
    if not _weekday(day) or (day.month, day.day) in {(1, 1), (5, 1), (12, 25), (12, 26)}:
        return False
    easter = easter_sunday(day.year)
    return day not in {easter - 2 * _ONE_DAY, easter + _ONE_DAY}


def _every(_day: date) -> bool:
    return True


CALENDARS: dict[str, Callable[[date], bool]] = {
    "target": _target,
    "weekdays": _weekday,
    "every-day": _every,
}
"""Name -> whether a day is a business day. A rail account's setting `calendar` picks one."""


def execution_day(now: datetime, *, calendar: str, cut_off: str, zone: str) -> date:
    """The first business day on which an order that is handed over now can be executed.

    `cut_off` is `HH:MM` in `zone`, an IANA name. Raises ValueError for a name or time that is none.
    """
    try:
        is_open, local = CALENDARS[calendar], now.astimezone(ZoneInfo(zone))
    except (KeyError, ZoneInfoNotFoundError) as error:
        raise ValueError(f"there is no calendar or time zone {error}") from None
    day = local.date()
    if local.time() >= time.fromisoformat(cut_off):
        day += _ONE_DAY
    while not is_open(day):
        day += _ONE_DAY
    return day
