"""Lines that were not taken in: kept sealed with the reason, to be looked at and sent again."""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.db.sealed import open_fixed
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn.event import Fault
from paymaster.earn.store import events as store
from paymaster.earn.store.events import DeadLetter, DeadLetterRow
from paymaster.kernel.errors import NotFound
from paymaster.secrets.sealing import Sealer, place

_TABLE = "dead_letter"
MAX_DETAIL = 300


async def bury(tx: CellTx, sealer: Sealer, faults: Sequence[tuple[str, Fault]]) -> None:
    """Keep `(source, fault)`."""
    if not faults:
        return
    rows = [
        DeadLetterRow(
            number,
            source,
            fault.line,
            fault.event_id,
            fault.slug,
            fault.detail[:MAX_DETAIL],
            sealer.seal_bytes(fault.raw, place(_TABLE, number)),
        )
        for number, (source, fault) in zip(tx.ids(len(faults)), faults, strict=True)
    ]
    await store.insert_dead_letters(tx, rows)


async def listing(tx: CellRead, before: int | None = None, limit: int = 50) -> list[DeadLetter]:
    """A page of the list, newest first; `before` is the number of the last one seen."""
    return await store.dead_letters(tx, before, min(limit, 200))


async def opened(tx: CellRead, sealer: Sealer, number: int) -> bytes:
    """The bytes of a line. Raises NotFound `dead-letter-unknown`."""
    sealed = await store.dead_letter_bytes(tx, number)
    if sealed is None:
        raise NotFound("dead-letter-unknown", "There is no such dead letter.")
    return await open_fixed(tx, sealer, _TABLE, number, sealed, place(_TABLE, number))
