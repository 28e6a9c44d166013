"""Payments that nobody can tell about, and what comes next; the policy by which is paid."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from paymaster.api.context import Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import WAITS, lasting, limits_of
from paymaster.api.models import Body, Reason, Reply, Text, listing, wire
from paymaster.api.shapes import MoneyOut, Page, Shape, Time
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import CellRead, ControlTx
from paymaster.dispatch import accounts, policy, unknowns
from paymaster.dispatch.policy import MOST_ORDERS, PayoutPolicy
from paymaster.dispatch.unknowns import Unknown
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.people import four_eyes
from paymaster.people.four_eyes import PAYOUT_POLICY_ACT, Proposal, Waiting
from paymaster.withdraw import automatic_schedule

router = APIRouter(route_class=Door, tags=["rail accounts"])
MOST = 200


class NextOut(Shape):
    """What happens without anybody's help: `ask`, `replay`, `wait`, `report` or `nobody`."""

    what: str
    words: str
    at: Time | None


class UnknownOut(Shape):
    """A payment without proof either way.

    `sent` if its provider took it in and says no more, `awaiting_payee` if its payee should have
    accepted it long ago. `code` is the provider's last word that named one; with `put_off` it was
    "not now", and `next` says until when the order is sent again.
    """

    id: str
    subject: str
    rail_account: str | None
    reference: str
    state: Literal["unknown", "sent", "awaiting_payee"]
    amount: MoneyOut
    since: Time
    code: str | None
    put_off: bool
    warned: int
    asked: int
    sent: int
    sent_at: Time | None
    next: NextOut


@router.get("/v1/unknown-payments", response_model=Page[UnknownOut])
async def list_unknown_payments(
    call: Reads,
    older_minutes: Annotated[
        int, Query(ge=0, le=5_256_000, description="Only those unknown for so long.")
    ] = 0,
) -> Reply:
    """Payments of which nobody knows whether they were made, the oldest 200, oldest first."""
    known = await accounts.load(call.deps.dbs, call.environment.id)
    now = await call.now()
    before = now - timedelta(minutes=older_minutes)
    silent = timedelta(hours=call.deps.settings.payouts.silent_alert_hours)

    async def work(tx: CellRead) -> list[tuple[int, Unknown]]:
        found = await unknowns.listing(tx, before, min(before, now - silent), MOST)
        return [(tx.cell, one) for one in found]

    pages = await call.everywhere(work)
    found = sorted((one for page in pages for one in page), key=lambda each: each[1].created_at)

    def shown(cell: int, one: Unknown) -> dict[str, Any]:
        account = known.get(one.rail_account_id)
        comes = unknowns.next_of(one, known, call.deps.rails, now)
        return {
            "id": text_id("at", cell, one.id),
            "subject": one.subject(cell),
            "rail_account": None if account is None else account.rail.name,
            "reference": one.key,
            "state": one.state,
            "amount": wire(one.money),
            "since": rfc3339(one.created_at),
            "code": one.doubted_no or one.code,
            "put_off": one.put_off,
            "warned": one.alerted,
            "asked": one.asked,
            "sent": one.sent,
            "sent_at": None if one.sent_at is None else rfc3339(one.sent_at),
            "next": comes.wire(),
        }

    return listing([shown(cell, one) for cell, one in found[:MOST]])


class PutPayoutPolicy(Body):
    """All of it; see `PayoutPolicy`."""

    failover: bool
    most_orders: Annotated[
        int, Field(ge=1, le=MOST_ORDERS, description="Orders for one withdrawal; then it fails.")
    ]
    tries_before_leaving: Annotated[
        int,
        Field(ge=1, le=1000, description="Calls that reach nobody before another account is used."),
    ]
    automatic: Annotated[
        dict[Text, Any],
        Field(
            default_factory=dict,
            max_length=20,
            description="By currency, what earners get who have chosen nothing: mode, minimum, "
            "every, on_day.",
            examples=[{"EUR": {"mode": "schedule", "minimum": "10.00", "every": "month"}}],
        ),
    ]
    reason: Reason


class PayoutPolicyOut(Shape):
    """How withdrawals are paid."""

    failover: bool
    most_orders: int
    tries_before_leaving: int
    automatic: dict[str, Any]
    version: int


def _wire(found: PayoutPolicy) -> dict[str, Any]:
    return {**found.wire(), "version": found.version}


@router.get("/v1/payout-policy", response_model=PayoutPolicyOut)
async def get_payout_policy(call: Reads) -> Reply:
    """Whether another account may pay with proof, and what is automatic."""
    return Reply(_wire(await call.look(lambda tx: policy.current(tx, call.environment.id))))


@router.put("/v1/payout-policy", response_model=PayoutPolicyOut, responses=WAITING)
async def put_payout_policy(call: Operates, body: PutPayoutPolicy) -> Reply:
    """Replace the policy; it counts for what is decided from now on. Safe to repeat.

    Where withdrawals are approved by two persons, this needs two as well.
    """
    automatic_schedule.defaults(body.automatic)
    limits, asked = await limits_of(call), body.model_dump(mode="json")
    proposal = Proposal(PAYOUT_POLICY_ACT, "payout-policy", None, asked, body.reason)

    async def work(tx: ControlTx) -> Waiting | Mapping[str, Any]:
        waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
        return waiting or await put_in_force(tx, call.environment.id, asked)

    done = await call.control(work)
    return Reply(done.wire(), WAITS) if isinstance(done, Waiting) else Reply(done)


async def put_in_force(
    tx: ControlTx, environment_id: int, asked: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Carry out what was asked for, at once or once it was approved."""
    body = PutPayoutPolicy.model_validate(asked)
    wanted = PayoutPolicy(
        body.failover, body.most_orders, body.tries_before_leaving, body.automatic
    )
    return _wire(await policy.replace(tx, environment_id, wanted, body.reason))
