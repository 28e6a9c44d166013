"""What subscribers are told of each move."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from paymaster.db.outbox_lines import Line
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.withdraw.store import Change, Withdrawal


class _Amount(msgspec.Struct, gc=False):
    amount: str
    currency: str


class _Told(msgspec.Struct, gc=False):
    """The payload, in the order of its names."""

    id: str
    user: str
    destination: str
    amount: _Amount
    fee: _Amount
    payout: _Amount
    state: str
    previous_state: str
    number: int
    reason: str | None
    at: str
    trace_id: str


_ENCODER = msgspec.json.Encoder()

# The same withdrawal is told about four times within seconds.
_written_id = lru_cache(maxsize=16_384)(text_id)


@lru_cache(maxsize=16_384)
def _written(minor: int, asset: str) -> str:
    return Money(minor, asset).text()


def told(tx: CellTx, rows: Sequence[Withdrawal], changes: Sequence[Change]) -> list[Line]:
    """One message for each change of a row, `withdrawal.<state>`, ordered by user."""
    cell, now = tx.cell, rfc3339(tx.now)
    lines: list[Line] = []
    for row, change in zip(rows, changes, strict=True):
        user = _written_id("us", cell, row.user_id)
        payload = _Told(
            _written_id("wd", cell, row.id),
            user,
            _written_id("de", cell, row.destination_id),
            _Amount(_written(row.amount, row.asset), row.asset),
            _Amount(_written(row.fee, row.asset), row.asset),
            _Amount(_written(row.payout_amount, row.payout_asset), row.payout_asset),
            change.target,
            change.source,
            change.number,
            change.reason,
            now,
            row.trace_id,
        )
        lines.append(Line(f"withdrawal.{change.target}", user, _ENCODER.encode(payload).decode()))
    return lines
