"""How far the books of a cell were proven, and the sum with which the next proof goes on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paymaster.db.tx import CellRead, CellTx


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All postings up to `seq` were read and found sound; `at_seq` is the sum of their steps."""

    seq: int
    at_seq: int
    postings: int
    proven_at: datetime


async def last(tx: CellRead) -> Checkpoint | None:
    """The furthest checkpoint of the cell."""
    rows = await tx.tuples(
        "SELECT seq, at_seq, postings, proven_at FROM proof ORDER BY seq DESC LIMIT 1"
    )
    return Checkpoint(rows[0][0], int(rows[0][1]), rows[0][2], rows[0][3]) if rows else None


async def add(tx: CellTx, seq: int, at_seq: int, postings: int) -> None:
    """Remember that all postings up to `seq` are sound; a place that is known stays as it is."""
    await tx.execute(
        "INSERT INTO proof (seq, at_seq, postings, proven_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (seq) DO NOTHING",
        (seq, at_seq, postings, tx.now),
    )
