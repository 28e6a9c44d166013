"""How much waits to be told, measured over all schemas."""

from __future__ import annotations

from datetime import datetime

from paymaster.db import outbox
from paymaster.db.cells import Databases
from paymaster.db.tx import ReadTx
from paymaster.messages.fanout import NAME
from paymaster.messages.place import places
from paymaster.messages.store import deliveries, endpoints, events, mails
from paymaster.observe import Metrics


async def measure(dbs: Databases, metrics: Metrics) -> None:
    """Set every gauge anew."""
    numbers = [one.id for one in dbs.environments()]
    metrics.webhook_endpoints.clear()
    for state, count in await dbs.control.read(endpoints.states):
        metrics.webhook_endpoints.labels(state).set(count)
    enabled = [row.id for row in await dbs.control.read(lambda tx: endpoints.enabled(tx, numbers))]
    now = dbs.clock.now()

    async def look(tx: ReadTx) -> tuple[int, datetime | None, int, float]:
        count, oldest = await deliveries.due(tx, enabled)
        behind = await events.next_recorded(tx, await outbox.position(tx, NAME))
        lag = 0.0 if behind is None else max((tx.now - behind).total_seconds(), 0.0)
        return count, oldest, await mails.due(tx), lag

    for place in places(dbs):
        count, oldest, letters, lag = await place.read(look)
        metrics.webhooks_due.labels(place.name).set(count)
        age = 0.0 if oldest is None else (now - oldest).total_seconds()
        metrics.oldest_webhook_due_age_seconds.labels(place.name).set(age)
        metrics.mails_due.labels(place.name).set(letters)
        metrics.events_out_lag_seconds.labels(place.name).set(lag)
