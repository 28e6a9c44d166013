"""What is paid out to an earner without being asked for each time."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api.context import Call, OwnReads, OwnWithdrawals
from paymaster.api.door import Door
from paymaster.api.factors import StepUpId
from paymaster.api.models import Amount, Body, Reply, Text, wire
from paymaster.api.shapes import MoneyOut, Shape, Time
from paymaster.api.stepup import by
from paymaster.api.users import UserPath
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, Problem, Unprocessable
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.kernel.money import MAX_MINOR, Money, exponent
from paymaster.people.factors import policy
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.proof import Shown
from paymaster.withdraw import automatic
from paymaster.withdraw.automatic import Choice, Row
from paymaster.withdraw.automatic_schedule import Plan

router = APIRouter(route_class=Door, tags=["withdrawals"])
LIST = "/v1/users/{user}/automatic-payout"


class PutAutomatic(Body):
    """The choice in the currency of `minimum`."""

    mode: Literal["off", "threshold", "schedule"]
    minimum: Annotated[
        Amount,
        Field(description="The threshold, or what a schedule must find at least; before fees."),
    ]
    at_most: Annotated[
        Amount | None, Field(description="What goes at most at once; what a step-up confirms.")
    ] = None
    destination: Annotated[
        Text | None, StringConstraints(max_length=40), Field(description="`de_...`.")
    ] = None
    every: Annotated[
        Literal["day", "week", "month"] | None, Field(description="For a schedule.")
    ] = None
    on_day: Annotated[
        int | None,
        Field(ge=1, le=31, description="Of the week (1 is Monday) or of the month."),
    ] = None
    step_up: StepUpId | None = None


class SkippedOut(Shape):
    """Why the last one was not made."""

    reason: str
    message: str


class AutomaticOut(Shape):
    """What is automatic in a currency. `own`: chosen by the earner, not the default."""

    currency: str
    mode: str
    minimum: MoneyOut
    at_most: MoneyOut | None
    destination: str | None
    every: str | None
    on_day: int | None
    own: bool
    next_at: Time | None
    last_at: Time | None
    last_withdrawal: str | None
    skipped: SkippedOut | None


class AutomaticListOut(Shape):
    """All currencies in which something is chosen or by default."""

    data: list[AutomaticOut]


def _shown(cell: int, row: Row) -> dict[str, Any]:
    skipped = None
    if row.last_slug is not None:
        skipped = {"reason": row.last_slug, "message": row.last_detail or ""}
    return {
        "currency": row.asset,
        "mode": row.mode,
        "minimum": wire(Money(row.minimum, row.asset)),
        "at_most": None if row.at_most is None else wire(Money(row.at_most, row.asset)),
        "destination": None
        if row.destination_id is None
        else text_id("de", cell, row.destination_id),
        "every": row.every,
        "on_day": row.on_day,
        "own": row.own,
        "next_at": rfc3339(row.due_at) if row.due_at and row.mode == "schedule" else None,
        "last_at": None if row.last_at is None else rfc3339(row.last_at),
        "last_withdrawal": None
        if row.last_withdrawal_id is None
        else text_id("wd", cell, row.last_withdrawal_id),
        "skipped": skipped,
    }


@router.get(LIST, response_model=AutomaticListOut)
async def get_automatic(call: OwnReads, user: UserPath) -> Reply:
    """What is paid out without being asked for, by currency; why the last one was skipped."""
    ref = await call.user(user)
    rows = await call.cell(ref.cell).read(lambda tx: automatic.listing(tx, ref.id))
    return Reply({"data": [_shown(ref.cell, row) for row in rows]})


@router.put(LIST, response_model=AutomaticOut)
async def put_automatic(call: OwnWithdrawals, user: UserPath, body: PutAutomatic) -> Reply:
    """Choose what is paid out by itself in a currency, or that nothing is. Safe to repeat.

    Where a withdrawal of `at_most` (of any amount, without it) needs a second factor, so does this:
    a step-up for a withdrawal of `at_most` to the destination.
    """
    ref = await call.user(user)
    minimum = body.minimum.money()
    most = None if body.at_most is None else body.at_most.money()
    if most is not None and most.currency != minimum.currency:
        problems = [Problem("/at_most", "It is in the currency of the minimum.")]
        raise Unprocessable("automatic-invalid", "Write one currency.", problems=problems)
    plan = Plan(body.mode, minimum, most, body.every, body.on_day)
    choice = Choice(plan, _destination(ref, body.destination))
    shown = await _asked(call, plan, body.step_up)

    async def work(tx: CellTx) -> Row:
        return await automatic.choose(tx, ref.id, choice, shown)

    return Reply(_shown(ref.cell, await call.write(call.cell(ref.cell), work)))


async def _asked(call: Call, plan: Plan, step_up: str | None) -> Shown:
    if plan.mode == "off":
        return Shown(required=False)
    steps = await call.look(lambda tx: policy.current(tx, call.environment.id))
    minor = MAX_MINOR if plan.at_most is None else plan.at_most.minor
    required = steps.requires(Purpose.WITHDRAWAL, by(call), plan.minimum.currency, minor)
    return Shown(required, step_up)


def _destination(ref: Ref, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        found = parse_text_id("de", text)
    except NotFound:
        return 0
    return found.id if found.cell == ref.cell else 0


@router.delete(LIST, status_code=204)
async def delete_automatic(
    call: OwnWithdrawals,
    user: UserPath,
    currency: Annotated[Text, Query(max_length=12, examples=["EUR"])],
) -> Response:
    """Forget the choice in a currency; the environment's default holds again."""
    ref = await call.user(user)
    exponent(currency)

    async def work(tx: CellTx) -> None:
        await automatic.forget(tx, ref.id, currency)

    await call.write(call.cell(ref.cell), work)
    return Response(status_code=204)
