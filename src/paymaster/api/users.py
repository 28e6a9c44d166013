"""Users by the app's own id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from pydantic import Field

from paymaster.api.context import OwnReads, Users
from paymaster.api.door import Door
from paymaster.api.models import Body, Reason, Reply, Text
from paymaster.api.shapes import UserOut
from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.people import users
from paymaster.people.machine import Status
from paymaster.people.profile import Profile, parse

router = APIRouter(route_class=Door, tags=["users"])

ExternalIdPath = Annotated[
    str, Path(max_length=128, description="The app's own id of the user.", examples=["user-17"])
]
UserPath = Annotated[
    str, Path(max_length=128, description="The app's own id of the user, or ours (`us_...`).")
]


class PutUser(Body):
    """What is left out stays as it is; a new user is active."""

    status: Literal["active", "suspended", "closed"] | None = None
    reason: Reason | None = None
    profile: Annotated[
        dict[Text, Any] | None,
        Field(
            description="Replaces the profile: country, city, language, birth_year, devices, "
            "email, email_notices.",
            examples=[{"country": "DE", "language": "de"}],
        ),
    ] = None


@router.put(
    "/v1/users/{user}",
    response_model=UserOut,
    responses={201: {"model": UserOut, "description": "Made."}},
)
async def put_user(call: Users, user: ExternalIdPath, body: PutUser) -> Reply:
    """Make a user or change one. Safe to repeat."""
    done = await users.upsert(
        call.deps.dbs,
        call.deps.secrets.sealer,
        call.environment.id,
        call.actor,
        call.trace_id,
        user,
        _profile(body.profile, call.deps.clock.now().year),
        Status(body.status) if body.status else None,
        body.reason,
    )
    if done.view is None:
        raise Unprocessable(done.slug or "user-closed", done.detail or "")
    return Reply(done.view.wire(), 201 if done.created else 200)


def _profile(value: dict[str, Any] | None, year: int) -> Profile | None:
    if value is None:
        return None
    try:
        return parse(value, year)
    except Unprocessable as error:
        problems = [Problem(f"/profile{one.pointer}", one.detail) for one in error.problems]
        raise Unprocessable(error.slug, error.detail, problems=problems) from None


@router.get("/v1/users/{user}", response_model=UserOut)
async def get_user(call: OwnReads, user: UserPath) -> Reply:
    """A user, by the app's own id or by ours."""
    ref = await call.user(user)
    view = await call.cell(ref.cell).read(
        lambda tx: users.get(tx, call.deps.secrets.sealer, ref.id)
    )
    return Reply(view.wire() if call.mine is None else view.wire_own())
