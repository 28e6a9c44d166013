"""Where a user's money goes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, Operates, OwnReads, OwnUsers
from paymaster.api.door import Door
from paymaster.api.factors import StepUpId
from paymaster.api.models import Body, Reasoned, Reply, Text, listing
from paymaster.api.shapes import DestinationOut, Page
from paymaster.api.stepup import by
from paymaster.api.users import UserPath
from paymaster.api.withdrawals import seen_by
from paymaster.kernel.errors import Conflict, NotFound
from paymaster.people import destinations
from paymaster.people.factors import policy
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.proof import Shown
from paymaster.people.views import DestinationView
from paymaster.withdraw import pinned

router = APIRouter(route_class=Door, tags=["destinations"])
DestinationPath = Annotated[str, Path(max_length=40, description="`de_...`")]


class AddDestination(Body):
    """`details` depend on the kind: `iban` has iban, holder and perhaps bic."""

    kind: Annotated[Text, StringConstraints(max_length=40), Field(examples=["iban"])]
    currency: Annotated[Text, StringConstraints(max_length=12), Field(examples=["EUR"])]
    details: Annotated[
        dict[Text, Annotated[Text, StringConstraints(max_length=500)]],
        Field(max_length=20, examples=[{"iban": "DE89370400440532013000", "holder": "A. Example"}]),
    ]
    step_up: StepUpId | None = None


@router.post(
    "/v1/users/{user}/destinations",
    response_model=DestinationOut,
    status_code=201,
    responses={200: {"model": DestinationOut, "description": "It was there already."}},
)
async def add_destination(call: OwnUsers, user: UserPath, body: AddDestination) -> Reply:
    """Add a destination; the same one again answers with the one that is there.

    Details are checked, then kept sealed and shown masked only. Money may go there when
    `usable_at` has come. Where the policy asks for it, a new one needs `step_up`.
    """
    environment = call.environment.id
    required = await call.look(
        lambda tx: policy.required(tx, environment, Purpose.DESTINATION, by(call), body.currency)
    )
    view = await destinations.register(
        call.deps.dbs,
        call.deps.secrets.sealer,
        call.actor,
        call.trace_id,
        await call.user(user),
        body.kind,
        body.currency,
        body.details,
        cooling=timedelta(seconds=call.deps.settings.limits.destination_cooling_seconds),
        shown=Shown(required, body.step_up),
    )
    return Reply(_shown(call, view), 201 if view.created else 200)


@router.get("/v1/users/{user}/destinations", response_model=Page[DestinationOut])
async def list_destinations(call: OwnReads, user: UserPath) -> Reply:
    """All destinations of a user, oldest first, closed ones too."""
    ref = await call.user(user)
    found = await call.cell(ref.cell).read(lambda tx: destinations.listing(tx, ref.id))
    return listing([_shown(call, view) for view in found])


@router.delete("/v1/destinations/{destination}", response_model=DestinationOut)
async def close_destination(
    call: OwnUsers,
    destination: DestinationPath,
    reason: Annotated[
        Text, Query(min_length=1, max_length=500, description="Kept in the audit.")
    ] = "asked for",
) -> Reply:
    """Close a destination for good. Withdrawals that still wait for it are cancelled.

    Their money is available again, at once; what is with the rail already goes on.
    """
    ref = call.ref("de", destination)
    own = call.principal.user
    if own is not None and own.cell != ref.cell:
        raise NotFound("destination-unknown", "There is no such destination.")
    try:
        view = await call.write(
            call.cell(ref.cell), lambda tx: pinned.close(tx, ref.id, reason, user_id=call.mine)
        )
    except Conflict as error:
        raise seen_by(call, error) from None
    return Reply(_shown(call, view))


@router.post("/v1/destinations/{destination}/resume", response_model=DestinationOut)
async def resume_destination(call: Operates, destination: DestinationPath, body: Reasoned) -> Reply:
    """Let money go again to a destination that was paused after several failures."""
    ref = call.ref("de", destination)
    view = await call.write(
        call.cell(ref.cell), lambda tx: destinations.resume(tx, ref.id, body.reason)
    )
    return Reply(view.wire())


def _shown(call: Call, view: DestinationView) -> dict[str, Any]:
    """What staff wrote about it is not for the earner."""
    return view.wire() if call.mine is None else {**view.wire(), "closed_reason": None}
