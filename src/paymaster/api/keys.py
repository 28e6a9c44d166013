"""API keys of the environment, managed over the API by those who may."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field, StringConstraints

from paymaster.api.context import Reads, Staff
from paymaster.api.door import Door
from paymaster.api.models import Body, Moment, Reasoned, Reply, Text, listing, moment
from paymaster.api.shapes import Page
from paymaster.api.shapes_callers import IssuedKeyOut, KeyOut
from paymaster.db.tx import ControlTx
from paymaster.people import credentials
from paymaster.people.credentials import Issued
from paymaster.people.scopes import SCOPES

router = APIRouter(route_class=Door, tags=["keys"])
PrefixPath = Annotated[
    str, Path(max_length=40, description="The visible part, such as `pk_test_1a2b3c4d`.")
]
MAX_OVERLAP_SECONDS = 90 * 86_400


class IssueKey(Body):
    """A key for one of the app's servers. It can do no more than the caller can."""

    name: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    scopes: Annotated[
        list[Annotated[Text, StringConstraints(max_length=40)]],
        Field(min_length=1, max_length=20, examples=[["read", "events:write"]]),
    ]
    expires_at: Moment | None = None


class RotateKey(Body):
    """How long the old key stays good next to the new one."""

    overlap_seconds: Annotated[int, Field(ge=0, le=MAX_OVERLAP_SECONDS)] = 86_400


@router.get("/v1/keys", response_model=Page[KeyOut])
async def list_keys(call: Reads) -> Reply:
    """All keys of the environment, oldest first, ended ones too. Their secrets are nowhere."""
    found = await call.look(lambda tx: credentials.listing(tx, call.environment.id))
    return listing([view.wire() for view in found])


@router.post("/v1/keys", status_code=201, response_model=IssuedKeyOut)
async def issue_key(call: Staff, body: IssueKey) -> Reply:
    """Make a key; it is shown this once. It belongs to the person who asks, if one does."""
    for scope in body.scopes:
        if scope in SCOPES:
            call.principal.require(scope)
    issued = await call.control(
        lambda tx: credentials.issue(
            tx,
            call.environment.id,
            body.name,
            body.scopes,
            moment(body.expires_at),
            call.principal.person_id,
        )
    )
    return Reply(_shown(issued), 201)


@router.post("/v1/keys/{prefix}/rotate", status_code=201, response_model=IssuedKeyOut)
async def rotate_key(call: Staff, prefix: PrefixPath, body: RotateKey | None = None) -> Reply:
    """A new key of the same name, scopes and owner; the old one ends after the overlap.

    A key that can do more than the caller, or belongs to another person, is not rotated.
    """
    overlap = timedelta(seconds=(body or RotateKey()).overlap_seconds)

    async def work(tx: ControlTx) -> Issued:
        issued = await credentials.rotate(tx, call.environment.id, call.name(prefix), overlap)
        for scope in issued.view.scopes:
            call.principal.require(scope)
        credentials.check_owner(issued.view, call.principal)
        return issued

    return Reply(_shown(await call.control(work)), 201)


@router.post("/v1/keys/{prefix}/revoke", response_model=KeyOut)
async def revoke_key(call: Staff, prefix: PrefixPath, body: Reasoned) -> Reply:
    """End a key at once, with all tokens that stand on it."""
    view = await call.control(
        lambda tx: credentials.revoke(tx, call.environment.id, call.name(prefix), body.reason)
    )
    return Reply(view.wire())


def _shown(issued: Issued) -> dict[str, Any]:
    return {**issued.view.wire(), "key": issued.key}
