"""What each event owes to whom: written once, in the transaction that moves the cursor on.

One process fans out for a schema at a time (a fenced lease). It reads the outbox in the order of
commits, asks who is to be told *after* it has read how far that order has come, and owes each event
to each of them. So whatever is committed after an endpoint was made is owed to it.

A replay goes the same way over a stretch that has passed: what an endpoint has not got is owed
again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from paymaster.db import lease, outbox
from paymaster.db.tx import Actor, ReadTx, Writes
from paymaster.kernel.errors import Conflict
from paymaster.kernel.ids import parse_reference
from paymaster.messages import catalogue, endpoints, letters
from paymaster.messages.place import Place
from paymaster.messages.store import deliveries, events, mails, replays
from paymaster.messages.store.deliveries import Owed
from paymaster.messages.store.endpoints import EndpointRow
from paymaster.messages.store.events import Told
from paymaster.messages.store.mails import NewMail
from paymaster.messages.store.replays import Replay
from paymaster.settings import Email

T = TypeVar("T")

NAME = "messages"
ACTOR = Actor("role:notify")
COMMITS, PLACES = 1000, 20_000
"""How many commits are fanned out at once, and about how many places of `seq` at most."""

STALE = timedelta(days=1)
"""An older event makes no letter: nobody wants to read today that a payment arrived last month.
Older by the machine's clock; a test environment's may have been put forward meanwhile."""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """An endpoint that is to be told, as one place sees it."""

    row: EndpointRow
    types: frozenset[str]
    starts_after: int
    name: str

    def wants(self, told: Told, environment_id: int | None) -> bool:
        """Whether it is to be told of a message."""
        if environment_id != self.row.environment_id:
            return False
        if told.topic == catalogue.TEST:
            return told.key == self.name
        return catalogue.covers(self.types, told.topic)


class FanOut:
    """Fans out one schema; one object a process and schema."""

    def __init__(self, place: Place, email: Email, lease_length: timedelta) -> None:
        self._place = place
        self._mail_topics = letters.wanted(email)
        self._length = lease_length
        self._held: lease.Lease | None = None

    async def step(self) -> int:
        """Fan out some of what was committed since, else some of a replay; how far that went.

        Raises Conflict `lease-lost` when another process took over.
        """
        position, head, replay = await self._place.read(_state)
        if position >= head and replay is None:
            return 0
        if not await self._lead():
            return 0
        if position < head:
            return await self._forward(position, head)
        return 0 if replay is None else await self._replay(replay, position)

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        held = self._held
        if held is not None:
            await self._place.run(ACTOR, lambda tx: lease.release(tx, held))

    async def _lead(self) -> bool:
        held = self._held
        self._held = await self._place.run(
            ACTOR, lambda tx: lease.acquire(tx, NAME, self._length, held)
        )
        return self._held is not None

    async def _write(self, work: Callable[[Writes], Awaitable[T]]) -> T:
        """Write as the only one who fans out here. Raises Conflict `lease-lost`."""
        held = self._held
        if held is None:
            raise Conflict("lease-lost", "This process does not fan out here.")

        async def fenced(tx: Writes) -> T:
            await lease.still_held(tx, held)
            return await work(tx)

        return await self._place.run(ACTOR, fenced)

    async def _subscribers(self) -> list[Subscriber]:
        dbs, cell = self._place.dbs, self._place.cell
        wanted = dbs.environments() if cell is None else [dbs.environment_of(cell)]
        ids = [one.id for one in wanted]
        rows = await dbs.control.read(lambda tx: endpoints.enabled(tx, ids))
        return [
            Subscriber(
                row,
                frozenset(row.types),
                row.starts_after.get(self._place.name, 0),
                endpoints.name_of(dbs, row.environment_id, row.id),
            )
            for row in rows
        ]

    async def _forward(self, position: int, head: int) -> int:
        subscribers = await self._subscribers()
        topics = _topics(subscribers) | self._mail_topics
        if not topics:
            await self._write(lambda tx: outbox.advance(tx, NAME, head))
            return head - position

        async def read(tx: ReadTx) -> tuple[int, list[Told]]:
            until = await events.reach(tx, position, min(head, position + PLACES), COMMITS)
            if until is None:
                until = await events.reach(tx, position, head, 1) or head
            return until, await events.told(tx, position, until, sorted(topics))

        until, told = await self._place.read(read)
        owed = [owing for one in told for owing in self._owing(subscribers, one)]
        written = [mail for one in told if (mail := self._mail(one)) is not None]
        since = self._place.dbs.clock.now() - STALE

        async def work(tx: Writes) -> None:
            await put(tx, owed)
            fresh = {one.seq for one in told if one.created_at > since}
            await mails.insert(tx, [mail for mail in written if mail.seq in fresh])
            await outbox.advance(tx, NAME, until)

        await self._write(work)
        return until - position

    def _owing(self, subscribers: Sequence[Subscriber], told: Told) -> list[Owed]:
        environment_id = self._place.environment_of(told.key, told.environment)
        return [
            Owed(one.row.id, told.seq, told.topic, told.key, one.row.ordered)
            for one in subscribers
            if told.seq > one.starts_after and one.wants(told, environment_id)
        ]

    def _mail(self, told: Told) -> NewMail | None:
        if told.topic not in self._mail_topics:
            return None
        letter = letters.LETTERS[told.topic]
        if letter.audience == "operators":
            return NewMail(told.seq, letter.template, None)
        prefix, _, tail = told.key.partition("_")
        user = parse_reference(tail) if prefix == "us" else None
        return None if user is None else NewMail(told.seq, letter.template, user.id)

    async def _replay(self, replay: Replay, position: int) -> int:
        """A part of a replay: events that the endpoint wants and has not got."""
        found = [one for one in await self._subscribers() if one.row.id == replay.endpoint_id]
        end = min(replay.until_seq, position)
        topics = sorted(_topics(found) - {catalogue.TEST})

        async def read(tx: ReadTx) -> tuple[int, list[Told], set[int]]:
            top = min(end, replay.at_seq + PLACES)
            until = await events.reach(tx, replay.at_seq, top, COMMITS)
            if until is None:
                until = await events.reach(tx, replay.at_seq, end, 1) or end
            told = await events.told(tx, replay.at_seq, until, topics)
            seqs = [one.seq for one in told]
            return until, told, await deliveries.settled(tx, replay.endpoint_id, seqs)

        until, told, settled = await self._place.read(read) if found else (end, [], set[int]())
        owed = [
            Owed(one.row.id, event.seq, event.topic, event.key, one.row.ordered)
            for one in found
            for event in told
            if event.seq not in settled
            and event.created_at >= replay.since
            and one.wants(event, self._place.environment_of(event.key, event.environment))
        ]

        async def work(tx: Writes) -> None:
            queued = await put(tx, owed, again=True)
            done = tx.now if until >= end else None
            await replays.advance(tx, replay.id, until, queued, done)

        await self._write(work)
        return max(until - replay.at_seq, 1)


async def put(tx: Writes, owed: Sequence[Owed], *, again: bool = False) -> int:
    """Owe events, and make due who is next where order is wanted; how many are owed anew."""
    ordered = [one for one in owed if one.ordered]
    await deliveries.lock_order(tx, [one.endpoint_id for one in ordered])
    count = await deliveries.queue(tx, owed, again=again)
    await deliveries.release(tx, [(one.endpoint_id, one.key) for one in ordered])
    return count


def _topics(subscribers: Sequence[Subscriber]) -> set[str]:
    found = {
        topic
        for one in subscribers
        for topic in catalogue.TYPES
        if catalogue.covers(one.types, topic)
    }
    return found | {catalogue.TEST} if subscribers else found


async def _state(tx: ReadTx) -> tuple[int, int, Replay | None]:
    return await outbox.position(tx, NAME), await events.head(tx), await replays.first(tx)
