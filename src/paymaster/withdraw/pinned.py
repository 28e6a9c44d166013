"""A withdrawal goes where it was asked to go, or nowhere.

Its destination is named once, in the request. When that destination is closed while the withdrawal
still waits, the withdrawal is cancelled and its money is available again, in the transaction that
closes the destination; to be paid elsewhere, ask anew. From `sending` on the payment may be on its
way and goes on. What is frozen by a regulatory hold cannot be cancelled, so then nothing is closed.
"""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, NotFound
from paymaster.people import destinations
from paymaster.people.views import DestinationView
from paymaster.withdraw import holds
from paymaster.withdraw import holds_store as store
from paymaster.withdraw.machine import WAITING, Event, Who
from paymaster.withdraw.moves import Step, act

REASON = "destination-closed"
"""The reason of these cancellations, in the move and in the audit."""


async def close(
    tx: CellTx, destination_id: int, reason: str, *, user_id: int | None = None
) -> DestinationView:
    """Close a destination for good, only if it is `user_id`'s, where given; refund what waits.

    Withdrawals first, then their money, then the destination: as requests lock them. What was
    requested until the destination is locked is found by looking once more. Raises NotFound
    `destination-unknown`, Conflict `held-by-order`.
    """
    found = await destinations.get(tx, destination_id)
    if user_id not in (None, found.user_id):
        raise NotFound("destination-unknown", "There is no such destination.")
    await _refund(tx, await store.lock_of_destination(tx, destination_id, WAITING), found)
    view = await destinations.close(tx, destination_id, reason, user_id=user_id)
    await _refund(tx, await store.lock_of_destination(tx, destination_id, WAITING), found)
    return view


async def _refund(tx: CellTx, waiting: Sequence[int], found: DestinationView) -> None:
    """Cancel locked withdrawals. Raises Conflict `held-by-order` when anything here is held."""
    await holds.require_free(tx, [found.user_id, found.ref.id, *waiting])
    await _cancel(tx, waiting)


async def _cancel(tx: CellTx, withdrawal_ids: Sequence[int]) -> None:
    steps = [Step(one, Event.CANCEL, REASON, by=Who.WORKER) for one in withdrawal_ids]
    for moved in await act(tx, steps):
        if not moved.done:
            raise Broken("withdrawal-moved", f"A waiting withdrawal was not cancelled: {moved}.")


async def close_dead(tx: CellTx, destination_id: int, reason: str) -> None:
    """Close a destination that the provider calls dead: a fact, whatever is frozen.

    What waits for it is cancelled, but for what is held or being worked on at this moment: that
    goes to a person when its turn comes.
    """
    free = await store.lock_free_of_destination(tx, destination_id, WAITING)
    await _cancel(tx, free)
    await destinations.close(tx, destination_id, reason)
