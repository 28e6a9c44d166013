"""When a delivery that failed is tried again, and when it is given up: pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Final

DELAYS: Final = (
    timedelta(seconds=5),
    timedelta(seconds=30),
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),
    timedelta(hours=12),
    timedelta(hours=12),
    timedelta(hours=12),
    timedelta(hours=12),
    timedelta(hours=12),
)
"""After the first failure, the second, ...; beyond the last one its delay goes on."""

GIVEN_UP_AFTER: Final = timedelta(days=3)
"""Before this time has passed since it was queued, nothing is given up."""

MAIL_DELAYS: Final = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=4),
    timedelta(hours=12),
)
"""The same for letters; after the last one a letter is given up."""

_JITTER = 0.1


def delay(tries: int, random: Random, *, delays: tuple[timedelta, ...] = DELAYS) -> timedelta:
    """How long to wait after `tries` failures (>= 1): the step, a tenth more or less."""
    step = delays[min(tries, len(delays)) - 1]
    return step * (1 + _JITTER * (2 * random.random() - 1))


def is_over(tries: int, queued_at: datetime, now: datetime) -> bool:
    """Whether a delivery has had all its tries and three days."""
    return tries > len(DELAYS) and now - queued_at >= GIVEN_UP_AFTER
