"""Deliveries: claimed under a lease, sent side by side, written down, tried again.

Each endpoint has so many slots in a process and no more, so that one that is slow fills its own and
nobody else's. A process may be stopped anywhere: what it had claimed is sent again, under the same
id, when the lease is over. Where order is wanted the next event of a key becomes due when the one
before it has arrived or was given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

import httpx

from paymaster.db.cells import Databases
from paymaster.db.tx import ControlTx, Writes
from paymaster.kernel.ids import new_trace_id
from paymaster.messages import endpoints, schedule, signing
from paymaster.messages.event import PublicEvent, public
from paymaster.messages.fanout import ACTOR
from paymaster.messages.place import Place, places_of
from paymaster.messages.post import Answer, post
from paymaster.messages.store import deliveries, events
from paymaster.messages.store.deliveries import Claimed, Tried
from paymaster.messages.store.endpoints import EndpointRow
from paymaster.observe import Metrics, get_logger
from paymaster.secrets.sealing import Sealer
from paymaster.settings import Webhooks

_log = get_logger(__name__)

OUTAGE = timedelta(minutes=10)
"""After a silence of so long the first success makes all that waits there due at once."""


AHEAD = 4
"""So many deliveries are claimed for each that may be under way: a claim serves several."""

NO_EVENT = "no-event"
"""The outcome when nobody knows the type any more: trying again would not help."""

GATHER_SECONDS = 0.01
"""When a try has ended, the others that end meanwhile are written down with it."""


@dataclass(slots=True)
class Slots:
    """How many deliveries to each endpoint this process has claimed, and may send at once."""

    most: int
    taken: Counter[int] = field(default_factory=Counter[int])
    _gates: dict[int, asyncio.Semaphore] = field(default_factory=dict[int, asyncio.Semaphore])

    def room(self, endpoint_id: int) -> int:
        """How many more to claim: none until half of those before have gone."""
        free = self.most * AHEAD - self.taken[endpoint_id]
        return free if 2 * free >= self.most * AHEAD else 0

    def gate(self, endpoint_id: int) -> asyncio.Semaphore:
        """Lets so many through at once as may be under way."""
        return self._gates.setdefault(endpoint_id, asyncio.Semaphore(self.most))

    def lease(self, timeout: timedelta, least: timedelta) -> timedelta:
        """How long a claim must hold: the last one of it is sent when all before it timed out."""
        return max(least, timeout * (AHEAD + 2))


@dataclass(frozen=True, slots=True)
class Post:
    """What all senders of a process share."""

    dbs: Databases
    sealer: Sealer
    client: httpx.AsyncClient
    settings: Webhooks
    metrics: Metrics
    slots: Slots
    lease: timedelta
    random: Random


@dataclass(frozen=True, slots=True)
class _Ended:
    """A try that is over, and the endpoint as it was when it began."""

    claimed: Claimed
    endpoint: EndpointRow
    answer: Answer


class Sender:
    """Sends what one schema owes; one object a process and schema."""

    def __init__(self, place: Place, shared: Post) -> None:
        self._place = place
        self._shared = shared
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: list[_Ended] = []
        self._some_ended = asyncio.Event()

    async def step(self, patience_seconds: float = 0.0) -> int:
        """Write down what has ended, claim what is due, and send it in tasks of their own.

        How many tries ended and were begun; when there were none, but some are under way, it waits
        for the first to end, `patience_seconds` at most.
        """
        ended = await self._write_down()
        begun = await self._begin()
        if ended or begun:
            return ended + begun
        if self._tasks and not self._ended and patience_seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    await self._some_ended.wait()
                    await asyncio.sleep(GATHER_SECONDS)
        return len(self._ended)

    async def drain(self) -> None:
        """Wait until all that is under way has ended, and write it down."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._write_down()

    async def _begin(self) -> int:
        shared, cell = self._shared, self._place.cell
        wanted = shared.dbs.environments() if cell is None else [shared.dbs.environment_of(cell)]
        ids = [one.id for one in wanted]
        rows = await shared.dbs.control.read(lambda tx: endpoints.enabled(tx, ids))
        known = {row.id: row for row in rows}
        rooms = [(number, room) for number in known if (room := shared.slots.room(number))]
        if not rooms:
            return 0
        for number, room in rooms:
            shared.slots.taken[number] += room
        claimed: list[Claimed] = []
        try:
            claimed, found = await self._claim(rooms)
        finally:
            got = Counter(one.endpoint_id for one in claimed)
            for number, room in rooms:
                shared.slots.taken[number] -= room - got[number]
        if not claimed:
            return 0
        try:
            keys = await shared.dbs.control.read(
                lambda tx: endpoints.keys(tx, shared.sealer, sorted(got))
            )
        except BaseException:
            shared.slots.taken.subtract(got)
            raise
        for one in claimed:
            row = known[one.endpoint_id]
            task = asyncio.create_task(
                self._deliver(one, row, found.get(one.seq), keys.get(row.id, []))
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(claimed)

    async def _claim(
        self, rooms: Sequence[tuple[int, int]]
    ) -> tuple[list[Claimed], Mapping[int, PublicEvent]]:
        place, shared = self._place, self._shared

        async def work(tx: Writes) -> tuple[list[Claimed], Mapping[int, PublicEvent]]:
            claimed = await deliveries.claim(tx, rooms, tx.now + shared.lease)
            rows = await events.events(tx, sorted({one.seq for one in claimed}))
            made = [public(place, row) for row in rows]
            return claimed, {one.row.seq: one for one in made if one is not None}

        return await place.run(ACTOR, work)

    async def _deliver(
        self,
        claimed: Claimed,
        endpoint: EndpointRow,
        event: PublicEvent | None,
        keys: Sequence[bytes],
    ) -> None:
        shared = self._shared
        try:
            if event is None:
                answer = Answer(NO_EVENT, 0)
            elif not keys:
                answer = Answer("no-secret", 0)
            else:
                async with shared.slots.gate(endpoint.id):
                    answer = await self._post(endpoint, event, keys)
        except Exception as error:  # noqa: BLE001 - one delivery's fault stops no other; it is tried again
            _log.exception("webhook_failed", error=type(error).__name__, endpoint=endpoint.id)
            answer = Answer("our-fault", 0)
        finally:
            shared.slots.taken[endpoint.id] -= 1
            self._some_ended.set()
        shared.metrics.webhook_deliveries.labels(answer.outcome).inc()
        shared.metrics.webhook_duration_seconds.observe(answer.duration_ms / 1000)
        self._ended.append(_Ended(claimed, endpoint, answer))

    async def _post(
        self, endpoint: EndpointRow, event: PublicEvent, keys: Sequence[bytes]
    ) -> Answer:
        shared, body = self._shared, event.body()
        signed = signing.headers(keys, event.id, shared.dbs.clock.now(), body)
        seconds = shared.settings.timeout_seconds
        return await post(shared.client, endpoint.url, signed, body, seconds)

    async def _write_down(self) -> int:
        """Record what has ended; on a fault it is kept and recorded at the next step."""
        self._some_ended.clear()
        ended = list(self._ended)
        if not ended:
            return 0

        async def work(tx: Writes) -> None:
            tried = [self._judged(one, tx) for one in ended]
            await deliveries.lock_order(
                tx, [one.endpoint.id for one in ended if one.endpoint.ordered]
            )
            await deliveries.release(tx, await deliveries.record(tx, tried))

        await self._place.run(ACTOR, work)
        del self._ended[: len(ended)]
        await self._note_health(ended)
        return len(ended)

    def _judged(self, one: _Ended, tx: Writes) -> Tried:
        claimed, answer = one.claimed, one.answer
        over = schedule.is_over(claimed.tries, claimed.created_at, tx.now)
        state, due_at = "delivered" if answer.delivered else "failed", None
        if not answer.delivered and not over and answer.outcome != NO_EVENT:
            asked = timedelta(seconds=answer.retry_after_seconds)
            state = "waiting"
            due_at = tx.now + max(schedule.delay(claimed.tries, self._shared.random), asked)
        took = answer.duration_ms
        return Tried(claimed, state, due_at, answer.status, answer.outcome, took)

    async def _note_health(self, ended: Sequence[_Ended]) -> None:
        """Keep since when nothing has arrived at an endpoint; wake it, or disable it."""
        answers: dict[int, list[Answer]] = {}
        for one in ended:
            answers.setdefault(one.endpoint.id, []).append(one.answer)
        environments = sorted({one.endpoint.environment_id for one in ended})
        rows = await self._shared.dbs.control.read(lambda tx: endpoints.enabled(tx, environments))
        for row in rows:
            if row.id in answers:
                await self._note(row, answers[row.id])

    async def _note(self, endpoint: EndpointRow, answers: Sequence[Answer]) -> None:
        now, since = self._shared.dbs.clock.now(), endpoint.failing_since
        if any(answer.delivered for answer in answers):
            if since is not None:
                await self._control(lambda tx: endpoints.note_failing(tx, endpoint.id, None))
                if now - since >= OUTAGE:
                    await self._wake(endpoint)
        elif any(answer.outcome == "gone" for answer in answers):
            await self._disable(endpoint, "gone")
        elif since is None:
            await self._control(lambda tx: endpoints.note_failing(tx, endpoint.id, now))
        elif now - since >= timedelta(days=self._shared.settings.disable_after_days):
            await self._disable(endpoint, "failing")

    async def _disable(self, endpoint: EndpointRow, reason: str) -> None:
        dbs = self._shared.dbs

        async def disable(tx: ControlTx) -> None:
            await endpoints.disable(tx, dbs, endpoint.environment_id, endpoint.id, reason)

        await self._control(disable)
        _log.warning("webhook_endpoint_disabled", endpoint=endpoint.id, reason=reason)

    async def _wake(self, endpoint: EndpointRow) -> None:
        for place in places_of(self._shared.dbs, endpoint.environment_id):
            await place.run(ACTOR, lambda tx: deliveries.wake(tx, endpoint.id))

    async def _control(self, work: Callable[[ControlTx], Awaitable[None]]) -> None:
        await self._shared.dbs.control.run(ACTOR, new_trace_id(), work)
