"""How well a user is known: evidence in, the level out."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from paymaster.api.context import OwnReads, Users
from paymaster.api.door import Door
from paymaster.api.models import Body, Moment, Reason, Reply, Text, moment
from paymaster.api.shapes import Shape, Time
from paymaster.api.users import UserPath
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.people import kyc
from paymaster.people.kyc import UNKNOWN, Evidence

router = APIRouter(route_class=Door, tags=["users"])


class PostKyc(Body):
    """What a provider has found out. `none` takes back all that was recorded before."""

    level: Literal["none", "basic", "full"]
    provider: Annotated[Text, StringConstraints(max_length=40), Field(examples=["sumsub"])]
    reference: Annotated[
        Text,
        StringConstraints(max_length=128),
        Field(description="The provider's own name for the evidence; no personal data."),
    ]
    jurisdiction: Annotated[
        Text | None, StringConstraints(max_length=2), Field(description="ISO 3166-1 alpha-2.")
    ] = None
    expires_at: Moment | None = None
    reason: Reason | None = None


class RecordOut(Shape):
    """Evidence as it was recorded."""

    level: str
    jurisdiction: str | None
    provider: str
    reference: str
    expires_at: Time | None
    recorded_at: Time


class KycOut(Shape):
    """What counts now; `expires_at` is when the level falls unless evidence is renewed."""

    level: str
    jurisdiction: str | None
    expires_at: Time | None
    records: list[RecordOut]


@router.post("/v1/users/{user}/kyc", response_model=KycOut)
async def post_kyc(call: Users, user: UserPath, body: PostKyc) -> Reply:
    """Record evidence of who a user is. Safe to repeat.

    The app's servers do so; of the staff only those who may operate, and they say why.
    """
    if call.principal.kind == "staff":
        call.principal.require("operate")
        if body.reason is None:
            problems = [Problem("/reason", "Say why, as a person.")]
            raise Unprocessable("kyc-invalid", "The evidence has faults.", problems=problems)
    ref = await call.user(user)
    found = Evidence(
        body.level,
        body.provider,
        body.reference,
        body.jurisdiction,
        moment(body.expires_at),
        body.reason,
    )
    cell = call.cell(ref.cell)
    await call.write(cell, lambda tx: kyc.record(tx, ref.id, found))
    return Reply(await cell.read(lambda tx: _shown(tx, ref.id)))


@router.get("/v1/users/{user}/kyc", response_model=KycOut)
async def get_kyc(call: OwnReads, user: UserPath) -> Reply:
    """What is known of who a user is, and the evidence for it."""
    ref = await call.user(user)
    return Reply(await call.cell(ref.cell).read(lambda tx: _shown(tx, ref.id)))


async def _shown(tx: CellRead, user_id: int) -> dict[str, object]:
    now = (await kyc.known(tx, [user_id])).get(user_id, UNKNOWN)
    listed = await kyc.records(tx, user_id)
    return {**now.wire(), "records": [row.wire() for row in listed]}
