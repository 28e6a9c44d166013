"""Warnings of what is long unknown about money that came in: nobody else would be told of it.

A charge that is still asked about when its time is long over, because its provider is silent, its
rail is gone, or another merchant is asked by now; a refund that does not leave, or does not end.
What is `disputed` or `stuck` was told when it became so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from paymaster.db import outbox
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.observe import get_logger

_log = get_logger(__name__)
_SILENT = 100
"""Above the place of every time that there can be: the provider has it, and says nothing more."""


@dataclass(frozen=True, slots=True)
class _Late:
    """A row that was warned about; `level` is the place of the time that has passed."""

    id: int
    key: str
    rail_account_id: int
    state: str
    since: datetime
    tries: int
    code: str | None
    level: int


_LEVEL: LiteralString = (
    "(SELECT count(*) FROM unnest(%(moments)s::timestamptz[]) AS t (moment)"
    " WHERE {} <= t.moment)::int"
)
_TOLD: LiteralString = " RETURNING c.id, c.key, c.rail_account_id, c.state, "


async def warn_charges(tx: CellTx, after: Sequence[timedelta], limit: int) -> int:
    """Warn of charges that could be paid last longer ago than a time of `after` (growing).

    Once for each time, or for the longest of several. How many.
    """
    if not after:
        return 0
    level = _LEVEL.replace("{}", "c.expires_at")
    rows = await tx.fetch(
        "WITH late AS (SELECT c.id, "
        + level
        + """ AS level FROM charge c
            WHERE c.state NOT IN ('paid', 'closed', 'disputed') AND c.expires_at <= %(first)s
                AND c.alerted < """
        + level
        + """
            ORDER BY c.expires_at, c.id LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED
        )
        UPDATE charge c SET alerted = late.level, version = version + 1
        FROM late WHERE c.id = late.id"""
        + _TOLD
        + "c.expires_at AS since, c.tries, c.code, late.level",
        _given(tx, after, limit),
        _Late,
    )
    return await _tell(tx, "topup.unknown_old", "tp", rows, after)


async def warn_refunds(
    tx: CellTx, after: Sequence[timedelta], silent: timedelta, limit: int
) -> int:
    """The same of refunds, from when they were asked for; and once of those that are `silent`.

    Those the provider has taken in, and has not ended for so long. How many.
    """
    if not after:
        return 0
    level = _LEVEL.replace("{}", "c.created_at")
    rows = await tx.fetch(
        "WITH late AS (SELECT c.id, CASE c.state WHEN 'processing' THEN %(silent)s ELSE "
        + level
        + """ END AS level FROM charge_refund c
            WHERE c.state NOT IN ('done', 'failed', 'stuck') AND c.created_at <= CASE c.state
                    WHEN 'processing' THEN %(before)s ELSE %(first)s END
                AND c.alerted < CASE c.state WHEN 'processing' THEN %(silent)s ELSE """
        + level
        + """ END
            ORDER BY c.created_at, c.id LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED
        )
        UPDATE charge_refund c SET alerted = late.level, version = version + 1
        FROM late WHERE c.id = late.id"""
        + _TOLD
        + "c.created_at AS since, c.tries, c.code, late.level",
        _given(tx, after, limit) | {"silent": _SILENT, "before": tx.now - silent},
        _Late,
    )
    times = {_SILENT: silent}
    return await _tell(tx, "topup_refund.unknown_old", "tf", rows, after, times)


def _given(tx: CellTx, after: Sequence[timedelta], limit: int) -> dict[str, object]:
    return {
        "moments": [tx.now - each for each in after],
        "first": tx.now - after[0],
        "limit": limit,
    }


async def _tell(
    tx: CellTx,
    topic: str,
    prefix: str,
    rows: Sequence[_Late],
    after: Sequence[timedelta],
    times: dict[int, timedelta] | None = None,
) -> int:
    """A line in the log and an event for each."""
    known = {place + 1: time for place, time in enumerate(after)} | (times or {})
    told: list[outbox.Message] = []
    for row in sorted(rows, key=lambda one: one.id):
        subject = text_id(prefix, tx.cell, row.id)
        minutes = known[row.level] // timedelta(minutes=1)
        payload = {
            "id": subject,
            "state": row.state,
            "since": rfc3339(row.since),
            "minutes": minutes,
            "asked": row.tries,
            "code": row.code,
        }
        told.append(outbox.Message(topic, subject, payload))
        _log.warning(
            topic.replace(".", "_"),
            key=row.key,
            rail_account=row.rail_account_id,
            state=row.state,
            minutes=minutes,
            code=row.code,
        )
    await outbox.put(tx, told)
    return len(told)
