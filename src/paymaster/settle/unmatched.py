"""Messages that changed nothing and should have: kept with their reason until somebody looks.

They stay in the inbox, done but with a slug in their result; an index over exactly those keeps
looking at them cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from paymaster.db import audit, inbox
from paymaster.db.inbox import Incoming
from paymaster.db.tx import CellRead, CellTx
from paymaster.settle import payin_notice
from paymaster.settle.notice import TOPIC

SUFFIX: Final = ".unmatched"
"""Ends the topic of a message about a reference that no cell of the environment can have."""


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
            AND topic IN ('notice', 'notice.unmatched', 'payin', 'payin.unmatched')
        ORDER BY received_at DESC LIMIT %s
        """,
        (limit,),
        Unmatched,
    )


async def again(tx: CellTx, source: str, message_id: str, reason: str) -> bool:
    """Try a message once more, after its cause was put right; audited. False when there is none."""
    touched = await tx.execute(
        "UPDATE inbox SET due_at = %s, done_at = NULL, result = NULL, tries = 0, lease_token = 0"
        " WHERE source = %s AND message_id = %s AND topic = ANY(%s)"
        " AND result ->> 'slug' IS NOT NULL",
        (tx.now, source, message_id, [TOPIC, payin_notice.TOPIC]),
    )
    if touched:
        subject = f"{source}#{message_id}"
        await audit.record(tx, [audit.Act("notice.again", subject, reason)])
    return bool(touched)
