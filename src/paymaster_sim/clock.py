"""When a run begins, and how its seconds are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from paymaster.kernel.clock import Clock

START = datetime(2026, 11, 2, tzinfo=UTC)
"""A Monday; second 0 of every script."""

DAY_SECONDS = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment(seconds: float) -> datetime:
    """The moment so many seconds after the start."""
    return START + timedelta(seconds=seconds)


def seconds(clock: Clock) -> float:
    """How many seconds after the start it is."""
    return (clock.now() - START).total_seconds()


def microseconds(clock: Clock) -> int:
    """Microseconds since 1970: what the sandbox takes for the machine's clock."""
    return (clock.now() - _EPOCH) // _MICROSECOND
