"""A person knows what no query or report could tell: the last way out of unknown.

The bank was called, or its own portal was looked at. Saying that a payment was made concerns that
payment; saying that it was not concerns its whole order, because an order goes out as one: had it
been sent again for the sake of its other payments, this one would be paid after all. Of an order
that was answered, and so never goes out again, it concerns the one payment.

An order of which nothing ever left may be ended too, and never goes then: its account may not come
back, and nobody else can help those whose money it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.dispatch import batch_store, outcome
from paymaster.dispatch.batch_store import Ordered
from paymaster.dispatch.machine import AttemptState
from paymaster.dispatch.outcome import Applied
from paymaster.dispatch.proof import AGAIN
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome, Verdict
from paymaster.withdraw import checks

BY_HAND = "decided-by-hand"
"""The code of what a person found out."""

_NOT_UNKNOWN = "attempt-not-unknown"
_OPEN = (AttemptState.UNKNOWN, AttemptState.SENT, AttemptState.AWAITING)


class Finding(StrEnum):
    """What the person found out."""

    PAID = "paid"
    NOT_PAID = "not_paid"
    AGAIN = "again"
    """It was not paid and never will be, and the withdrawal shall be paid by a further order."""


async def decide(tx: CellTx, attempt_id: int, finding: Finding, proof: str) -> list[Applied]:
    """Resolve an attempt without an end by hand; audited with the proof. One result for each.

    Raises NotFound `not-found`, Unprocessable `reason-missing` without a proof, Conflict
    `attempt-not-unknown` when there is nothing to decide or its order is on the wire right now,
    Conflict `held-by-order` when one of the withdrawals is under a regulatory hold.
    """
    if not proof.strip():
        raise Unprocessable("reason-missing", "Say how it is known, for example who confirmed it.")
    this, concerned = await _concerned(tx, attempt_id, finding)
    await checks.require_free(tx, [one.withdrawal_id for one in concerned if one.withdrawal_id])
    if this.never_left:
        ended = batch_store.BatchChange(this.batch_id, "refused", None, "given up by hand")
        await batch_store.write(tx, [ended])
    verdict = Verdict.PAID if finding is Finding.PAID else Verdict.REJECTED
    code = AGAIN if finding is Finding.AGAIN else BY_HAND
    applied = await outcome.apply(
        tx,
        this.rail_account_id,
        [Outcome(each.key, verdict, code=code) for each in concerned],
        evidence=f"person:{tx.actor.name}",
    )
    await audit.record(
        tx,
        [
            audit.Act(
                "attempt.decide",
                text_id("at", tx.cell, each.attempt_id),
                proof,
                {"finding": finding.value, "state": result.state},
            )
            for each, result in zip(concerned, applied, strict=True)
        ],
    )
    return applied


async def _concerned(
    tx: CellTx, attempt_id: int, finding: Finding
) -> tuple[Ordered, Sequence[Ordered]]:
    """The attempt, and everything without an end that the finding is about; the order is locked."""
    order = await batch_store.lock_order_of(tx, attempt_id)
    if order is None:
        raise NotFound("not-found", "There is no attempt of this id.")
    this = next(each for each in order if each.attempt_id == attempt_id)
    if this.never_left and finding is not Finding.PAID:
        return this, [each for each in order if each.never_left]
    if this.state not in _OPEN or this.batch_state == "sending":
        raise Conflict(
            _NOT_UNKNOWN,
            f"The attempt is {this.state} and its order {this.batch_state}: nothing to decide.",
        )
    if finding is Finding.PAID or this.state != AttemptState.UNKNOWN:
        return this, [this]
    return this, [each for each in order if each.state == AttemptState.UNKNOWN]


async def at_stake(tx: CellTx, withdrawal_id: int, finding: Finding) -> list[Money]:
    """What a finding about a withdrawal's order is about: all payments that it concerns.

    One sum for each currency of their users. Nothing when there is nothing to decide. The order
    stays locked.
    """
    attempt_id = await batch_store.live_attempt(tx, withdrawal_id)
    if attempt_id is None:
        return []
    try:
        _, concerned = await _concerned(tx, attempt_id, finding)
    except Conflict:
        return []
    sums = Counter[str]()
    for each in concerned:
        sums[each.asset] += each.amount
    return [Money(minor, asset) for asset, minor in sorted(sums.items())]


async def order_of(tx: CellTx, withdrawal_id: int, *, seen: bool) -> str | None:
    """The text id of the one order of a withdrawal that may still pay it; None without one.

    Raises Conflict `moved-meanwhile` for a further order than the first when it was not `seen`:
    what is said, perhaps for the second time, may be about the one before it.
    """
    attempt_id = await batch_store.live_attempt(tx, withdrawal_id)
    if attempt_id is None:
        return None
    if not seen and await batch_store.has_dead_attempt(tx, withdrawal_id):
        raise await checks.too_late(tx, withdrawal_id, "moved-meanwhile")
    return text_id("at", tx.cell, attempt_id)


async def require_order(tx: CellTx, withdrawal_id: int, order: str) -> None:
    """What was said of an order is done to no other one; it stays locked.

    Raises Conflict `moved-meanwhile` when it is not the one that may still pay the withdrawal.
    """
    attempt_id = await batch_store.live_attempt(tx, withdrawal_id)
    if attempt_id is not None and text_id("at", tx.cell, attempt_id) == order:
        locked = await batch_store.lock_order_of(tx, attempt_id) or []
        if any(each.attempt_id == attempt_id and each.alive for each in locked):
            return
    raise await checks.too_late(tx, withdrawal_id, "moved-meanwhile")


async def of_withdrawal(
    tx: CellTx, withdrawal_id: int, finding: Finding, proof: str
) -> list[Applied]:
    """`decide` about the one order of a withdrawal that may still pay it.

    Raises as `decide` does; a Conflict `illegal-move` or `attempt-not-unknown` says who moved the
    withdrawal before, and when.
    """
    attempt_id = await batch_store.live_attempt(tx, withdrawal_id)
    if attempt_id is None:
        raise await checks.too_late(tx, withdrawal_id)
    try:
        applied = await decide(tx, attempt_id, finding, proof)
    except Conflict as error:
        if error.slug != _NOT_UNKNOWN:
            raise
        raise await checks.too_late(tx, withdrawal_id, _NOT_UNKNOWN) from None
    for one in applied:
        if one.attempt_id == attempt_id and not one.done:
            raise await checks.too_late(tx, withdrawal_id, one.slug or _NOT_UNKNOWN)
    return applied


async def retry(tx: CellTx, withdrawal_id: int, proof: str) -> list[Applied]:
    """Pay it by a further order, since the proof says that the one before it is dead.

    One that waits for its rail is tried at once; that needs no proof but a reason. Raises as
    `of_withdrawal` does.
    """
    if not proof.strip():
        raise Unprocessable("reason-missing", "Say how it is known, for example who confirmed it.")
    if await batch_store.live_attempt(tx, withdrawal_id) is None and await checks.hurry(
        tx, withdrawal_id, proof
    ):
        return []
    return await of_withdrawal(tx, withdrawal_id, Finding.AGAIN, proof)
