"""Messages that changed nothing and should have: kept with their reason until somebody looks.

They stay in the inbox, done but with a slug in their result; an index over exactly those keeps
looking at them cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paymaster.db import inbox
from paymaster.db.inbox import Incoming
from paymaster.db.tx import CellRead, CellTx


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A message that could not be applied. `result` has `slug` and `detail`."""

    source: str
    message_id: str
    topic: str
    payload: dict[str, Any] | None
    result: dict[str, Any]
    tries: int
    received_at: datetime
    trace_id: str


async def keep(tx: CellTx, messages: Sequence[Incoming], slug: str, detail: str) -> int:
    """Keep messages as not applicable; how many were new."""
    new = await inbox.receive(tx, messages)
    for message in messages:
        await inbox.done(tx, message.source, message.message_id, {"slug": slug, "detail": detail})
    return new


async def listing(tx: CellRead, limit: int) -> list[Unmatched]:
    """Messages of this cell that nobody could apply, newest first."""
    return await tx.fetch(
        """
        SELECT source, message_id, topic, payload, result, tries, received_at, trace_id
        FROM inbox WHERE result ->> 'slug' IS NOT NULL
            AND topic IN ('notice', 'notice.unmatched')
        ORDER BY received_at DESC LIMIT %s
        """,
        (limit,),
        Unmatched,
    )
