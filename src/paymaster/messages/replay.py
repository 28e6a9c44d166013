"""Old events again: one at once, or all that an endpoint has not got since a moment."""

from __future__ import annotations

from datetime import datetime, timedelta

from paymaster.db import audit
from paymaster.db.cells import Databases
from paymaster.db.tx import Actor, ReadTx, Writes
from paymaster.kernel.clock import milliseconds
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import time_floor
from paymaster.messages import endpoints, fanout
from paymaster.messages.event import public
from paymaster.messages.place import Place, places_of
from paymaster.messages.store import deliveries, events, replays
from paymaster.messages.store.deliveries import Owed
from paymaster.messages.store.endpoints import EndpointRow

_SLACK = timedelta(minutes=15)
"""No transaction takes so long, and no two clocks differ by so much: commits whose ids are older by
this were committed before all that are younger."""


async def resend(place: Place, actor: Actor, seq: int, endpoint: EndpointRow) -> bool:
    """Owe one event to an endpoint again, whatever it subscribes to; what waits is due now.

    False while it is under way or waits behind others. Raises NotFound for what is no event of the
    endpoint's environment.
    """

    async def work(tx: Writes) -> bool:
        found = [public(place, row) for row in await events.events(tx, [seq])]
        event = found[0] if found else None
        if event is None or event.environment_id != endpoint.environment_id:
            raise NotFound("not-found", "There is no such event.")
        row = event.row
        owed = Owed(endpoint.id, seq, row.topic, row.key, endpoint.ordered)
        if not await fanout.put(tx, [owed], again=True) and not await deliveries.hurry(
            tx, endpoint.id, seq
        ):
            return False
        name = endpoints.name_of(place.dbs, endpoint.environment_id, endpoint.id)
        detail = {"endpoint": name, audit.ENVIRONMENT: endpoint.environment_id}
        await audit.record(tx, [audit.Act("webhook_event.resend", event.id, detail=detail)])
        return True

    return await place.run(actor, work)


async def ask(dbs: Databases, actor: Actor, endpoint: EndpointRow, since: datetime) -> None:
    """Have everything owed again that an endpoint wants, has not got, and is not older than this.

    What waits there for its next try is due now. The rest the role that fans out does in the
    background, place after place.
    """
    for place in places_of(dbs, endpoint.environment_id):

        async def work(tx: Writes) -> None:
            await deliveries.wake(tx, endpoint.id)
            start = await _start(tx, since)
            if start is not None:
                end = await events.head(tx)
                await replays.insert(tx, endpoint.id, since, start - 1, end)

        await place.run(actor, work)


async def _start(tx: ReadTx, since: datetime) -> int | None:
    return await events.since(tx, time_floor(milliseconds(since - _SLACK)))
