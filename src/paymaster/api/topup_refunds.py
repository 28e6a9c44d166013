"""Money that is given back to a payer: by the staff, above a limit with a second person.

What becomes of it the provider says; where it says nothing, a person decides, with a proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request
from pydantic import Field
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.context import Call, Key, Operates, OwnReads
from paymaster.api.door import Door
from paymaster.api.guarded import Ready
from paymaster.api.models import Amount, Body, Reason, Reply, listing, wire
from paymaster.api.shapes import Page
from paymaster.api.shapes_staff import WAITING, ApprovalOut
from paymaster.api.shapes_topups import TopupRefundOut
from paymaster.api.topups import TopupPath, topup_of
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.payin import decide, refund, view
from paymaster.payin.decide import Finding
from paymaster.payin.view import ChargeRow, RefundRow

router = APIRouter(route_class=Door, tags=["top-ups"])
REFUND: Final = "POST /v1/topups/{topup}/refunds"


class AskRefund(Body):
    """How much; without an amount all that was not given back yet."""

    amount: Amount | None = None
    reason: Reason


def _shown(cell: int, row: RefundRow) -> dict[str, Any]:
    return {
        "id": text_id("tf", cell, row.id),
        "topup": text_id("tp", cell, row.charge_id),
        "reference": row.key,
        "amount": wire(row.money),
        "state": row.state,
        "reason": row.reason,
        "code": row.code,
        "provider_id": row.provider_id,
        "created_at": rfc3339(row.created_at),
        "ended_at": None if row.ended_at is None else rfc3339(row.ended_at),
        "trace_id": row.trace_id,
    }


async def _refunded(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    # The subject of one that waits says which request it was as well.
    cell, charge = await topup_of(call, subject.partition("/")[0])
    given = body["amount"]
    wanted = None if given is None else Money.parse(given["amount"], given["currency"])

    async def amount(tx: CellTx) -> Money | None:
        if wanted is not None:
            return wanted
        # What is left may have grown since it was read: a refund that failed is left again.
        return await refund.left_of(tx, charge.id)

    async def run(tx: CellTx) -> Mapping[str, Any]:
        return _shown(cell.number, await refund.request(tx, charge.id, wanted, body["reason"]))

    return Ready(cell, amount, run)


REFUND_ACT = guarded.Act("topup.refund", _refunded, status=202)


@router.post(
    "/v1/topups/{topup}/refunds",
    status_code=202,
    response_model=TopupRefundOut,
    responses={
        202: {"model": TopupRefundOut | ApprovalOut, "description": "Asked for, or waiting."}
    },
)
async def ask_topup_refund(
    call: Operates, request: Request, topup: TopupPath, key: Key, body: AskRefund
) -> Response:
    """Give a paid top-up back to its payer, or part of it: what is still there of it.

    The money is set aside at once. Above the limit for it the answer is an approval that waits for
    a second person.
    """
    asked = {
        "amount": None if body.amount is None else wire(body.amount.money()),
        "reason": body.reason,
    }
    route = f"{REFUND} {topup}"
    stored = StoredKey.of(call.principal.caller_id, route, key, await request.body())
    return await guarded.keyed(call, REFUND_ACT, stored, topup, asked)


@router.get("/v1/topups/{topup}/refunds", response_model=Page[TopupRefundOut])
async def list_topup_refunds(call: OwnReads, topup: TopupPath) -> Reply:
    """The refunds of a top-up, oldest first."""
    cell, charge = await topup_of(call, topup)
    found = await cell.read(lambda tx: view.refunds(tx, charge.id))
    return listing([_shown(cell.number, row) for row in found])


RefundPath = Annotated[str, Path(alias="refund", max_length=40, description="`tf_...`")]


@router.get("/v1/topups/{topup}/refunds/{refund}", response_model=TopupRefundOut)
async def get_topup_refund(call: OwnReads, topup: TopupPath, refund_id: RefundPath) -> Reply:
    """One refund of a top-up."""
    cell, charge = await topup_of(call, topup)
    return Reply(_shown(cell.number, await _of(call, cell, charge, refund_id)))


async def _of(call: Call, cell: CellDb, charge: ChargeRow, refund_id: str) -> RefundRow:
    """A refund of this top-up. Raises NotFound."""
    ref = call.ref("tf", refund_id)
    row = await cell.read(lambda tx: view.refund(tx, ref.id))
    if row is None or ref.cell != cell.number or row.charge_id != charge.id:
        raise NotFound("not-found", "There is no such refund.")
    return row


class DecideRefund(Body):
    """What became of it, and how that is known."""

    finding: Annotated[
        Literal["done", "not_done"],
        Field(description="`not_done` also drops one that waits and never left."),
    ]
    reason: Reason


async def _decided(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    topup, _, refund_id = subject.partition("/")
    cell, charge = await topup_of(call, topup)
    number = (await _of(call, cell, charge, refund_id)).id
    finding = Finding(body["finding"])

    async def run(tx: CellTx) -> Mapping[str, Any]:
        return _shown(cell.number, await decide.decide(tx, number, finding, body["reason"]))

    return Ready(cell, lambda tx: decide.at_stake(tx, number), run)


DECIDE_ACT = guarded.Act("topup_refund.decide", _decided)


@router.post(
    "/v1/topups/{topup}/refunds/{refund}/decide",
    response_model=TopupRefundOut,
    responses=WAITING,
)
async def decide_topup_refund(
    call: Operates, topup: TopupPath, refund_id: RefundPath, body: DecideRefund
) -> Response:
    """Say, with a proof, what became of a refund of which the provider says nothing.

    `done`: the payer has got the money. `not_done`: he never will under this number; the money is
    where it was. Neither is ordered again.
    """
    asked = body.model_dump(mode="json")
    return await guarded.guarded(call, DECIDE_ACT, f"{topup}/{refund_id}", asked)
