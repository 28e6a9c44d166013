"""One lane for each rail account: how many orders at once, how fast, and whether at all.

Lanes share nothing, so a provider that hangs or refuses fills its own lane and no other. What a
lane knows is in memory only: a restarted process finds out again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.retry import Circuit

DEFAULT_CONCURRENCY = 8
DEFAULT_RATE_PER_SECOND = 100
_SECOND = timedelta(seconds=1)
SEEN_MINUTES, SEEN_LEAST = 10, 20
"""How far back calls are counted, and how many it takes to say how many were answered."""


@dataclass(slots=True)
class Lane:
    """The way to one account. `concurrency` orders at once, `rate` calls a second."""

    concurrency: int = DEFAULT_CONCURRENCY
    rate: int = DEFAULT_RATE_PER_SECOND
    circuit: Circuit = field(default_factory=Circuit)
    busy: int = 0
    _seen: deque[list[int]] = field(default_factory=deque[list[int]], init=False)
    _tokens: int = field(default=0, init=False)
    _filled_at: datetime | None = field(default=None, init=False)

    def configure(self, account: PayoutAccount) -> None:
        """Take over the account's settings `concurrency` and `rate_per_second`."""
        self.concurrency = max(1, account.number("concurrency", DEFAULT_CONCURRENCY))
        self.rate = max(1, account.number("rate_per_second", DEFAULT_RATE_PER_SECOND))

    def healthy(self, now: datetime) -> bool:
        """Whether the provider answered lately, or may be tried again."""
        return self.circuit.allows(now)

    def room(self, now: datetime) -> int:
        """How many calls may begin now; after a pause a single one, to find out."""
        if not self.circuit.allows(now):
            return 0
        limit = 1 if self.circuit.open_until is not None else self.concurrency
        self._fill(now)
        return max(0, min(limit - self.busy, self._tokens))

    def begin(self, calls: int) -> None:
        """Calls that were given room begin."""
        self.busy += calls
        self._tokens -= calls

    def end(self, calls: int = 1) -> None:
        """Calls are over, however they went."""
        self.busy -= calls

    def give_back(self, calls: int) -> None:
        """Calls that were given room and did not begin."""
        self.busy -= calls
        self._tokens = min(self.rate, self._tokens + calls)

    def record(self, *, success: bool, now: datetime) -> None:
        """Whether a call got an answer: yes and no both count as one."""
        minute = _minute(now)
        if not self._seen or self._seen[-1][0] != minute:
            self._seen.append([minute, 0, 0])
            self._forget(minute)
        self._seen[-1][1] += success
        self._seen[-1][2] += 1
        if success and not self.circuit.failures and self.circuit.open_until is None:
            return
        self.circuit = self.circuit.after(success=success, now=now)

    def share(self, now: datetime) -> int | None:
        """How many of 100 calls were answered in the last minutes; None when there were few."""
        self._forget(_minute(now))
        calls = sum(minute[2] for minute in self._seen)
        return None if calls < SEEN_LEAST else sum(m[1] for m in self._seen) * 100 // calls

    def _forget(self, minute: int) -> None:
        while self._seen and self._seen[0][0] <= minute - SEEN_MINUTES:
            self._seen.popleft()

    def _fill(self, now: datetime) -> None:
        if self._filled_at is None:
            self._tokens, self._filled_at = self.rate, now
            return
        gained = (now - self._filled_at) * self.rate // _SECOND
        if gained > 0:
            self._tokens = min(self.rate, self._tokens + gained)
            # What is left of a token stays: the next one is not delayed by having asked.
            self._filled_at = max(now - _SECOND, self._filled_at + _SECOND * gained / self.rate)


def _minute(now: datetime) -> int:
    return int(now.timestamp()) // 60
