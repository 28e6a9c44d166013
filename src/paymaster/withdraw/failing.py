"""A destination to which payment after payment fails is paused, in the transaction that learns it.

Nothing is counted up: how many have failed in a row is read from the withdrawals to it, newest
outcome first. So a withdrawal counts once, however often and in whatever order its outcome is told,
and one that was paid and came back counts as failed. What failed for another reason than the
destination neither counts nor ends the row.
"""

from __future__ import annotations

from collections.abc import Iterable

from paymaster.db.tx import CellTx
from paymaster.people import destinations
from paymaster.rails import failures
from paymaster.withdraw import failing_store as store
from paymaster.withdraw.failing_store import Ended
from paymaster.withdraw.machine import State


async def pause_failing(tx: CellTx, withdrawal_ids: Iterable[int]) -> list[int]:
    """Pause the destinations of these withdrawals, which have just failed, where it is time.

    Which were paused. How many failures it takes is `tx.policy.destination_failures`; 0: never.
    """
    needed, ids = tx.policy.destination_failures, sorted(set(withdrawal_ids))
    if not needed or not ids:
        return []
    paused: list[int] = []
    # Locked first, so that of two transactions that each end a withdrawal the later sees both.
    for destination_id in await store.lock_active(tx, ids):
        row = in_a_row(await store.ended(tx, destination_id))
        if len(row) >= needed:
            code = failures.find(row[0].reason).code
            await destinations.pause(tx, destination_id, code, len(row))
            paused.append(destination_id)
    return paused


def in_a_row(newest_first: Iterable[Ended]) -> list[Ended]:
    """The failures of the destination since the last payment that stayed there."""
    row: list[Ended] = []
    for one in newest_first:
        if one.state == State.PAID:
            break
        if failures.find(one.reason).counts_against_destination:
            row.append(one)
    return row
