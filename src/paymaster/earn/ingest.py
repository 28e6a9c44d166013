"""The way of a batch from parsed lines to outcomes, over all cells that it concerns.

Every door for events (HTTP, files, a broker) ends here. Each part of the batch commits by itself;
whoever got no answer sends the whole again, and what was taken in answers `duplicate`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from typing import Any, NamedTuple
from zlib import crc32

import psycopg

from paymaster.db import lease
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellTx
from paymaster.earn import catalogue, dead_letter
from paymaster.earn.catalogue import SLICE_REWARDS, Catalogue
from paymaster.earn.event import Event, EventOutcome, Fault, Status
from paymaster.earn.grant import BudgetShort
from paymaster.earn.intake import Parsed
from paymaster.earn.places import places_in
from paymaster.earn.record import FIRST, MAX_BATCH, record
from paymaster.earn.resolve import Item, resolve
from paymaster.earn.turns import Overtaken, Turn
from paymaster.kernel.garbage import CALM
from paymaster.secrets.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Report:
    """One outcome for each line that held something, in order of lines."""

    outcomes: list[EventOutcome]

    def counts(self) -> Counter[Status]:
        """How many lines came to what."""
        return Counter([outcome.status for outcome in self.outcomes])


async def ingest(
    dbs: Databases,
    sealer: Sealer,
    environment_id: int,
    actor: Actor,
    trace_id: str,
    source: str,
    parsed: Parsed,
    *,
    slice_rewards: int = SLICE_REWARDS,
) -> Report:
    """Take a batch in. Raises Busy when a database cannot be reached: send the batch again."""
    way = _Way(dbs, sealer, environment_id, actor, trace_id, slice_rewards)
    with CALM.kept():
        outcomes = await _in_turn(way, parsed.events)
    if parsed.faults:
        treasury = dbs.treasury(environment_id).number
        outcomes += await _refuse(way, treasury, [(source, one) for one in parsed.faults])
    return Report(sorted(outcomes, key=_LINE))


_LINE = attrgetter("line")


class _Way(NamedTuple):
    """What all parts of a batch have in common."""

    dbs: Databases
    sealer: Sealer
    environment_id: int
    actor: Actor
    trace_id: str
    slice_rewards: int


class _Part(NamedTuple):
    """Events of one cell's users, what the directory says of them, and what that comes to."""

    cell: int
    found: Catalogue
    events: Sequence[Event]
    resolved: list[Item | EventOutcome]


def _part(cell: int, found: Catalogue, events: Sequence[Event]) -> _Part:
    return _Part(cell, found, events, resolve(cell, found, events))


async def _in_turn(way: _Way, events: Sequence[Event]) -> list[EventOutcome]:
    """Record part after part; while two are under way, the next is looked up."""
    outcomes: list[EventOutcome] = []
    before: Turn | None = None
    running: list[asyncio.Task[list[EventOutcome]]] = []
    parts = _parts(way, events)

    async def following() -> _Part | None:
        return await anext(parts, None)

    upcoming = asyncio.create_task(following())
    try:
        while (part := await upcoming) is not None:
            turn = Turn(before)
            running.append(asyncio.create_task(_take(way, part, turn)))
            upcoming = asyncio.create_task(following())
            if before is not None:
                outcomes += await running[0]
                del running[0]
            await turn.held()
            before = turn
        for task in running:
            outcomes += await task
    finally:
        left: list[asyncio.Task[Any]] = [*running, upcoming]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await parts.aclose()
    return outcomes


async def _parts(way: _Way, events: Sequence[Event]) -> AsyncGenerator[_Part]:
    """Each event goes to the cell of its user; those of unknown users to the treasury's list."""
    treasury = way.dbs.treasury(way.environment_id).number
    alone = len(way.dbs.cells(way.environment_id)) == 1
    places = places_in(way.dbs)
    for some in split(events, MAX_BATCH):
        found = await way.dbs.control.read(
            lambda tx, some=some: catalogue.load(
                tx, way.environment_id, some, places, slice_rewards=way.slice_rewards
            )
        )
        if alone:
            yield _part(treasury, found, some)
            continue
        cells: dict[int, list[Event]] = {}
        for event in some:
            ref = found.users.get(event.user)
            cells.setdefault(treasury if ref is None else ref.cell, []).append(event)
        for cell, here in sorted(cells.items()):
            yield _part(cell, found, here)


def split(events: Sequence[Event], most: int) -> Iterator[Sequence[Event]]:
    """Parts of at most `most` events; a user's events stay in their order.

    A larger batch is dealt into two lanes by user, and their parts come in turn: neighbours would
    otherwise wait for each other wherever a user has events in both. The parts of a lane are of one
    size, so that no small one costs as many statements as a large one.
    """
    if len(events) <= most:
        yield events
        return
    lanes: tuple[list[Event], list[Event]] = ([], [])
    for event in events:
        lanes[crc32(event.user.encode()) & 1].append(event)
    for pair in zip_longest(*[list(_even(lane, most)) for lane in lanes]):
        yield from (part for part in pair if part is not None)


def _even(events: Sequence[Event], most: int) -> Iterator[Sequence[Event]]:
    """Parts of one size, at most `most`."""
    count = -(-len(events) // most)
    for number in range(count):
        yield events[len(events) * number // count : len(events) * (number + 1) // count]


async def _take(way: _Way, part: _Part, turn: Turn) -> list[EventOutcome]:
    """Record one part in its turn."""
    try:
        outcomes = await _record(way, part, turn)
        turn.passes()
        return outcomes
    finally:
        turn.ends()


async def _record(way: _Way, part: _Part, turn: Turn) -> list[EventOutcome]:
    """Record; a part that the database refuses is halved until the poisoned event stands alone.

    What was done for speed and did not hold is done the other way.
    """
    how, tries = FIRST, 0

    async def work(tx: CellTx) -> list[EventOutcome]:
        nonlocal tries
        tries += 1
        if tries > 1:
            turn.stumbles()
        await lease.permit(tx)
        resolved = part.resolved if tries == 1 else None
        return await record(
            tx, way.sealer, part.found, part.events, resolved=resolved, how=how, turn=turn
        )

    while True:
        try:
            return await way.dbs.cell(part.cell).run(way.actor, way.trace_id, work)
        except Overtaken:
            await turn.wait()
        except BudgetShort:
            how = how._replace(ahead=False)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if not _about_events(error):
                raise
            turn.stumbles()
            if how.careful or not isinstance(error, psycopg.errors.UniqueViolation):
                await turn.wait()
                return await _halves(way, part, error)
            # Somebody else took in one of these events at the same moment.
            how = how._replace(careful=True)


_OF_EVENTS = ("event", "answer", "dead_letter")


def _about_events(error: psycopg.Error) -> bool:
    """Whether what the database refuses came from an event: anything else is not its sender's."""
    return isinstance(error, psycopg.DataError) or error.diag.table_name in _OF_EVENTS


async def _halves(way: _Way, part: _Part, error: psycopg.Error) -> list[EventOutcome]:
    cell, found, events, _ = part
    if len(events) > 1:
        half = len(events) // 2
        return [
            outcome
            for some in (events[:half], events[half:])
            for outcome in await _record(way, _part(cell, found, some), Turn())
        ]
    [event] = events
    detail = f"The database refuses this event ({error.sqlstate})."
    fault = Fault(event.line, "event-poisoned", detail, event.raw, event.event_id)
    return await _refuse(way, cell, [(event.source, fault)])


async def _refuse(way: _Way, cell: int, faults: Sequence[tuple[str, Fault]]) -> list[EventOutcome]:
    async def work(tx: CellTx) -> None:
        await dead_letter.bury(tx, way.sealer, faults)

    await way.dbs.cell(cell).run(way.actor, way.trace_id, work)
    return [
        EventOutcome(one.line, one.event_id, Status.REJECTED, one.slug, one.detail)
        for _, one in faults
    ]
