"""Four eyes: above a limit an act waits for a second person, and runs when that one approves.

Persons count, not keys: two keys of one person, or a person and a key that is theirs, are one. A
key without an owner is nobody: it can neither propose what needs two persons nor approve it.

The act waits in the schema of what it is about, with everything that it was asked with. It is
carried out in the transaction in which it is approved, so that it is never approved and not done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from paymaster.db import audit, outbox
from paymaster.db.tx import Actor, CellRead, ControlRead, ControlTx, ReadTx, Writes
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Broken, Conflict, Forbidden, NotFound, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people import four_eyes_store as store
from paymaster.people.four_eyes_machine import APPROVAL, ApprovalEvent, ApprovalState
from paymaster.people.four_eyes_store import Approval, LimitRow
from paymaster.people.principal import Principal

ACTS: dict[str, str] = {
    "withdrawal.approve": "let a withdrawal in review go",
    "withdrawal.deny": "refuse a withdrawal in review; the money is available again",
    "withdrawal.review": "pull a withdrawal back for another look",
    "withdrawal.ask_proof": "let the user of a withdrawal in review prove who they are",
    "withdrawal.hold": "freeze a withdrawal that is not sent yet",
    "withdrawal.release": "lift that again; the withdrawal is judged anew",
    "withdrawal.reverse": "book a paid withdrawal as come back",
    "withdrawal.fail": "say with a proof that an order was not executed; the money goes back",
    "withdrawal.confirm_paid": "say with a proof that an order was executed",
    "withdrawal.retry": "pay by a further order, with a proof that the one before it is dead",
    "transfer.request": "move money between our own accounts",
    "topup.refund": "give money back to a payer",
    "topup_refund.decide": "say with a proof whether a payer has got his money back",
    "break.resolve": "book money out of suspense",
    "line.retry": "match a statement line by hand, or take its difference as a fee",
    "reward.reverse": "take a reward back",
    "debt.write_off": "give up what a user owes",
    "debt.reopen": "let a user owe again what was given up",
    "task.decide": "approve work, which is rewarded at once",
}
"""The acts that limits can be set for."""

LIMITS_ACT = "four_eyes.limit"
"""Changing a limit; from the first limit on it needs a second person whatever the amount."""

STEP_UP_ACT = "step_up.policy"
"""Which acts of earners need a proof: two persons, where withdrawals are approved by two."""

RULES_ACT = "screening.rules"
"""Changing the rules of screening: whoever could alone would let go what two must approve."""

EARNING_POLICY_ACT = "earning_policy.put"
"""When earnings clear, what is kept in reserve, who bears what is lost."""

FEE_PLAN_ACT = "fee_plan.put"
"""Changing what withdrawals cost, and at which markup they are exchanged."""

RATE_ACT = "fx_rate.enter"
"""A person's entry of a rate: whoever could alone would set the price of an exchange."""

PAYOUT_POLICY_ACT = "payout_policy.put"
"""Whether another account may pay, and what is paid out to everybody without being asked for."""

RAIL_ACCOUNT_ACT = "rail_account.put"
"""Taking on or changing a rail account: its settings say where money goes, and who is asked."""

LIFT_ACT = "hold.lift"
"""Lifting a regulatory hold; it has no amount, a setting says whether it needs two persons."""

_APPROVE = "withdrawal.approve"
_AS_APPROVALS = frozenset({
    RULES_ACT, STEP_UP_ACT, FEE_PLAN_ACT, RATE_ACT, EARNING_POLICY_ACT, PAYOUT_POLICY_ACT,
})  # fmt: skip
"""Acts that need two persons where approving a withdrawal does."""

DIRECTORY = 0
"""The directory's place among the cells, in ids."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An act as it was asked for. `body` is JSON, complete: it runs later with nothing else."""

    act: str
    subject: str
    amount: Money | None
    body: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """The act was not done: it waits for a second person."""

    approval: Approval
    cell: int

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        return shown(self.cell, self.approval)


def approval_text(cell: int, approval_id: int) -> str:
    """The text id of an approval; cell 0 is the directory."""
    return text_id("ap", cell, approval_id)


def shown(cell: int, row: Approval) -> dict[str, Any]:
    """An approval for JSON."""
    money = row.money
    return {
        "approval": approval_text(cell, row.id),
        "state": row.state,
        "act": row.act,
        "subject": row.subject,
        "amount": money and {"amount": money.text(), "currency": money.currency},
        "body": row.body,
        "reason": row.reason,
        "proposer": row.proposer,
        "proposed_at": rfc3339(row.proposed_at),
        "expires_at": rfc3339(row.expires_at),
        "decider": row.decider,
        "decided_at": row.decided_at and rfc3339(row.decided_at),
        "decision_reason": row.decision_reason,
        "trace_id": row.trace_id,
    }


def _place(tx: ReadTx) -> int:
    return tx.cell if isinstance(tx, CellRead) else DIRECTORY


class Limits:
    """The limits of an environment, as they were read. Acts in `always` have no limit."""

    def __init__(self, rows: Sequence[LimitRow], always: Sequence[str] = ()) -> None:
        self.rows = list(rows)
        self.always = frozenset(always)
        self._minor = {(row.act, row.currency): row.minor for row in rows}

    def apply_to(self, act: str, amount: Money | None) -> bool:
        """Whether an act over this amount, of either sign, needs a second person."""
        if act in self.always:
            return True
        if act in (LIMITS_ACT, RAIL_ACCOUNT_ACT):
            return bool(self.rows)
        if act in _AS_APPROVALS:
            return any(row.act == _APPROVE for row in self.rows)
        if amount is None:
            return False
        limit = self._minor.get((act, amount.currency))
        return limit is not None and abs(amount.minor) > limit


async def limits(tx: ControlRead, environment_id: int) -> Limits:
    """The limits in force."""
    return Limits(await store.limits(tx, environment_id))


async def guard(
    tx: Writes, principal: Principal, limits: Limits, proposal: Proposal, lasts: timedelta
) -> Waiting | None:
    """None when the act may be done now by this one caller; else it waits, proposed by them.

    Raises Forbidden `person-needed` for a key without an owner, Conflict `approval-waiting` when
    the same act on the same thing waits already.
    """
    if not limits.apply_to(proposal.act, proposal.amount):
        return None
    if principal.person_id is None:
        raise Forbidden(
            "person-needed",
            "Above its limit this act needs two persons, and nobody in person asks for it: log in,"
            " or use a key that has an owner. On the command line name one with --person.",
        )
    return await propose(tx, principal, principal.person_id, proposal, lasts)


async def propose(
    tx: Writes, principal: Principal, person_id: int, proposal: Proposal, lasts: timedelta
) -> Waiting:
    """Let an act wait for a second person. Raises Conflict `approval-waiting`."""
    amount = proposal.amount
    row = Approval(
        tx.id(),
        principal.environment_id,
        proposal.act,
        proposal.subject,
        None if amount is None else amount.minor,
        None if amount is None else amount.currency,
        dict(proposal.body),
        digest_of(proposal.act, proposal.subject, proposal.body),
        proposal.reason,
        ApprovalState.PROPOSED.value,
        principal.actor,
        person_id,
        tx.actor.origin,
        tx.trace_id,
        tx.now,
        tx.now + lasts,
    )
    if not await store.insert(tx, row):
        known = await store.waiting(tx, row.environment_id, row.act, row.subject)
        place = approval_text(_place(tx), known or 0)
        raise Conflict(
            "approval-waiting",
            f"The same act waits for a second person already: {place}.",
            extra={"approval": place},
        )
    await _tell(tx, row, "proposed", row.reason)
    return Waiting(row, _place(tx))


def digest_of(act: str, subject: str, body: Mapping[str, Any]) -> bytes:
    """What the audit keeps of a proposal, so that what ran is provably what was proposed."""
    document = msgspec.json.encode([act, subject, dict(body)], order="sorted")
    return hashlib.sha256(document).digest()


async def take(
    tx: Writes, principal: Principal, approval_id: int, event: ApprovalEvent, reason: str
) -> Approval:
    """Decide an approval; the caller carries an approved act out in this very transaction.

    To withdraw is the proposer's, to approve or refuse another person's. Raises NotFound
    `not-found`; Conflict `illegal-move` when it was decided before, `approval-expired`; Forbidden
    `second-person-needed`; Unprocessable `reason-missing`; Broken `approval-altered`, which can be
    refused.
    """
    row = await store.lock(tx, principal.environment_id, approval_id)
    if row is None:
        raise NotFound("not-found", "There is no approval of this id.")
    move = APPROVAL.find(row.state, event)
    if event != ApprovalEvent.WITHDRAW and tx.now >= row.expires_at:
        raise Conflict("approval-expired", "Nobody approved it in time: propose it anew.")
    _check_person(principal, row, event)
    if not reason.strip():
        raise Unprocessable("reason-missing", "Say why: this decision is recorded with its reason.")
    if event == ApprovalEvent.APPROVE:
        check_unaltered(row)
    await store.decided(tx, row.id, move.target.value, principal.actor, principal.person_id, reason)
    await _tell(tx, row, move.target.value, reason)
    return row


def check_unaltered(row: Approval) -> None:
    """What is carried out is what was proposed. Raises Broken `approval-altered`."""
    if digest_of(row.act, row.subject, row.body) != row.digest:
        raise Broken("approval-altered", "What waits is not what was proposed.")


def check_amount(row: Approval, amount: Money | None) -> None:
    """What is at stake is what was proposed. Raises Conflict `approval-outdated`.

    `amount` is None where the act may not happen any more; then it says so itself.
    """
    if amount is not None and amount != row.money:
        raise Conflict(
            "approval-outdated",
            f"It is about {amount.text()} {amount.currency} by now: refuse it, propose it anew.",
        )


def _check_person(principal: Principal, row: Approval, event: ApprovalEvent) -> None:
    same = principal.person_id == row.proposer_id
    if event == ApprovalEvent.WITHDRAW and not same:
        raise Forbidden(
            "second-person-needed", "Only who proposed it can withdraw it; you can refuse it."
        )
    if event != ApprovalEvent.WITHDRAW and (principal.person_id is None or same):
        raise Forbidden(
            "second-person-needed",
            "Another person than the proposer must decide, logged in or with a key of their own.",
        )


async def expire_due(tx: Writes, limit: int) -> int:
    """End what waited too long; how many, `limit` at most."""
    rows = await store.take_expired(tx, limit)
    for row in rows:
        move = APPROVAL.find(row.state, ApprovalEvent.EXPIRE)
        await store.decided(tx, row.id, move.target.value, tx.actor.name, None, None)
        await _tell(tx, row, move.target.value, None)
    return len(rows)


async def _tell(tx: Writes, row: Approval, what: str, reason: str | None) -> None:
    """Audit with both persons, and an event for whoever shall look at it."""
    subject = approval_text(_place(tx), row.id)
    money = row.money
    detail: dict[str, Any] = {
        "act": row.act,
        "subject": row.subject,
        "amount": money and money.text(),
        "currency": money and money.currency,
        "proposer": row.proposer,
        "digest": row.digest.hex(),
    }
    actor = Actor(tx.actor.name, tx.actor.origin, row.environment_id)
    await audit.record(tx, [audit.Act(f"approval.{what}", subject, reason, detail, actor=actor)])
    payload = {"id": subject, "state": what, **detail, audit.ENVIRONMENT: row.environment_id}
    await outbox.put(tx, [outbox.Message(f"approval.{what}", subject, payload)])


async def set_limit(
    tx: ControlTx, environment_id: int, act: str, currency: str, minor: int | None, reason: str
) -> None:
    """Put a limit in force, or remove it (None). Whether one person may do it is asked before."""
    if minor is None:
        await store.drop_limit(tx, environment_id, act, currency)
    else:
        await store.put_limit(tx, environment_id, LimitRow(act, currency, minor, tx.now))
    detail = {
        "limit": None if minor is None else Money(minor, currency).text(),
        "currency": currency,
        audit.ENVIRONMENT: environment_id,
    }
    await audit.record(tx, [audit.Act(LIMITS_ACT, act, reason, detail)])


async def change_limit(
    tx: ControlTx,
    principal: Principal,
    act: str,
    currency: str,
    minor: int | None,
    reason: str,
    lasts: timedelta,
) -> Waiting | None:
    """Set or remove (None) a limit, or let that wait for a second person once there is any limit.

    Raises Unprocessable `four-eyes-act`, and as `guard` does.
    """
    if act not in ACTS:
        raise Unprocessable("four-eyes-act", f"Acts are: {', '.join(ACTS)}.")
    known = await limits(tx, principal.environment_id)
    body = {"act": act, "currency": currency, "minor": minor}
    proposal = Proposal(LIMITS_ACT, f"{act}/{currency}", None, body, reason)
    waiting = await guard(tx, principal, known, proposal, lasts)
    if waiting is None:
        await set_limit(tx, principal.environment_id, act, currency, minor, reason)
    return waiting


async def get(tx: ReadTx, environment_id: int, approval_id: int) -> Approval:
    """An approval. Raises NotFound `not-found`."""
    row = await store.find(tx, environment_id, approval_id)
    if row is None:
        raise NotFound("not-found", "There is no approval of this id.")
    return row


async def listing(
    tx: ReadTx, environment_id: int, state: ApprovalState | None, before_id: int | None, limit: int
) -> list[Approval]:
    """Approvals of one schema, newest first."""
    wanted = None if state is None else state.value
    return await store.page(tx, environment_id, wanted, before_id, limit)
