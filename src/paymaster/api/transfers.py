"""The company's own money between two of its accounts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.context import Call, Key, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import Ready
from paymaster.api.models import Amount, Body, Reason, Reasoned, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page
from paymaster.api.shapes_operate import TransferOut
from paymaster.api.shapes_staff import ApprovalOut
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.tx import CellTx
from paymaster.dispatch import accounts, transfer
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.transfer import Order
from paymaster.dispatch.transfer_store import Transfer
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.money import Money

router = APIRouter(route_class=Door, tags=["transfers"])
LIST = "/v1/transfers"
REQUEST = "POST /v1/transfers"
TransferPath = Annotated[str, Path(max_length=40, description="`tr_...`")]
_AccountName = Annotated[Text, StringConstraints(min_length=1, max_length=40)]


class AskTransfer(Body):
    """Names of two rail accounts of one currency."""

    source: Annotated[_AccountName, Field(alias="from")]
    target: Annotated[_AccountName, Field(alias="to")]
    amount: Amount
    reason: Reason


async def _requested(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:  # noqa: ARG001
    known = await accounts.load(call.deps.dbs, call.environment.id)
    numbers = {account.rail.name: account.id for account in known.values()}
    money = Money.parse(body["amount"]["amount"], body["amount"]["currency"])
    order = Order(numbers.get(body["from"], 0), numbers.get(body["to"], 0), money, body["reason"])

    async def amount(tx: CellTx) -> Money | None:  # noqa: ARG001 - of another act it is in the rows
        return money if transfer.fault(order, known, call.deps.rails) is None else None

    async def run(tx: CellTx) -> Mapping[str, Any]:
        [made] = await transfer.request(tx, known, call.deps.rails, [order])
        if made.transfer_id is None:
            raise Unprocessable(made.slug or "", made.detail or "")
        return _shown(call, known, await transfer.find(tx, made.transfer_id))

    return Ready(call.treasury, amount, run)


REQUEST_ACT = guarded.Act("transfer.request", _requested, status=202)


@router.post(
    LIST,
    status_code=202,
    response_model=TransferOut,
    responses={202: {"model": TransferOut | ApprovalOut, "description": "Asked for, or waiting."}},
)
async def ask_transfer(call: Operates, request: Request, key: Key, body: AskTransfer) -> Response:
    """Move money from one of our accounts to another, by a payment of our own.

    It leaves with the source account's next window, and counts when statements show it. Above the
    limit for it the answer is an approval that waits for a second person.
    """
    asked = body.model_dump(mode="json", by_alias=True)
    asked["amount"] = wire(body.amount.money())
    stored = StoredKey.of(call.principal.caller_id, REQUEST, key, await request.body())
    return await guarded.keyed(call, REQUEST_ACT, stored, f"{body.source}>{body.target}", asked)


def _shown(call: Call, known: dict[int, PayoutAccount], row: Transfer) -> dict[str, Any]:
    return {
        "id": call.control_text("tr", row.id),
        "from_account": known[row.from_account_id].rail.name,
        "to_account": known[row.to_account_id].rail.name,
        "amount": wire(row.money),
        "state": row.state,
        "reason": row.reason,
        "actor": row.actor,
        "created_at": rfc3339(row.created_at),
        "trace_id": row.trace_id,
    }


@router.get("/v1/transfers/{transfer_id}", response_model=TransferOut)
async def get_transfer(call: Reads, transfer_id: TransferPath) -> Reply:
    """A transfer."""
    number = call.control_id("tr", transfer_id)
    known = await accounts.load(call.deps.dbs, call.environment.id)
    row = await call.treasury.read(lambda tx: transfer.find(tx, number))
    return Reply(_shown(call, known, row))


@router.get(LIST, response_model=Page[TransferOut])
async def list_transfers(call: Reads, page: Paged) -> Reply:
    """Transfers, newest first."""
    position = page.after(call, LIST, {})
    before = cast("int", position[0]) if position else None
    known = await accounts.load(call.deps.dbs, call.environment.id)
    rows = await call.treasury.read(lambda tx: transfer.listing(tx, before, page.limit))
    last = (rows[-1].id,) if len(rows) == page.limit else None
    data = [_shown(call, known, row) for row in rows]
    return listing(data, next_cursor(call, LIST, {}, last))


@router.post("/v1/transfers/{transfer_id}/cancel", response_model=TransferOut)
async def cancel_transfer(call: Operates, transfer_id: TransferPath, body: Reasoned) -> Reply:
    """Take a transfer back before it is sent."""
    number = call.control_id("tr", transfer_id)
    known = await accounts.load(call.deps.dbs, call.environment.id)
    row = await call.write(call.treasury, lambda tx: transfer.cancel(tx, number, body.reason))
    return Reply(_shown(call, known, row))
