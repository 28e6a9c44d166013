"""When an account runs dry: what left it lately, day of the week by day of the week.

A day's outflow is expected to be the weighted median of the same weekday before: the last one
counts once, the one before half, the next a third, and so on, so that one day out of the ordinary
changes little. It knows nothing of campaigns that begin, of paydays, or of holidays; a person who
does must add them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

LEAST_DAYS, HORIZON_DAYS = 7, 60
"""Fewer days of history make no forecast; further than the horizon it does not look."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Minor units of the account's currency. `history_days`: on how many days it is founded.

    `runs_dry_on` is the first day whose payments the float does not cover, what is queued included;
    None when that is beyond the horizon or cannot be told. `top_up` is what to send there so that
    the queue, the minimum and the next `cover_days` days are covered.
    """

    history_days: int
    per_day: int | None
    runs_dry_on: date | None
    cover_days: int
    top_up: int


def weighted_median(values: Sequence[tuple[int, float]]) -> int:
    """The least value at which at least half of the weight is reached; 0 without any."""
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    reached = 0.0
    for value, weight in ordered:
        reached += weight
        if reached >= half:
            return value
    return 0


def expected(history: Mapping[date, int], day: date) -> int:
    """What will leave on a day. Days without payments are in `history` with 0."""
    latest = sorted(history, reverse=True)
    same = [then for then in latest if then.weekday() == day.weekday()]
    chosen = same if len(same) > 1 else latest
    return weighted_median([(history[then], 1 / at) for at, then in enumerate(chosen, 1)])


def forecast(
    history: Mapping[date, int],
    today: date,
    free: int,
    queued: int,
    minimum: int,
    cover_days: int,
) -> Forecast:
    """When an account with so much `free` runs dry, from the days before `today`."""
    left = free - queued - minimum
    need = 0
    if len(history) < LEAST_DAYS:
        runs_dry = today if left < 0 else None
        return Forecast(len(history), None, runs_dry, cover_days, max(0, -left))
    runs_dry = today if left < 0 else None
    spent = 0
    for ahead in range(HORIZON_DAYS):
        day = today + timedelta(days=ahead)
        spent += expected(history, day)
        if ahead < cover_days:
            need = spent
        if runs_dry is None and spent > left:
            runs_dry = day
    return Forecast(len(history), spent // HORIZON_DAYS, runs_dry, cover_days, max(0, need - left))
