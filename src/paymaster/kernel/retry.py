"""Backoff with jitter, and the circuit breaker: pure functions of what happened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: `first` doubles with every try up to `most`, then jitter."""

    first: timedelta = timedelta(milliseconds=200)
    most: timedelta = timedelta(minutes=15)

    def delay(self, tries: int, random: Random) -> timedelta:
        """How long to wait after `tries` failures (>= 1): between half of and the full step."""
        step = self.first
        for _ in range(min(tries - 1, 60)):
            if step >= self.most:
                break
            step *= 2
        return min(step, self.most) * (0.5 + random.random() / 2)


@dataclass(frozen=True, slots=True)
class Circuit:
    """State of a breaker: after `threshold` failures in a row it opens until `open_until`."""

    threshold: int = 5
    pause: timedelta = timedelta(seconds=30)
    failures: int = 0
    open_until: datetime | None = None

    def allows(self, now: datetime) -> bool:
        """Whether a call may be made: closed, or the pause is over (one probe then decides)."""
        return self.open_until is None or now >= self.open_until

    def after(self, *, success: bool, now: datetime) -> Circuit:
        """The state after a call."""
        if success:
            return replace(self, failures=0, open_until=None)
        failures = self.failures + 1
        opened = now + self.pause if failures >= self.threshold else self.open_until
        return replace(self, failures=failures, open_until=opened)
