"""Everything since a moment again, for a stream or a queue that was lost.

The lease is taken from whoever publishes in the same transaction that sets the position back: what
that process has under way can no longer move the position on.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from paymaster.db import audit
from paymaster.db.tx import Writes
from paymaster.kernel.clock import milliseconds, rfc3339
from paymaster.kernel.ids import time_floor
from paymaster.messages.broker import store
from paymaster.messages.broker.publish import NAME
from paymaster.messages.store import events

_SLACK = timedelta(minutes=15)
"""No transaction takes so long, and no two clocks differ by so much; see `messages.replay`."""


async def again(tx: Writes, place: str, since: datetime, reason: str | None) -> int:
    """Have a schema publish anew what was committed since; how many places of `seq` that is.

    Nothing of what was not published yet is left out. Audited.
    """
    first = await events.since(tx, time_floor(milliseconds(since - _SLACK)))
    before = await store.take_over(tx, NAME)
    if first is None or before is None or before < first:
        return 0
    await store.set_back(tx, NAME, first - 1)
    detail = {"place": place, "since": rfc3339(since), "from_seq": first}
    await audit.record(tx, [audit.Act("broker.again", f"broker:{place}", reason, detail)])
    return before - first + 1
