"""Events that the broker does not take: which they are, and having one sent again."""

from __future__ import annotations

from paymaster.db import audit
from paymaster.db.tx import ReadTx, Writes
from paymaster.kernel.errors import NotFound
from paymaster.messages.broker import store
from paymaster.messages.broker.store import Laid

_MOST = 10_000


async def listing(tx: ReadTx) -> list[Laid]:
    """What lies aside in a schema, in the order of commits."""
    return await store.listing(tx, _MOST)


async def try_again(tx: Writes, seq: int, event: str, reason: str | None) -> None:
    """Have an event sent again; audited. Raises NotFound `not-found`."""
    if not await store.try_again(tx, seq):
        raise NotFound("not-found", "No event of this id lies aside.")
    await audit.record(tx, [audit.Act("broker_event.retry", event, reason)])
