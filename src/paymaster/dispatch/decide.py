"""A person knows what no query or report could tell: the last way out of unknown.

The bank was called, or its own portal was looked at. Saying that a payment was made concerns that
payment; saying that it was not concerns its whole order, because an order goes out as one: had it
been sent again for the sake of its other payments, this one would be paid after all.
"""

from __future__ import annotations

from enum import StrEnum

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.dispatch import batch_store, outcome
from paymaster.dispatch.machine import AttemptState
from paymaster.dispatch.outcome import Applied
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.rails.base import Outcome, Verdict


class Finding(StrEnum):
    """What the person found out."""

    PAID = "paid"
    NOT_PAID = "not_paid"


async def decide(tx: CellTx, attempt_id: int, finding: Finding, proof: str) -> list[Applied]:
    """Resolve an unknown attempt by hand; audited with the proof. One result for each attempt.

    Raises NotFound `not-found`, Unprocessable `reason-missing` without a proof, Conflict
    `attempt-not-unknown` when there is nothing to decide or its order is on the wire right now.
    """
    if not proof.strip():
        raise Unprocessable("reason-missing", "Say how it is known, for example who confirmed it.")
    order = await batch_store.lock_order_of(tx, attempt_id)
    if order is None:
        raise NotFound("not-found", "There is no attempt of this id.")
    this = next(each for each in order if each.attempt_id == attempt_id)
    if this.state != AttemptState.UNKNOWN or this.batch_state == "sending":
        raise Conflict(
            "attempt-not-unknown",
            f"The attempt is {this.state} and its order {this.batch_state}: nothing to decide.",
        )
    concerned = [this] if finding is Finding.PAID else order
    verdict = Verdict.PAID if finding is Finding.PAID else Verdict.REJECTED
    open_ones = [each for each in concerned if each.state == AttemptState.UNKNOWN]
    applied = await outcome.apply(
        tx,
        this.rail_account_id,
        [Outcome(each.key, verdict, code="decided-by-hand", detail=proof) for each in open_ones],
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
            for each, result in zip(open_ones, applied, strict=True)
        ],
    )
    return applied
