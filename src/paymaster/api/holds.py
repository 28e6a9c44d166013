"""Regulatory holds: placed and lifted by staff with the scope `risk`. Earners see none.

Reading them has a scope of its own: whatever may read everything else is often a screen of the app.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api.context import Call, Holds, Risk
from paymaster.api.door import Door
from paymaster.api.guarded import Act, Ready, answer_of, limits_of, perform
from paymaster.api.models import Body, Reason, Reasoned, Reply, Text, listing
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page, Shape, Time
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.kernel.ids import Ref, parse_reference
from paymaster.kernel.money import Money
from paymaster.people.four_eyes import LIFT_ACT, Limits
from paymaster.withdraw import holds

router = APIRouter(route_class=Door, tags=["holds"])
LIST = "/v1/holds"
HoldPath = Annotated[str, Path(max_length=40, description="`lh_...`")]
Subject = Annotated[
    Text,
    StringConstraints(max_length=40),
    Field(
        description="A user, a destination or a withdrawal: `us_...`, `de_...`, `wd_...`.",
        examples=["us_0100000000000ZZ"],
    ),
]


class HoldOut(Shape):
    """An order of an authority, and what is frozen under it.

    `covers` are other destinations of the same account details, of whomever, as far as they are in
    the cell of the subject; the first 100 of them.
    """

    id: str
    subject: str
    subject_kind: str
    covers: list[str]
    user: str
    reference: str
    reason: str
    state: str
    placed_by: str
    placed_at: Time
    lifted_by: str | None
    lift_reason: str | None
    lifted_at: Time | None
    trace_id: str


class PlaceHold(Body):
    """Freeze a subject under the authority's own reference."""

    subject: Subject
    reference: Annotated[
        Text,
        StringConstraints(min_length=1, max_length=200),
        Field(description="The order's reference.", examples=["AG Musterstadt 12 Gs 345/26"]),
    ]
    reason: Reason


def _subject(call: Call, text: str) -> tuple[str, Ref]:
    """What is to be held, and where it is. Raises NotFound, Unprocessable `hold-subject`."""
    prefix, _, tail = text.partition("_")
    if prefix not in holds.PREFIXES or parse_reference(tail) is None:
        raise Unprocessable(
            "hold-subject",
            "A user, a destination or a withdrawal can be held.",
            problems=[Problem("/subject", "Write an id: us_..., de_... or wd_...")],
        )
    return holds.PREFIXES[prefix], call.ref(prefix, text)


@router.post(LIST, response_model=HoldOut, status_code=201)
async def place_hold(call: Risk, body: PlaceHold) -> Reply:
    """Freeze a user, a destination or a withdrawal: nothing moves until every hold is lifted.

    What is under way at the rail goes on, as the provider says. The user is told nothing.
    """
    kind, ref = _subject(call, body.subject)

    async def work(tx: CellTx) -> dict[str, Any]:
        return await holds.wire(
            tx, await holds.place(tx, kind, ref.id, body.reference, body.reason)
        )

    return Reply(await call.write(call.cell(ref.cell), work), 201)


@router.get(LIST, response_model=Page[HoldOut])
async def list_holds(
    call: Holds,
    page: Paged,
    state: Annotated[Literal["open", "lifted"] | None, Query()] = None,
    subject: Annotated[Text | None, Query(max_length=40)] = None,
) -> Reply:
    """Regulatory holds, newest first: open ones, lifted ones or all; of one subject or of all."""
    filters = {"state": state, "subject": subject}
    position = page.after(call, LIST, filters)
    last = cast("int", position[0]) if position else None
    taken = cast("int", position[1]) if position else 0
    is_open = None if state is None else state == "open"
    wanted = None if subject is None else _subject(call, subject)[1]

    async def work(tx: CellRead) -> list[tuple[int, int, dict[str, Any]]]:
        if wanted is not None and wanted.cell != tx.cell:
            return []
        # The list is ordered by (id, cell): an equal id in a lower cell comes after it.
        below = None if last is None else last + (1 if tx.cell < taken else 0)
        found = await holds.listing(
            tx, is_open, subject_id=wanted and wanted.id, below=below, limit=page.limit
        )
        told = await holds.wires(tx, found)
        return [(row.id, tx.cell, one) for row, one in zip(found, told, strict=True)]

    parts = await call.everywhere(work)
    rows = sorted((row for part in parts for row in part), key=lambda row: row[:2], reverse=True)
    rows = rows[: page.limit]
    end = rows[-1][:2] if len(rows) == page.limit else None
    return listing([one for *_, one in rows], next_cursor(call, LIST, filters, end))


@router.get("/v1/holds/{hold}", response_model=HoldOut)
async def get_hold(call: Holds, hold: HoldPath) -> Reply:
    """One of them."""
    ref = call.ref("lh", hold)

    async def work(tx: CellRead) -> dict[str, Any]:
        return await holds.wire(tx, await holds.get(tx, ref.id))

    return Reply(await call.cell(ref.cell).read(work))


async def _making(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    ref = call.ref("lh", subject)

    async def amount(tx: CellTx) -> Money | None:
        # What is lifted already, or never was there, is told at once.
        row = await holds.get(tx, ref.id)
        if row.lifted_at is not None:
            await holds.lift(tx, ref.id, body["reason"])
        return None

    async def run(tx: CellTx) -> Mapping[str, Any]:
        return await holds.wire(tx, await holds.lift(tx, ref.id, body["reason"]))

    return Ready(call.cell(ref.cell), amount, run)


LIFT = Act(LIFT_ACT, _making, scope="risk")
"""How a hold is lifted, at once or when a second person has approved it."""


@router.post("/v1/holds/{hold}/lift", response_model=HoldOut, responses=WAITING)
async def lift_hold(call: Risk, hold: HoldPath, body: Reasoned) -> Response:
    """Lift a hold. Unless a setting says otherwise, a second person has to approve it.

    What is under no other hold goes on at once.
    """
    by_two = call.deps.settings.staff.lift_holds_by_two
    known = await limits_of(call, deciding=by_two)
    limits = Limits(known.rows, (LIFT_ACT,) if by_two else ())
    asked = {"reason": body.reason}
    ready = await LIFT.make(call, hold, asked)
    done = await call.write(
        ready.cell, lambda tx: perform(call, tx, limits, LIFT, ready, hold, asked)
    )
    return answer_of(LIFT, done)
