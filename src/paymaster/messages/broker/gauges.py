"""How far the broker is behind, measured over all schemas."""

from __future__ import annotations

from paymaster.db.cells import Databases
from paymaster.db.tx import ReadTx
from paymaster.messages.broker import store
from paymaster.messages.broker.link import Link
from paymaster.messages.broker.publish import NAME
from paymaster.messages.place import places
from paymaster.messages.store import events
from paymaster.observe import Metrics


async def measure(dbs: Databases, metrics: Metrics, link: Link) -> dict[str, object]:
    """Set every gauge anew; what `/readyz` tells of the broker."""
    metrics.broker_up.set(1 if link.up else 0)
    lags: dict[str, float] = {}
    laid: dict[str, int] = {}
    for place in places(dbs):
        lags[place.name], laid[place.name] = await place.read(_look)
        metrics.broker_lag_seconds.labels(place.name).set(lags[place.name])
        metrics.broker_aside.labels(place.name).set(laid[place.name])
    return {"connected": link.up, "fault": link.fault, "lag_seconds": lags, "laid_aside": laid}


async def _look(tx: ReadTx) -> tuple[float, int]:
    position = await store.position(tx, NAME)
    behind = None if position is None else await events.next_recorded(tx, position)
    lag = 0.0 if behind is None else max((tx.now - behind).total_seconds(), 0.0)
    return round(lag, 3), await store.count(tx)
