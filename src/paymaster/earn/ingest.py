"""The way of a batch from parsed lines to outcomes, over all cells that it concerns.

Every door for events (HTTP, files, a broker) ends here. Each part of the batch commits by itself;
whoever got no answer sends the whole again, and what was taken in answers `duplicate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from paymaster.db import lease
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, CellTx
from paymaster.earn import catalogue, dead_letter
from paymaster.earn.catalogue import SLICE_REWARDS, Catalogue
from paymaster.earn.event import Event, EventOutcome, Fault, Status
from paymaster.earn.intake import Parsed
from paymaster.earn.record import MAX_BATCH, record
from paymaster.secrets.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Report:
    """One outcome for each line that held something, in order of lines."""

    outcomes: list[EventOutcome]

    def count(self, status: Status) -> int:
        """How many lines came to this."""
        return sum(1 for outcome in self.outcomes if outcome.status is status)


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
    treasury = dbs.treasury(environment_id).number
    outcomes: list[EventOutcome] = []
    for start in range(0, len(parsed.events), MAX_BATCH):
        events = parsed.events[start : start + MAX_BATCH]
        found = await dbs.control.read(
            lambda tx, events=events: catalogue.load(
                tx, environment_id, events, slice_rewards=slice_rewards
            )
        )
        for cell, here in _by_cell(found, events, treasury).items():
            outcomes += await _record(dbs, sealer, actor, trace_id, cell, found, here)
    if parsed.faults:
        outcomes += await _refuse(
            dbs, sealer, actor, trace_id, treasury, [(source, one) for one in parsed.faults]
        )
    return Report(sorted(outcomes, key=lambda outcome: outcome.line))


def _by_cell(found: Catalogue, events: Sequence[Event], treasury: int) -> dict[int, list[Event]]:
    """Each event to the cell of its user; those of unknown users to the treasury's list."""
    parts: dict[int, list[Event]] = {}
    for event in events:
        ref = found.users.get(event.user)
        parts.setdefault(treasury if ref is None else ref.cell, []).append(event)
    return dict(sorted(parts.items()))


async def _record(
    dbs: Databases,
    sealer: Sealer,
    actor: Actor,
    trace_id: str,
    cell: int,
    found: Catalogue,
    events: Sequence[Event],
) -> list[EventOutcome]:
    """Record; a batch that the database refuses is halved until the poisoned event stands alone."""

    async def work(tx: CellTx) -> list[EventOutcome]:
        await lease.permit(tx)
        return await record(tx, sealer, found, events)

    try:
        return await dbs.cell(cell).run(actor, trace_id, work)
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        if len(events) > 1:
            half = len(events) // 2
            parts = (events[:half], events[half:])
            return [
                outcome
                for part in parts
                for outcome in await _record(dbs, sealer, actor, trace_id, cell, found, part)
            ]
        [event] = events
        detail = f"The database refuses this event ({error.sqlstate})."
        fault = Fault(event.line, "event-poisoned", detail, event.raw, event.event_id)
        return await _refuse(dbs, sealer, actor, trace_id, cell, [(event.source, fault)])


async def _refuse(
    dbs: Databases,
    sealer: Sealer,
    actor: Actor,
    trace_id: str,
    cell: int,
    faults: Sequence[tuple[str, Fault]],
) -> list[EventOutcome]:
    async def work(tx: CellTx) -> None:
        await dead_letter.bury(tx, sealer, faults)

    await dbs.cell(cell).run(actor, trace_id, work)
    return [
        EventOutcome(one.line, one.event_id, Status.REJECTED, one.slug, one.detail)
        for _, one in faults
    ]
