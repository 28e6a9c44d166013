"""What is asked of a withdrawal before somebody does more with it than one move.

Each locks it, so that the answer still holds when the deed is done in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, NotFound
from paymaster.kernel.ids import text_id
from paymaster.withdraw import holds, holds_store, refused, store
from paymaster.withdraw.machine import State

_AT_THE_DOOR = (State.APPROVED.value, State.QUEUED.value)


async def require_free(tx: CellTx, withdrawal_ids: Sequence[int]) -> None:
    """Raises Conflict `held-by-order` when one of them is under a regulatory hold."""
    rows = await store.lock(tx, withdrawal_ids)
    for reference in (await holds.frozen(tx, rows.values())).values():
        raise holds.refusal(reference)


async def held(tx: CellTx, withdrawal_ids: Sequence[int]) -> frozenset[int]:
    """Those of them that are under a regulatory hold."""
    rows = await store.lock(tx, withdrawal_ids)
    return frozenset(await holds.frozen(tx, rows.values()))


async def leave(tx: CellTx, withdrawal_ids: Sequence[int]) -> None:
    """Let no worker look at these locked, held ones for a while; lifting the hold wakes them."""
    if withdrawal_ids:
        await holds_store.postpone(tx, withdrawal_ids, tx.now + holds.LOOK_AGAIN)


async def require_unmoved(tx: CellTx, withdrawal_id: int, version: int) -> None:
    """Raises Conflict `moved-meanwhile` when it is not of this version any more."""
    row = (await store.lock(tx, [withdrawal_id])).get(withdrawal_id)
    if row is not None and row.version != version:
        raise await too_late(tx, withdrawal_id, "moved-meanwhile")


async def too_late(tx: CellTx, withdrawal_id: int, slug: str = "illegal-move") -> Conflict:
    """The refusal of an act on a withdrawal as it stands, with who did what before and when.

    Raises NotFound `not-found`.
    """
    row = (await store.lock(tx, [withdrawal_id])).get(withdrawal_id)
    if row is None:
        raise NotFound("not-found", "There is no such withdrawal.")
    return refused.because(slug, row.state, await holds_store.last_move(tx, withdrawal_id))


async def hurry(tx: CellTx, withdrawal_id: int, reason: str) -> bool:
    """An operator lets what waits for its rail be looked at now; whether it waits there.

    No move: it stays where it is, and is tried at once. Raises Conflict `held-by-order`.
    """
    await require_free(tx, [withdrawal_id])
    if not await holds_store.due_now(tx, withdrawal_id, _AT_THE_DOOR):
        return False
    name = text_id("wd", tx.cell, withdrawal_id)
    await audit.record(tx, [audit.Act("withdrawal.retry", name, reason)])
    return True
