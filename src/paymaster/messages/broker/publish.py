"""The publisher: one for each cell, fenced by a lease, in the order of commits, at least once.

The position moves on when the broker has confirmed everything before it. Whoever takes over sends
from there: letters that were confirmed and not yet passed go twice, under the same id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from paymaster.db import lease, outbox
from paymaster.db.tx import Actor, ReadTx, Writes
from paymaster.kernel.errors import Busy, Conflict
from paymaster.messages.broker import flight, store
from paymaster.messages.broker.letter import Letter, letter, wanted
from paymaster.messages.broker.link import AWAY, Link
from paymaster.messages.broker.store import Laid
from paymaster.messages.place import Place
from paymaster.messages.store import events
from paymaster.observe import Metrics, get_logger

T = TypeVar("T")

NAME = "broker"
ACTOR = Actor("role:notify")
COMMITS, PLACES, LETTERS = 2000, 50_000, 2000
"""How many commits are read at once at most, about how many places of `seq`, how many letters."""

_AGAIN = 20
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    position: int | None
    head: int
    due: list[int]

    @property
    def idle(self) -> bool:
        return self.position is not None and self.position >= self.head and not self.due


class Publisher:
    """Publishes one schema; one object a process and schema."""

    def __init__(self, place: Place, link: Link, metrics: Metrics, lease_length: timedelta) -> None:
        self._place = place
        self._link = link
        self._settings = link.access.settings
        self._topics = wanted(self._settings)
        self._metrics = metrics
        self._length = lease_length
        self._held: lease.Lease | None = None

    async def step(self) -> int:
        """Publish some of what was committed since; how far that went, in places of `seq`.

        Raises Busy `broker-away`, `broker-takes-nothing`, Conflict `lease-lost` when another
        process took over, Refusal `brokers-missing`, `certificate-unusable`.
        """
        if (await self._place.read(_state)).idle or not await self._lead():
            return 0
        state = await self._place.read(_state)
        if state.position is None:
            begin = state.head if self._settings.begin == "now" else 0
            await self._write(lambda tx: outbox.advance(tx, NAME, begin))
            return 1
        try:
            again = await self._again(state.due) if state.due else 0
            if state.position >= state.head:
                return again
            return again + await self._forward(state.position, state.head)
        except Busy:
            # Another process may reach the broker where this one does not.
            await self.give_up()
            raise

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        held, self._held = self._held, None
        if held is not None:
            await self._place.run(ACTOR, lambda tx: lease.release(tx, held))

    async def _lead(self) -> bool:
        held = self._held
        now = self._place.dbs.clock.now()
        if held is not None and held.expires_at - now > self._length / 2:
            return True
        self._held = await self._place.run(
            ACTOR, lambda tx: lease.acquire(tx, NAME, self._length, held)
        )
        return self._held is not None

    async def _write(self, work: Callable[[Writes], Awaitable[T]]) -> T:
        """Write as the only publisher here. Raises Conflict `lease-lost`."""
        held = self._held
        if held is None:
            raise Conflict("lease-lost", "This process does not publish here.")

        async def fenced(tx: Writes) -> T:
            await lease.still_held(tx, held)
            return await work(tx)

        try:
            return await self._place.run(ACTOR, fenced)
        except Conflict:
            self._held = None
            raise

    async def _forward(self, position: int, head: int) -> int:
        until, letters = await self._place.read(lambda tx: self._next(tx, position, head))
        if not letters:
            await self._write(lambda tx: outbox.advance(tx, NAME, until))
            return until - position
        wire = await self._link.wire()
        seconds = self._length.total_seconds() / 4
        flown = await flight.fly(wire, letters, self._settings.in_flight, seconds)
        if flown.unclear:
            await self._link.drop(wire, "the broker refused an event")
            flown = await self._one_by_one(letters)
        elif flown.fault is not None and flown.fault.slug == AWAY:
            await self._link.drop(wire, flown.fault.detail)
        self._link.fault = None if flown.fault is None else flown.fault.detail
        reached = until if flown.taken == len(letters) else position
        if 0 < flown.taken < len(letters):
            reached = letters[flown.taken - 1].seq
        if reached > position:
            await self._pass(letters, flown, reached)
        if flown.fault is not None and not flown.taken:
            raise flown.fault
        return reached - position

    async def _next(self, tx: ReadTx, position: int, head: int) -> tuple[int, list[Letter]]:
        """The next letters, and up to which seq there are no others."""
        until = await events.reach(tx, position, min(head, position + PLACES), COMMITS)
        if until is None:
            until = await events.reach(tx, position, head, 1) or head
        rows = await store.page(tx, position, until, self._topics, LETTERS)
        if len(rows) == LETTERS:
            until = rows[-1].seq
        found = [letter(self._place, row, self._settings) for row in rows]
        return until, [one for one in found if one is not None]

    async def _one_by_one(self, letters: Sequence[Letter]) -> flight.Flown:
        """Send until the one is found that the broker refuses."""
        flown = flight.Flown()
        try:
            for place, one in enumerate(letters):
                wire = await self._link.wire()
                detail = await flight.alone(wire, one)
                flown.taken += 1
                if detail is not None:
                    await self._link.drop(wire, "the broker refused an event")
                    flown.refused[place] = detail
                    break
        except Busy as fault:
            flown.fault = fault
        return flown

    async def _pass(self, letters: Sequence[Letter], flown: flight.Flown, reached: int) -> None:
        """Write down how far it went, and what was laid aside on the way."""
        now = self._place.dbs.clock.now()
        laid = [
            Laid(one.seq, one.id, one.topic, one.key, 1, detail, now)
            for one, detail in ((letters[at], why) for at, why in sorted(flown.refused.items()))
        ]

        async def work(tx: Writes) -> None:
            await store.lay(tx, laid)
            await outbox.advance(tx, NAME, reached)

        await self._write(work)
        for at, detail in flown.refused.items():
            _log.error("event_laid_aside", id=letters[at].id, detail=detail)
        self._metrics.broker_events.labels("published").inc(flown.taken - len(laid))
        self._metrics.broker_events.labels("aside").inc(len(laid))

    async def _again(self, due: Sequence[int]) -> int:
        """Try what somebody wants tried again; how many were tried."""
        for row in await self._place.read(lambda tx: events.events(tx, due)):
            one = letter(self._place, row, self._settings)
            if one is None:
                detail: str | None = "It is no event any more."
            else:
                wire = await self._link.wire()
                detail = await flight.alone(wire, one)
                if detail is not None:
                    await self._link.drop(wire, "the broker refused an event")
            await self._write(lambda tx, s=row.seq, d=detail: store.settle(tx, s, d))
            self._metrics.broker_events.labels("aside" if detail else "published").inc()
        return len(due)


async def _state(tx: ReadTx) -> _State:
    return _State(
        await store.position(tx, NAME), await events.head(tx), await store.due(tx, _AGAIN)
    )
