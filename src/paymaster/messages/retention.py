"""Deliveries, replays and letters are forgotten after their time; events stay in the outbox."""

from __future__ import annotations

from datetime import timedelta

from paymaster.db.tx import Writes
from paymaster.messages.fanout import ACTOR
from paymaster.messages.place import Place
from paymaster.messages.store import deliveries, mails, replays

ITEMS = 1000


async def forget(place: Place, kept: timedelta) -> int:
    """Delete some of what is older; 0 when nothing is left to delete.

    By the machine's clock: what a test environment's passes over was not yet tried for so long.
    """
    before = place.dbs.clock.now() - kept

    async def work(tx: Writes) -> int:
        await replays.forget(tx, before)
        gone = await deliveries.forget(tx, before, ITEMS)
        return gone + await mails.forget(tx, before, ITEMS)

    return await place.run(ACTOR, work)
