"""Acts that wait for a second person, and the limits above which they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query
from pydantic import Field

from paymaster.api import (
    debts,
    earning_policies,
    events,
    holds,
    rails,
    rates,
    reconciliation,
    screening,
    stepup,
    tasks,
    topup_refunds,
    transfers,
    unknowns,
    withdrawal_acts,
)
from paymaster.api.context import Call, Operates, Reads, Staff
from paymaster.api.door import Door
from paymaster.api.guarded import Act, in_currency_of, lasting, limits_of
from paymaster.api.models import Amount, Body, Reason, Reasoned, Reply, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page
from paymaster.api.shapes_staff import WAITING, ApprovalOut, DecidedOut, LimitsOut
from paymaster.db.tx import CellRead, CellTx, ControlTx, ReadTx, Writes
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Problem, Unprocessable
from paymaster.kernel.ids import Ref, parse_text_id
from paymaster.kernel.money import exponent
from paymaster.people import four_eyes
from paymaster.people.four_eyes import (
    DIRECTORY,
    EARNING_POLICY_ACT,
    FEE_PLAN_ACT,
    LIMITS_ACT,
    PAYOUT_POLICY_ACT,
    RAIL_ACCOUNT_ACT,
    RATE_ACT,
    RULES_ACT,
    STEP_UP_ACT,
)
from paymaster.people.four_eyes_machine import ApprovalEvent, ApprovalState
from paymaster.people.four_eyes_store import Approval, LimitRow

router = APIRouter(route_class=Door, tags=["approvals"])
LIST, LIMITS = "/v1/approvals", "/v1/four-eyes-limits"
ApprovalPath = Annotated[str, Path(max_length=40, description="`ap_...`")]
ActPath = Annotated[str, Path(max_length=40, examples=["transfer.request"])]
CurrencyPath = Annotated[str, Path(max_length=12, examples=["EUR"])]

ACTS: dict[str, Act] = {
    act.name: act
    for act in (
        *withdrawal_acts.ACTS,
        transfers.REQUEST_ACT,
        topup_refunds.REFUND_ACT,
        topup_refunds.DECIDE_ACT,
        reconciliation.RESOLVE,
        reconciliation.RETRY,
        events.REVERSE,
        debts.WRITE_OFF,
        debts.REOPEN,
        tasks.DECIDE,
    )
}
"""How each act on money is carried out once it is approved."""

_WITHOUT_LIMIT: dict[str, Act] = {holds.LIFT.name: holds.LIFT}
"""Acts that have no amount, and wait in a cell as those do."""


class SetLimit(Body):
    """Above this amount the act needs a second person; zero: always."""

    limit: Annotated[Amount, Field(description="In the currency of the address.")]
    reason: Reason


def _limit(row: LimitRow) -> dict[str, Any]:
    return {"act": row.act, "limit": wire(row.money), "changed_at": rfc3339(row.changed_at)}


@router.get(LIMITS, response_model=LimitsOut)
async def list_limits(call: Reads) -> Reply:
    """The limits in force, and the acts that there can be limits for."""
    found = await call.look(lambda tx: four_eyes.limits(tx, call.environment.id))
    return Reply({"data": [_limit(row) for row in found.rows], "acts": four_eyes.ACTS})


@router.put(f"{LIMITS}/{{act}}/{{currency}}", response_model=LimitsOut, responses=WAITING)
async def put_limit(call: Staff, act: ActPath, currency: CurrencyPath, body: SetLimit) -> Reply:
    """Set a limit. From the first one on, setting and removing need a second person."""
    limit = body.limit.money()
    if limit.currency != currency or limit.minor < 0:
        raise Unprocessable(
            "four-eyes-limit",
            "A limit is not negative, and in the currency of its address.",
            problems=[Problem("/limit", f"Write an amount of {currency[:12]} from zero on.")],
        )
    return await _change(call, act, currency, limit.minor, body.reason)


@router.post(f"{LIMITS}/{{act}}/{{currency}}/remove", response_model=LimitsOut, responses=WAITING)
async def remove_limit(call: Staff, act: ActPath, currency: CurrencyPath, body: Reasoned) -> Reply:
    """Remove a limit; needs a second person."""
    return await _change(call, act, currency, None, body.reason)


async def _change(call: Call, act: str, currency: str, minor: int | None, reason: str) -> Reply:
    exponent(currency)
    await limits_of(call)
    waiting = await call.control(
        lambda tx: four_eyes.change_limit(
            tx, call.principal, act, currency, minor, reason, lasting(call)
        )
    )
    return await list_limits(call) if waiting is None else Reply(waiting.wire(), 202)


def _place(call: Call, text: str) -> Ref:
    """Where an approval is. Raises NotFound."""
    found = parse_text_id("ap", text)
    if found.cell != DIRECTORY:
        call.cell(found.cell)
    return found


@router.get(LIST, response_model=Page[ApprovalOut])
async def list_approvals(
    call: Reads, page: Paged, state: Annotated[ApprovalState | None, Query()] = None
) -> Reply:
    """Acts that wait for a second person, or did; newest first."""
    filters = {"state": state.value if state else None}
    position = page.after(call, LIST, filters)
    before = cast("int", position[0]) if position else None
    taken = cast("int", position[1]) if position else 0

    async def work(tx: ReadTx) -> list[tuple[int, int, Approval]]:
        # The list is ordered by (id, cell): an equal id in a lower cell comes after it.
        cell = tx.cell if isinstance(tx, CellRead) else DIRECTORY
        bound = None if before is None else before + (1 if cell < taken else 0)
        found = await four_eyes.listing(tx, call.environment.id, state, bound, page.limit)
        return [(row.id, cell, row) for row in found]

    parts = [await call.look(work), *(await call.everywhere(work))]
    rows = sorted((row for part in parts for row in part), key=lambda row: row[:2], reverse=True)[
        : page.limit
    ]
    last = rows[-1][:2] if len(rows) == page.limit else None
    data = [four_eyes.shown(cell, row) for _, cell, row in rows if _may_know(call, row)]
    return listing(data, next_cursor(call, LIST, filters, last))


def _may_know(call: Call, row: Approval) -> bool:
    """Whether an approval is for the caller: one that lifts a hold tells that there is one."""
    return call.principal.reads_holds or row.act != holds.LIFT.name


@router.get("/v1/approvals/{approval}", response_model=ApprovalOut)
async def get_approval(call: Reads, approval: ApprovalPath) -> Reply:
    """One of them."""
    ref = _place(call, approval)

    async def work(tx: ReadTx) -> Approval:
        return await four_eyes.get(tx, call.environment.id, ref.id)

    found = await (call.look(work) if ref.cell == DIRECTORY else call.cell(ref.cell).read(work))
    if not _may_know(call, found):
        raise NotFound("not-found", "There is no such approval.")
    return Reply(four_eyes.shown(ref.cell, found))


@router.post("/v1/approvals/{approval}/approve", response_model=DecidedOut)
async def approve(call: Operates, approval: ApprovalPath, body: Reasoned) -> Reply:
    """Be the second person: the act is carried out, or this answers why it cannot be."""
    ref = _place(call, approval)
    await limits_of(call, deciding=True)
    if ref.cell == DIRECTORY:
        return await _approve_setting(call, ref, body.reason)
    waiting = await call.cell(ref.cell).read(
        lambda tx: four_eyes.get(tx, call.environment.id, ref.id)
    )
    four_eyes.check_unaltered(waiting)
    act = (ACTS | _WITHOUT_LIMIT)[waiting.act]
    call.principal.require(act.scope)
    ready = await act.make(call, waiting.subject, waiting.body)

    async def work(tx: CellTx) -> Mapping[str, Any]:
        row = await _taken(call, tx, ref, ApprovalEvent.APPROVE, body.reason)
        four_eyes.check_amount(row, in_currency_of(row, await ready.amount(tx)))
        result = await ready.run(tx)
        return await _decided(tx, call, ref, row, result)

    return Reply(await call.write(ready.cell, work))


async def _approve_setting(call: Call, ref: Ref, reason: str) -> Reply:
    async def work(tx: ControlTx) -> Mapping[str, Any]:
        row = await _taken(call, tx, ref, ApprovalEvent.APPROVE, reason)
        asked, result = row.body, dict[str, Any]()
        if row.act == RULES_ACT:
            result |= await screening.put_in_force(tx, row.environment_id, asked)
        elif row.act == STEP_UP_ACT:
            made = await stepup.replace_policy(tx, row.environment_id, asked)
            result["rules"] = [rule.wire() for rule in made.rules]
        elif row.act == RAIL_ACCOUNT_ACT:
            account, _ = await rails.put_account(call, tx, row.subject, asked)
            result |= rails.shown(call, account)
        elif row.act == EARNING_POLICY_ACT:
            result |= await earning_policies.put_in_force(
                tx, row.environment_id, row.subject, asked
            )
        elif row.act == PAYOUT_POLICY_ACT:
            result |= await unknowns.put_in_force(tx, row.environment_id, asked)
        elif row.act == FEE_PLAN_ACT:
            result |= await rates.put_in_force(tx, row.environment_id, row.subject, asked)
        elif row.act == RATE_ACT:
            result |= await rates.enter(call, tx, asked)
        else:
            call.principal.require("staff")
            await four_eyes.set_limit(
                tx, row.environment_id, asked["act"], asked["currency"], asked["minor"], row.reason
            )
        return await _decided(tx, call, ref, row, result)

    done = await call.control(work)
    if done["approval"]["act"] == EARNING_POLICY_ACT:
        await earning_policies.tell_cells(call)
    return Reply(done)


async def _taken(call: Call, tx: Writes, ref: Ref, event: ApprovalEvent, reason: str) -> Approval:
    return await four_eyes.take(tx, call.principal, ref.id, event, reason)


async def _decided(
    tx: ReadTx, call: Call, ref: Ref, row: Approval, result: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    after = await four_eyes.get(tx, call.environment.id, row.id)
    return {"approval": four_eyes.shown(ref.cell, after), "result": result}


@router.post("/v1/approvals/{approval}/refuse", response_model=DecidedOut)
async def refuse(call: Operates, approval: ApprovalPath, body: Reasoned) -> Reply:
    """Say no: the act is not done."""
    return await _end(call, approval, ApprovalEvent.REFUSE, body.reason)


@router.post("/v1/approvals/{approval}/withdraw", response_model=DecidedOut)
async def withdraw(call: Operates, approval: ApprovalPath, body: Reasoned) -> Reply:
    """Take back what one has proposed oneself."""
    return await _end(call, approval, ApprovalEvent.WITHDRAW, body.reason)


async def _end(call: Call, approval: str, event: ApprovalEvent, reason: str) -> Reply:
    ref = _place(call, approval)
    await limits_of(call, deciding=True)

    async def work(tx: Any) -> Mapping[str, Any]:
        row = await _taken(call, tx, ref, event, reason)
        if row.act == LIMITS_ACT:
            call.principal.require("staff")
        return await _decided(tx, call, ref, row, None)

    done = await (
        call.control(work) if ref.cell == DIRECTORY else call.write(call.cell(ref.cell), work)
    )
    return Reply(done)
