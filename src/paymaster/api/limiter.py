"""How often one key may ask: a token bucket for each, in this process.

With several API processes each counts by itself, so the limit is per process; a limit over all of
them belongs into the gateway in front.
"""

from __future__ import annotations

from collections.abc import Callable

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import RateLimited

_MINUTE_SECONDS = 60


class Limiter:
    """Buckets that hold a minute's requests and fill evenly."""

    def __init__(
        self, requests_per_minute: int, seconds: Callable[[], float] = monotonic_seconds
    ) -> None:
        self._most = requests_per_minute
        self._seconds = seconds
        self._buckets: dict[int, tuple[float, float]] = {}

    @property
    def policy(self) -> str:
        """The value of `RateLimit-Policy`."""
        return f'"key";q={self._most};w={_MINUTE_SECONDS}'

    def take(self, credential_id: int) -> str:
        """Count a request; the value of `RateLimit`. Raises RateLimited `rate-limited`."""
        now = self._seconds()
        left, since = self._buckets.get(credential_id, (float(self._most), now))
        left = min(self._most, left + (now - since) * self._most / _MINUTE_SECONDS)
        if left < 1:
            self._buckets[credential_id] = (left, now)
            wait = max(1, round((1 - left) * _MINUTE_SECONDS / self._most + 0.5))
            raise RateLimited(
                "rate-limited",
                f"This key may ask {self._most} times a minute.",
                retry_after_seconds=wait,
            )
        self._buckets[credential_id] = (left - 1, now)
        missing = self._most - (left - 1)
        return f'"key";r={int(left - 1)};t={round(missing * _MINUTE_SECONDS / self._most)}'
