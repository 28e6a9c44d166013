"""How often one caller may ask: a key, a user, an address; one limit over all processes.

A request costs no round trip. The process counts what it admits and charges it to the shared bucket
(`paymaster.db.limits`), all callers together: after a quarter of a second, or at once when it has
admitted a fiftieth of a minute's requests of one caller without charging them. At two fiftieths the
caller's next request waits for the charge. So N processes admit together at most N times 4 % of a
minute's requests more than the limit (and at least two a process, whatever the limit is).

While the directory cannot be reached each process counts by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from math import ceil
from typing import Any, Generic, TypeVar

from paymaster.db import limits
from paymaster.db.cells import Databases
from paymaster.db.limits import Charge
from paymaster.db.tx import Actor, ControlTx
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import PaymasterError, RateLimited
from paymaster.observe import get_logger
from paymaster.people.principal import Principal

_MINUTE_SECONDS = 60
_CHARGE_SECONDS = 0.25
_SHARE = 50
_AT_ONCE = 2000
_MOST_BUCKETS = 100_000
_PATIENCE = 100
_ACTOR = Actor("role:api")

log = get_logger("paymaster.api")

S = TypeVar("S", int, str)
Told = tuple[bytes, bytes]
"""The values of `RateLimit-Policy` and `RateLimit`."""

Chore = Callable[[ControlTx], Awaitable[Callable[[], None] | None]]
"""Work that goes along with the charges; what it returns is called after the commit."""


class _Bucket:
    """What a process knows of one caller: `left` when it last charged, `admitted` since then."""

    __slots__ = ("admitted", "known_at", "left", "text")

    def __init__(self, left: float, now: float, text: str) -> None:
        self.left = left
        self.known_at = now
        self.admitted = 0
        self.text = text


@dataclass(frozen=True, slots=True)
class _Due:
    """A bucket to be charged."""

    kind: str
    per_minute: int
    bucket: _Bucket


class Shared:
    """Charges what this process admitted, and takes chores along."""

    def __init__(
        self,
        dbs: Databases,
        chores: Sequence[Chore] = (),
        seconds: Callable[[], float] = monotonic_seconds,
    ) -> None:
        self._dbs = dbs
        self.chores = list(chores)
        self._seconds = seconds
        self._due: list[_Due] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, due: _Due) -> None:
        """Charge this bucket soon."""
        self._due.append(due)
        self.later()

    def later(self) -> None:
        """Charge within a quarter of a second."""
        if self._timer is None and self._running is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_CHARGE_SECONDS, self.now)

    def now(self) -> None:
        """Charge at once."""
        if self._running is None and not self._closed:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            # Nothing of the request that happened to come last: neither its trace nor its state.
            self._running = asyncio.get_running_loop().create_task(
                self._charge(), context=Context()
            )

    async def turn(self) -> None:
        """Wait for the charge that is under way, or for one that begins now."""
        self.now()
        if self._running is not None:
            await asyncio.shield(self._running)

    async def settled(self) -> None:
        """Wait until what was admitted by now is charged, and what came along is done."""
        if self._running is not None:
            await asyncio.shield(self._running)
        await self.turn()
        while self._due and not self._closed:
            await self.turn()

    async def close(self) -> None:
        """Charge what is left, and no more."""
        await self.settled()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def _charge(self) -> None:
        taken, self._due = self._due[:_AT_ONCE], self._due[_AT_ONCE:]
        sent = [(one, one.bucket.admitted) for one in taken]
        try:
            left = await self._exchange(sent)
        except PaymasterError as error:
            log.warning("limits_not_shared", slug=error.slug)
            left = {}
        except Exception:  # whatever it is, callers go on to be counted, each process by itself
            log.exception("limits_not_shared")
            left = {}
        finally:
            self._running = None
        now = self._seconds()
        hurry = False
        for one, admitted in sent:
            bucket = one.bucket
            filled = bucket.left + (now - bucket.known_at) * one.per_minute / _MINUTE_SECONDS
            own = min(one.per_minute, filled) - admitted
            bucket.left = left.get((one.kind, bucket.text), own)
            bucket.known_at = now
            bucket.admitted -= admitted
            if bucket.admitted:
                self._due.append(one)
                hurry = hurry or bucket.admitted >= _share(one.per_minute)
        if hurry:
            self.now()
        elif self._due:
            self.later()

    async def _exchange(self, sent: Sequence[tuple[_Due, int]]) -> dict[tuple[str, str], float]:
        charges = [
            Charge(one.kind, one.bucket.text, one.per_minute, admitted) for one, admitted in sent
        ]
        after: list[Callable[[], None]] = []

        async def work(tx: ControlTx) -> dict[tuple[str, str], float]:
            after.clear()
            for chore in self.chores:
                done = await chore(tx)
                if done is not None:
                    after.append(done)
            return await limits.charge(tx, charges) if charges else {}

        left = await self._dbs.control.run(_ACTOR, "", work, merged=True)
        for done in after:
            done()
        return left


def _share(per_minute: int) -> int:
    """How many requests are charged at once, when they come quickly."""
    return max(1, per_minute // _SHARE)


class Limiter(Generic[S]):
    """The buckets of one kind of caller. Subjects of one limiter are all numbers, or all texts."""

    def __init__(
        self,
        kind: str,
        per_minute: int,
        shared: Shared,
        seconds: Callable[[], float] = monotonic_seconds,
    ) -> None:
        self._kind = kind
        self._most = per_minute
        self._rate = per_minute / _MINUTE_SECONDS
        self._share = _share(per_minute)
        self._shared = shared
        self._seconds = seconds
        self._buckets: dict[S, _Bucket] = {}
        self._name = f'"{kind}"'.encode()
        self._policy = self._name + f";q={per_minute};w={_MINUTE_SECONDS}".encode()

    async def admit(self, subject: S, state: MutableMapping[str, Any]) -> None:
        """Count a request of a caller; `state` of the request gets what its answer shall tell.

        Raises RateLimited `rate-limited`.
        """
        bucket = self._bucket(subject)
        if bucket.admitted >= 2 * self._share:
            await self._charged(bucket)
        left = self._left(bucket) - 1
        if left < 0:
            state["rate_limit"] = self._told(left + 1)
            raise self.refusal(left + 1)
        self._count(bucket)
        state["rate_limit"] = self._told(left)

    async def _charged(self, bucket: _Bucket) -> None:
        """Wait for one's turn, or until it is known that nothing is left."""
        for _ in range(_PATIENCE):
            await self._shared.turn()
            if bucket.admitted < 2 * self._share or self._left(bucket) < 1:
                return
        raise self.refusal(0)

    def _told(self, left: float) -> Told:
        missing = (self._most - left) / self._rate
        return self._policy, b"%b;r=%d;t=%d" % (self._name, max(left, 0), missing)

    def note(self, subject: S) -> None:
        """Count a request that was answered already."""
        self._count(self._bucket(subject))

    def knows(self, subject: S) -> bool:
        """Whether anything of this caller was counted lately."""
        return subject in self._buckets

    def over(self, subject: S) -> float | None:
        """What is left when the caller has nothing left (below 1); None otherwise."""
        bucket = self._buckets.get(subject)
        if bucket is None:
            return None
        left = self._left(bucket)
        return left if left < 1 else None

    def refusal(self, left: float) -> RateLimited:
        """The answer to a caller who has less than one request left."""
        return RateLimited(
            "rate-limited",
            f"{_WHOSE[self._kind]} may ask {self._most} times a minute.",
            retry_after_seconds=max(1, ceil((1 - left) / self._rate)),
        )

    def _bucket(self, subject: S) -> _Bucket:
        found = self._buckets.get(subject)
        if found is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._forget()
            text = str(subject)
            found = self._buckets[subject] = _Bucket(self._most, self._seconds(), text)
        return found

    def _left(self, bucket: _Bucket) -> float:
        filled = bucket.left + (self._seconds() - bucket.known_at) * self._rate
        return min(self._most, filled) - bucket.admitted

    def _count(self, bucket: _Bucket) -> None:
        bucket.admitted += 1
        if bucket.admitted == 1:
            self._shared.add(_Due(self._kind, self._most, bucket))
        if bucket.admitted == self._share:
            self._shared.now()

    def _forget(self) -> None:
        """Callers of whom half the limit is left, and nothing is to be charged."""
        self._buckets = {
            subject: bucket
            for subject, bucket in self._buckets.items()
            if bucket.admitted or self._left(bucket) < self._most / 2
        }
        if len(self._buckets) >= _MOST_BUCKETS:
            self._buckets = {s: b for s, b in self._buckets.items() if b.admitted}


class Limits:
    """The limits of an application, by kind of caller."""

    def __init__(self, shared: Shared, *, key: int, user: int) -> None:
        self._key: Limiter[int] = Limiter("key", key, shared)
        self._user: Limiter[str] = Limiter("user", user, shared)
        self._person: Limiter[int] = Limiter("person", key, shared)

    async def admit(self, state: MutableMapping[str, Any], principal: Principal) -> None:
        """Count a request of a caller who was recognised. Raises RateLimited `rate-limited`."""
        if principal.kind == "server":
            await self._key.admit(principal.caller_id, state)
        elif principal.kind == "user":
            await self._user.admit(principal.actor, state)
        else:
            await self._person.admit(principal.caller_id, state)


_WHOSE = {
    "key": "This key",
    "user": "This user",
    "person": "This person",
    "address": "Without a valid credential this address",
    "hook": "This address",
}
