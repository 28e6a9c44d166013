"""SQL of what streams are told; nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from paymaster.db.tx import ReadTx


class Row(NamedTuple):
    """A message to the streams of the user whose text id is `key`."""

    seq: int
    topic: str
    key: str
    payload: dict[str, Any]
    created_at: datetime


async def of_users(
    tx: ReadTx, after: int, until: int, keys: Sequence[str], topics: Sequence[str]
) -> list[Row]:
    """The messages about these users, of the commits in (after, until], in order."""
    rows = await tx.tuples(
        """
        SELECT c.first_seq + o.ordinal, o.topic, o.key, o.payload, o.created_at
        FROM commit c JOIN outbox o ON o.commit_id = c.id
        WHERE c.last_seq > %s AND c.last_seq <= %s AND o.target_cell IS NULL
            AND o.key = ANY(%s) AND o.topic = ANY(%s)
        ORDER BY 1
        """,
        (after, until, list(keys), list(topics)),
    )
    return list(map(Row._make, rows))


async def balances(tx: ReadTx, user_ids: Sequence[int]) -> list[tuple[int, str, str, int]]:
    """`(user, currency, kind, balance)` of the accounts of users."""
    rows = await tx.tuples(
        "SELECT owner_id, asset, kind, balance FROM account WHERE owner_id = ANY(%s)"
        " AND kind IN ('available', 'vesting', 'held', 'reserve', 'debt')"
        " ORDER BY owner_id, asset, kind",
        (list(user_ids),),
    )
    return [(row[0], row[1], row[2], row[3]) for row in rows]
