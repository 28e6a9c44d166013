"""Wrong secrets for keys: who guesses is locked out, the key's owner is not.

A key's prefix is public, so that failures against it alone must lock nobody: anyone could shut an
app's server out. They are counted for each prefix and address together, and for each address
whatever it guesses at; guessing from many addresses at one prefix raises an alarm and no more. Two
hundred and fifty-six random bits are not guessed meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil

from paymaster.db import lockouts
from paymaster.db.tx import ControlTx
from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import RateLimited

KIND = "key"
WINDOW = timedelta(minutes=15)
OF_PREFIX_AND_ADDRESS, OF_ADDRESS, OF_PREFIX = 10, 50, 200
"""How many wrong secrets within the window: of one address for one key, of one address, for one
key from everywhere (an alarm)."""

_MOST_LOCKS = 10_000
_AT_ONCE = 200
_MOST_WAITING = 10_000
_BEARER = re.compile(rb"bearer\s+(pk_(?:test|live)_[0-9a-f]{8})_", re.IGNORECASE)


def prefix_in(authorization: bytes) -> str | None:
    """The public part of the API key in a header, if there is one."""
    found = _BEARER.match(authorization)
    return None if found is None else found[1].decode()


class KeyGuesses:
    """What this process knows of failures and locks; it is shared with the charges of limits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: Counter[tuple[str, str]] = Counter()
        self.locks: dict[tuple[str, str], datetime] = {}
        self.look_again: Callable[[], None] | None = None
        """Has the locks read anew soon: somebody may have cleared one."""

    def failed(self, prefix: str, address: str) -> None:
        """A wrong secret for this prefix came from this address."""
        if len(self._failed) < _MOST_WAITING:
            self._failed[prefix, address] += 1

    def check(self, prefix: str | None, address: str) -> None:
        """Raises RateLimited `locked-out`. Without a key nothing is guessed: tokens go on."""
        if prefix is None:
            return
        until = self.locks.get((prefix, address), self.locks.get(("", address)))
        if until is None:
            return
        left = (until - self._clock.now()).total_seconds()
        if left > 0:
            if self.look_again is not None:
                self.look_again()
            raise RateLimited(
                "locked-out",
                "Too many wrong keys came from this address.",
                retry_after_seconds=ceil(left),
            )

    async def share(self, tx: ControlTx) -> Callable[[], None]:
        """Count what failed here and read what is locked; the rest is done after the commit."""
        taken = dict(sorted(self._failed.items())[:_AT_ONCE])
        known = await lockouts.known_keys(tx, {prefix for prefix, _ in taken})
        of_address: Counter[str] = Counter()
        of_prefix: Counter[str] = Counter()
        for (prefix, address), count in taken.items():
            of_address[address] += count
            if prefix in known:
                of_prefix[prefix] += count
                await self._count(tx, prefix, address, count, OF_PREFIX_AND_ADDRESS)
        for address, count in sorted(of_address.items()):
            await self._count(tx, "", address, count, OF_ADDRESS)
        for prefix, count in sorted(of_prefix.items()):
            await lockouts.alarmed(tx, KIND, prefix, limit=OF_PREFIX, window=WINDOW, count=count)
        locks = await lockouts.locks_of(tx, KIND, _MOST_LOCKS)

        def done() -> None:
            self._failed -= Counter(taken)
            self.locks = locks

        return done

    async def _count(
        self, tx: ControlTx, prefix: str, address: str, count: int, limit: int
    ) -> None:
        await lockouts.failed(
            tx, KIND, prefix, limit=limit, window=WINDOW, address=address, count=count
        )
