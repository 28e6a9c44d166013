"""A proof is held against an act, and used up in the act's own transaction.

`require` locks the step-up and refuses; then comes the act; then `use`, after which the step-up
serves no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.kernel.money import Money
from paymaster.people.factors import store
from paymaster.people.factors.binding import Purpose


@dataclass(frozen=True, slots=True)
class Shown:
    """What came with an act: whether the policy asks for a proof, and which one was given."""

    required: bool
    step_up: str | None = None

    @property
    def matters(self) -> bool:
        """Whether there is anything to look at. A proof that is given is used up in any case."""
        return self.required or self.step_up is not None


@dataclass(frozen=True, slots=True)
class Act:
    """What is about to happen. `payees` are all names of one payee (see `binding.new_accounts`)."""

    purpose: Purpose
    payees: Sequence[str]
    amount: Money | None = None


async def require(tx: CellTx, user_id: int, act: Act, shown: Shown) -> int | None:
    """The step-up to `use` when the act is done, locked; None when none is needed or given.

    Raises Unprocessable `step-up-required`, `step-up-cooling-off`, `step-up-mismatch`,
    `step-up-unverified`, `step-up-used`, `step-up-expired` or `step-up-void`.
    """
    if not shown.matters:
        return None
    if act.purpose is not Purpose.FACTOR:
        await check_cooling(tx, user_id)
    if shown.step_up is None:
        raise await missing(tx, user_id, act.purpose)
    row = await store.lock_step_up(tx, _number(tx, shown.step_up))
    if row is None or row.user_id != user_id:
        raise _mismatch("user", "The step-up is none of this user's.")
    if row.purpose != act.purpose:
        raise _mismatch("purpose", f"The step-up is for a {row.purpose}.")
    if (act.amount is not None) != (row.amount is not None) or (
        act.amount is not None
        and (act.amount.minor, act.amount.currency) != (row.amount, row.currency)
    ):
        raise _mismatch("amount", "The step-up is for another amount.")
    if row.payee not in act.payees:
        raise _mismatch("payee", "The step-up is for something else.")
    check_usable(row, tx.now)
    return row.id


def check_usable(row: store.StepUpRow, now: datetime) -> None:
    """Raises Unprocessable: only a step-up that was verified, just now, and never used serves."""
    if row.state == "used":
        raise Unprocessable("step-up-used", "The step-up was used already; each serves once.")
    if row.state == "void":
        raise Unprocessable("step-up-void", "The factors were reset since; ask for a new step-up.")
    if row.expires_at <= now:
        raise Unprocessable(
            "step-up-expired", f"The step-up expired at {rfc3339(row.expires_at)}; make a new one."
        )
    if row.state == "open":
        raise Unprocessable("step-up-unverified", "The step-up was not verified yet.")


async def use(tx: CellTx, number: int | None, subject: str) -> None:
    """The act was done: its step-up is used up. `subject` is what came of it, a text id."""
    if number is None:
        return
    await store.used(tx, number, subject)
    name = text_id("su", tx.cell, number)
    await audit.record(tx, [audit.Act("step-up.use", name, detail={"for": subject})])


async def check_cooling(tx: CellRead, user_id: int) -> None:
    """Raises Unprocessable `step-up-cooling-off`, with the moment when it ends."""
    until = await store.cooling_until(tx, user_id)
    if until is not None and until > tx.now:
        raise Unprocessable(
            "step-up-cooling-off",
            f"The factors of this user are new or were reset: step-ups move money from"
            f" {rfc3339(until)} on.",
            extra={"until": rfc3339(until)},
        )


async def missing(tx: CellRead, user_id: int, purpose: Purpose) -> Unprocessable:
    """The refusal of an act without a proof; it says where to get one."""
    user = text_id("us", tx.cell, user_id)
    enrolled = any(row.state == "active" for row in await store.factors(tx, user_id))
    where = f"/v1/users/{user}/{'step-ups' if enrolled else 'factors'}"
    first = "" if enrolled else " The user has no factor yet; add one first."
    return Unprocessable(
        "step-up-required",
        f"This needs a second factor: send `step_up` with a verified step-up.{first}",
        extra={"purpose": purpose.value, "next": f"POST {where}"},
    )


def _number(tx: CellRead, text: str) -> int:
    """The number of a step-up of this cell; one that there never is for any other name."""
    try:
        found = parse_text_id("su", text)
    except NotFound:
        return -1
    return found.id if found.cell == tx.cell else -1


def _mismatch(fault: str, detail: str) -> Unprocessable:
    return Unprocessable("step-up-mismatch", detail, extra={"fault": fault})
