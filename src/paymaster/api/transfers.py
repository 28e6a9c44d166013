"""The company's own money between two of its accounts."""

from __future__ import annotations

from typing import Annotated, Any, cast

import msgspec
from fastapi import APIRouter, Path, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api.context import Call, Key, Operates
from paymaster.api.door import Door
from paymaster.api.idempotent import replied
from paymaster.api.models import Amount, Body, Reason, Reasoned, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.problems import problem_of
from paymaster.api.shapes import Page
from paymaster.api.shapes_operate import TransferOut
from paymaster.db import idempotency
from paymaster.db.idempotency import Answer
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.tx import CellTx
from paymaster.dispatch import accounts, transfer
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.transfer import Order
from paymaster.dispatch.transfer_store import Transfer
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Unprocessable

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


@router.post(LIST, status_code=202, response_model=TransferOut)
async def ask_transfer(call: Operates, request: Request, key: Key, body: AskTransfer) -> Response:
    """Move money from one of our accounts to another, by a payment of our own.

    It leaves with the source account's next window, and counts when statements show it.
    """
    amount = body.amount.money()
    known = await accounts.load(call.deps.dbs, call.environment.id)
    numbers = {account.rail.name: account.id for account in known.values()}
    order = Order(numbers.get(body.source, 0), numbers.get(body.target, 0), amount, body.reason)
    stored = StoredKey.of(call.credential.id, REQUEST, key, await request.body())

    async def work(tx: CellTx) -> Answer:
        before = await idempotency.begin(tx, stored)
        if before is not None:
            return before
        [made] = await transfer.request(tx, known, call.deps.rails, [order])
        if made.transfer_id is None:
            error = Unprocessable(made.slug or "", made.detail or "")
            problem = problem_of(
                error, errors_url=call.deps.settings.api.errors_url, trace_id=call.trace_id
            )
            answer = Answer(problem.status, problem.body)
        else:
            row = await transfer.find(tx, made.transfer_id)
            answer = Answer(202, msgspec.json.encode(_shown(call, known, row)))
        await idempotency.finish(tx, stored, answer)
        return answer

    return replied(await call.write(call.treasury, work))


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
async def get_transfer(call: Operates, transfer_id: TransferPath) -> Reply:
    """A transfer."""
    number = call.control_id("tr", transfer_id)
    known = await accounts.load(call.deps.dbs, call.environment.id)
    row = await call.treasury.read(lambda tx: transfer.find(tx, number))
    return Reply(_shown(call, known, row))


@router.get(LIST, response_model=Page[TransferOut])
async def list_transfers(call: Operates, page: Paged) -> Reply:
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
