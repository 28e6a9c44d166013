"""What operators do with a withdrawal. Each act has a reason, is audited, and may need two persons.

What could not be done is answered with 409, and with who did what before and when. What is said of
an order (it failed, it was paid, it is dead and followed by another) is said with a proof, and
concerns every payment of that order: see `paymaster.dispatch.decide`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.context import Call, Operates
from paymaster.api.door import Door
from paymaster.api.guarded import Act, Make, Ready
from paymaster.api.models import Body, Reason, Text
from paymaster.api.shapes import WithdrawalOut
from paymaster.api.shapes_staff import WAITING
from paymaster.api.withdrawals import WithdrawalPath
from paymaster.db.tx import CellTx
from paymaster.dispatch import decide as by_hand
from paymaster.dispatch.decide import Finding
from paymaster.kernel.money import Money
from paymaster.withdraw import checks, moves, view
from paymaster.withdraw.machine import WITHDRAWAL, Event

router = APIRouter(route_class=Door, tags=["withdrawals"])

Decision = Callable[[CellTx, int, str], Awaitable[Any]]
Stake = Callable[[CellTx, int], Awaitable[Money | Sequence[Money] | None]]


class _Seen(Body):
    version: Annotated[
        int | None,
        Field(
            ge=1,
            description="The `version` that the operator has seen: when the withdrawal has moved "
            "since, nothing is done and the answer says what happened. What is said with a proof "
            "of a further order than the first needs it.",
        ),
    ] = None


class Decided(_Seen):
    """Why, and on seeing what."""

    reason: Reason


class Proven(_Seen):
    """What is known of an order, and how."""

    proof: Annotated[
        Text,
        StringConstraints(min_length=1, max_length=500),
        Field(
            description="How it is known: who confirmed it, when, under which reference. Kept in "
            "the audit.",
            examples=["The bank's desk, 14:05, ticket 4711: never executed, file rejected."],
        ),
    ]


def _of_event(event: Event) -> Stake:
    """What a move is about. None where it may not happen as things stand."""

    async def amount(tx: CellTx, number: int) -> Money | None:
        # Locked, or what is not possible yet becomes so before it is done, and nobody was asked.
        await moves.lock(tx, number)
        found = await view.one(tx, number)
        return found.amount if WITHDRAWAL.allows(found.row.state, event) else None

    return amount


def _of_order(finding: Finding) -> Stake:
    """What a finding is about: every payment of the order that it concerns."""
    return lambda tx, number: by_hand.at_stake(tx, number, finding)


async def _of_retry(tx: CellTx, number: int) -> Sequence[Money]:
    """Nothing is at stake in trying at once what waits; what was sent before is."""
    return await by_hand.at_stake(tx, number, Finding.AGAIN)


def _making(stake: Stake, decide: Decision) -> Make:
    """How an act is made ready. What may not happen as things stand is told why at once."""

    async def make(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
        ref = call.ref("wd", subject)

        async def amount(tx: CellTx) -> Money | Sequence[Money] | None:
            return await stake(tx, ref.id)

        async def run(tx: CellTx) -> Mapping[str, Any]:
            if body.get("version") is not None:
                await checks.require_unmoved(tx, ref.id, body["version"])
            if body.get("order") is not None:
                await by_hand.require_order(tx, ref.id, body["order"])
            await decide(tx, ref.id, body["reason"])
            return (await view.one(tx, ref.id)).wire()

        return Ready(call.cell(ref.cell), amount, run)

    return make


def _finding(finding: Finding) -> Decision:
    return lambda tx, number, proof: by_hand.of_withdrawal(tx, number, finding, proof)


APPROVE = Act("withdrawal.approve", _making(_of_event(Event.APPROVE), moves.approve))
DENY = Act("withdrawal.deny", _making(_of_event(Event.DENY), moves.deny))
REVIEW = Act("withdrawal.review", _making(_of_event(Event.REVIEW), moves.review))
ASK_PROOF = Act("withdrawal.ask_proof", _making(_of_event(Event.CHALLENGE), moves.ask_proof))
HOLD = Act("withdrawal.hold", _making(_of_event(Event.HOLD), moves.hold))
RELEASE = Act("withdrawal.release", _making(_of_event(Event.RELEASE), moves.release))
REVERSE = Act("withdrawal.reverse", _making(_of_event(Event.RETURN), moves.reverse))
FAIL = Act("withdrawal.fail", _making(_of_order(Finding.NOT_PAID), _finding(Finding.NOT_PAID)))
CONFIRM = Act("withdrawal.confirm_paid", _making(_of_order(Finding.PAID), _finding(Finding.PAID)))
RETRY = Act("withdrawal.retry", _making(_of_retry, by_hand.retry))

ACTS = (APPROVE, DENY, REVIEW, ASK_PROOF, HOLD, RELEASE, REVERSE, FAIL, CONFIRM, RETRY)
"""All of them, for the table of acts that two persons may be needed for."""


async def _reasoned(call: Call, act: Act, withdrawal: str, body: Decided) -> Response:
    return await guarded.guarded(call, act, withdrawal, {"reason": body.reason, **_seen(body)})


async def _proven(call: Call, act: Act, withdrawal: str, body: Proven) -> Response:
    """The proof is about the order that there is now, and never about one that is made later.

    Sent a second time it meets the order that followed the dead one, of which it says nothing.
    """
    ref, seen = call.ref("wd", withdrawal), body.version is not None
    order = await call.write(
        call.cell(ref.cell), lambda tx: by_hand.order_of(tx, ref.id, seen=seen)
    )
    asked = {"reason": body.proof, "order": order, **_seen(body)}
    return await guarded.guarded(call, act, withdrawal, asked)


def _seen(body: _Seen) -> dict[str, int]:
    return {} if body.version is None else {"version": body.version}


@router.post(
    "/v1/withdrawals/{withdrawal}/approve", response_model=WithdrawalOut, responses=WAITING
)
async def approve_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Decided) -> Response:
    """Let one in review go to the rail."""
    return await _reasoned(call, APPROVE, withdrawal, body)


@router.post("/v1/withdrawals/{withdrawal}/deny", response_model=WithdrawalOut, responses=WAITING)
async def deny_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Decided) -> Response:
    """Refuse it before it is sent; the money is available again."""
    return await _reasoned(call, DENY, withdrawal, body)


@router.post("/v1/withdrawals/{withdrawal}/review", response_model=WithdrawalOut, responses=WAITING)
async def review_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Decided) -> Response:
    """Pull one back that is challenged, approved or queued: a person decides."""
    return await _reasoned(call, REVIEW, withdrawal, body)


@router.post(
    "/v1/withdrawals/{withdrawal}/ask-proof", response_model=WithdrawalOut, responses=WAITING
)
async def ask_proof_of_withdrawal(
    call: Operates, withdrawal: WithdrawalPath, body: Decided
) -> Response:
    """Let the user of one in review prove who they are, by `POST .../challenge`."""
    return await _reasoned(call, ASK_PROOF, withdrawal, body)


@router.post("/v1/withdrawals/{withdrawal}/hold", response_model=WithdrawalOut, responses=WAITING)
async def hold_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Decided) -> Response:
    """Freeze it before it is sent. An authority's order is another thing: `POST /v1/holds`."""
    return await _reasoned(call, HOLD, withdrawal, body)


@router.post(
    "/v1/withdrawals/{withdrawal}/release", response_model=WithdrawalOut, responses=WAITING
)
async def release_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Decided) -> Response:
    """Lift a hold; it is judged anew."""
    return await _reasoned(call, RELEASE, withdrawal, body)


@router.post(
    "/v1/withdrawals/{withdrawal}/reverse", response_model=WithdrawalOut, responses=WAITING
)
async def reverse_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Decided) -> Response:
    """Book a paid one as come back, on the evidence named in the reason."""
    return await _reasoned(call, REVERSE, withdrawal, body)


@router.post("/v1/withdrawals/{withdrawal}/fail", response_model=WithdrawalOut, responses=WAITING)
async def fail_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Proven) -> Response:
    """Say, with a proof, that one that is unknown or sent was not executed; the money goes back.

    Of an order without an answer it concerns every payment without one: the order never goes again.
    So it does of one that is still sending, as long as nothing of its order has ever left.
    """
    return await _proven(call, FAIL, withdrawal, body)


@router.post(
    "/v1/withdrawals/{withdrawal}/confirm-paid", response_model=WithdrawalOut, responses=WAITING
)
async def confirm_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Proven) -> Response:
    """Say, with a proof, that one that is unknown or sent was paid."""
    return await _proven(call, CONFIRM, withdrawal, body)


@router.post("/v1/withdrawals/{withdrawal}/retry", response_model=WithdrawalOut, responses=WAITING)
async def retry_withdrawal(call: Operates, withdrawal: WithdrawalPath, body: Proven) -> Response:
    """Pay one that is unknown or sent by a further order, with a proof that its order is dead.

    The proof concerns the order as in `fail`. What waits for its rail is tried at once.
    """
    return await _proven(call, RETRY, withdrawal, body)
