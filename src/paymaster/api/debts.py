"""Claw-backs by the partner's event, what users owe, and what of it is given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.events import REVERSE, reverse_body
from paymaster.api.guarded import Ready
from paymaster.api.models import Amount, Body, Reason, Reasoned, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page
from paymaster.api.shapes_earnings import (
    ClawBackOut,
    DebtOut,
    EarlyReversalOut,
    UserDebtOut,
    WriteOffOut,
)
from paymaster.api.shapes_staff import WAITING
from paymaster.api.users import UserPath
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import clawback, debt
from paymaster.earn.clawback import ClawBack, EarlyRow, Fate
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people.four_eyes import Waiting
from paymaster.withdraw import holds

router = APIRouter(route_class=Door, tags=["earnings"])
DEBTS, EARLY = "/v1/debts", "/v1/reversals/early"
WriteOffPath = Annotated[str, Path(max_length=40, description="`wo_...`")]
_Id = Annotated[Text, StringConstraints(min_length=1, max_length=128)]


class TakeBack(Body):
    """What a partner takes back: of the reward that their event brought, or will bring."""

    source: Annotated[Text, StringConstraints(min_length=1, max_length=64)]
    event_id: _Id
    user: _Id
    reason: Reason
    amount: Annotated[Amount | None, Field(description="Part of it; left out: all.")] = None
    reference: Annotated[_Id | None, Field(description="The partner's; needed for a part.")] = None


@router.post("/v1/reversals", response_model=ClawBackOut, responses=WAITING)
async def take_back(call: Operates, body: TakeBack) -> Reply:
    """Take back what an event brought, also before the event comes: then it earns nothing.

    Safe to repeat: the same claw-back takes nothing twice. It is kept too while the user is under a
    regulatory hold: nothing is taken until that is lifted.
    """
    ref = await call.user(call.name(body.user))
    cell = call.cell(ref.cell)
    amount = body.amount.money() if body.amount is not None else None
    command = ClawBack(body.source, body.event_id, ref.id, body.reason, amount, body.reference)
    number = await call.write(cell, lambda tx: clawback.keep(tx, command))
    if number is None:
        return Reply({"state": Fate.KEPT.value, "reward": None})
    reward = text_id("rw", ref.cell, number)
    asked = reverse_body(body.reason, amount, body.reference)
    made, limits = await REVERSE.make(call, reward, asked), await guarded.limits_of(call)

    async def run(tx: CellTx) -> Mapping[str, Any]:
        if await holds.held_users(tx, [ref.id]):
            await clawback.hold_back(tx, command)
            return {}
        return await made.run(tx)

    ready = replace(made, run=run)
    done = await call.write(
        cell, lambda tx: guarded.perform(call, tx, limits, REVERSE, ready, reward, asked)
    )
    if isinstance(done, Waiting):
        return Reply(done.wire(), guarded.WAITS)
    if not done:
        return Reply({"state": Fate.KEPT.value, "reward": None})
    return Reply({"state": Fate.REVERSED.value, "reward": done})


@router.get(EARLY, response_model=Page[EarlyReversalOut])
async def list_early(call: Reads, page: Paged) -> Reply:
    """Claw-backs that wait for their event or reward, or that cannot be taken now, in all cells."""
    position = page.after(call, EARLY, {})
    cell, *rest = position or (-1,)
    after = cast("tuple[str, str, str]", tuple(rest)) if rest else None

    async def work(tx: CellRead) -> list[tuple[int, EarlyRow]]:
        if tx.cell < cast("int", cell):
            return []
        begin = after if tx.cell == cell else None
        return [(tx.cell, row) for row in await clawback.waiting(tx, begin, page.limit)]

    parts = await call.everywhere(work)
    rows = sorted(row for part in parts for row in part)[: page.limit]
    last = (rows[-1][0], *rows[-1][1][:3]) if len(rows) == page.limit else None
    data = [
        {
            "source": row.source,
            "event_id": row.event_id,
            "reference": row.reference,
            "user": text_id("us", number, row.user_id),
            "amount": row.amount and row.asset and wire(Money(row.amount, row.asset)),
            "reason": row.reason,
            "received_at": rfc3339(row.received_at),
        }
        for number, row in rows
    ]
    return listing(data, next_cursor(call, EARLY, {}, last))


@router.get(DEBTS, response_model=Page[DebtOut])
async def list_debts(call: Reads, page: Paged) -> Reply:
    """What users owe, over all cells, with its age and the reversals that made it."""
    position = page.after(call, DEBTS, {})
    cell, *rest = position or (-1,)
    after = cast("tuple[int, str]", tuple(rest)) if rest else None

    async def work(tx: CellRead) -> list[tuple[tuple[int, int, str], dict[str, Any]]]:
        if tx.cell < cast("int", cell):
            return []
        found = await debt.listing(tx, after if tx.cell == cell else None, page.limit)
        return [
            ((tx.cell, one.user_id, one.owed.currency), one.wire(tx.cell, tx.now)) for one in found
        ]

    parts = await call.everywhere(work)
    rows = sorted((row for part in parts for row in part), key=lambda row: row[0])[: page.limit]
    last = rows[-1][0] if len(rows) == page.limit else None
    return listing([row[1] for row in rows], next_cursor(call, DEBTS, {}, last))


@router.get("/v1/users/{user}/debt", response_model=UserDebtOut)
async def get_debt(call: Reads, user: UserPath) -> Reply:
    """What a user owes and since when, and what of it was given up before."""
    ref = await call.user(user)

    async def work(tx: CellRead) -> dict[str, Any]:
        return {
            "debts": [one.wire(tx.cell, tx.now) for one in await debt.of_user(tx, ref.id)],
            "write_offs": [one.wire(tx.cell) for one in await debt.written_off(tx, ref.id)],
        }

    return Reply(await call.cell(ref.cell).read(work))


class GiveUp(Body):
    """How much of a debt is given up, and why."""

    amount: Amount
    reason: Reason


async def _write_off(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    ref = call.ref("us", subject)
    asked = Money.parse(body["amount"]["amount"], body["amount"]["currency"])

    async def amount(tx: CellTx) -> Money | None:  # noqa: ARG001 - it is what is asked for
        return asked

    async def run(tx: CellTx) -> Mapping[str, Any]:
        return (await debt.write_off(tx, ref.id, asked, body["reason"])).wire(tx.cell)

    return Ready(call.cell(ref.cell), amount, run)


async def _reopen(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    ref = call.ref("wo", subject)

    async def amount(tx: CellTx) -> Money | None:
        found = await debt.get(tx, ref.id)
        return None if found.undone else found.amount

    async def run(tx: CellTx) -> Mapping[str, Any]:
        found = await debt.get(tx, ref.id)
        if not found.undone:
            await holds.require_free_user(tx, found.rows[0].user_id)
        return (await debt.undo(tx, ref.id, body["reason"])).wire(tx.cell)

    return Ready(call.cell(ref.cell), amount, run)


WRITE_OFF = guarded.Act("debt.write_off", _write_off)
REOPEN = guarded.Act("debt.reopen", _reopen)


@router.post("/v1/users/{user}/debt/write-off", response_model=WriteOffOut, responses=WAITING)
async def write_off(call: Operates, user: UserPath, body: GiveUp) -> Response:
    """Give up (part of) what a user owes; who bears it is what the policies of the rewards say."""
    ref = await call.user(user)
    subject = text_id("us", ref.cell, ref.id)
    return await guarded.guarded(call, WRITE_OFF, subject, body.model_dump(mode="json"))


@router.post("/v1/write-offs/{write_off}/undo", response_model=WriteOffOut, responses=WAITING)
async def undo_write_off(call: Operates, write_off: WriteOffPath, body: Reasoned) -> Response:
    """The money comes after all: it is owed again, and paid back from what the user has by now."""
    return await guarded.guarded(call, REOPEN, write_off, {"reason": body.reason})
