"""Issuers whose tokens log earners in."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field, StringConstraints

from paymaster.api.context import Reads, Staff
from paymaster.api.door import Door
from paymaster.api.models import Body, Reason, Reply, Text, listing
from paymaster.api.shapes import Page
from paymaster.api.shapes_callers import IssuerOut
from paymaster.people import issuers
from paymaster.people.issuers import NewIssuer

router = APIRouter(route_class=Door, tags=["issuers"])
IssuerPath = Annotated[str, Path(max_length=40, description="`is_...`")]
_OF_EARNERS = ("events:write", "read", "users", "withdrawals")
Word = Annotated[Text, StringConstraints(min_length=1, max_length=200)]


class AddIssuer(Body):
    """How tokens of the issuer look, and whom they name."""

    url: Annotated[
        Text,
        StringConstraints(max_length=500),
        Field(description="`iss`, exactly.", examples=["https://login.example.com"]),
    ]
    audiences: Annotated[list[Word], Field(min_length=1, max_length=20, description="`aud`.")]
    algorithms: Annotated[
        list[Literal["RS256", "ES256", "EdDSA"]],
        Field(default_factory=lambda: ["RS256", "ES256", "EdDSA"], min_length=1, max_length=3),
    ]
    subject_claim: Annotated[Word, Field(description="The claim that names the user.")] = "sub"
    user_prefix: Annotated[
        Text,
        StringConstraints(max_length=40),
        Field(description="Stands before the claim in the app's own id of the user."),
    ] = ""


class SetIssuerState(Body):
    """Whether its tokens are taken."""

    enabled: bool
    reason: Reason


@router.get("/v1/issuers", response_model=Page[IssuerOut])
async def list_issuers(call: Reads) -> Reply:
    """All issuers of the environment, oldest first."""
    found = await call.look(lambda tx: issuers.listing(tx, call.environment.id))
    return listing([one.wire() for one in found])


@router.post("/v1/issuers", status_code=201, response_model=IssuerOut)
async def add_issuer(call: Staff, body: AddIssuer) -> Reply:
    """Trust an issuer: its tokens for these audiences name users of this environment.

    Without a prefix its word is taken for every user of the environment. The caller needs all
    scopes of what earners do: whoever names an issuer could be any of them.
    """
    for scope in _OF_EARNERS:
        call.principal.require(scope)
    new = NewIssuer(body.url, body.audiences, body.algorithms, body.subject_claim, body.user_prefix)
    made = await call.control(lambda tx: issuers.add(tx, call.environment, new))
    return Reply(made.wire(), 201)


@router.post("/v1/issuers/{issuer}/state", response_model=IssuerOut)
async def set_issuer_state(call: Staff, issuer: IssuerPath, body: SetIssuerState) -> Reply:
    """Refuse its tokens from now on, or take them again."""
    number = issuers.issuer_number(issuer)
    found = await call.control(
        lambda tx: issuers.enable(
            tx, call.environment.id, number, enabled=body.enabled, reason=body.reason
        )
    )
    return Reply(found.wire())


@router.delete("/v1/issuers/{issuer}", response_model=IssuerOut)
async def remove_issuer(
    call: Staff,
    issuer: IssuerPath,
    reason: Annotated[
        Text, Query(min_length=1, max_length=500, description="Kept in the audit.")
    ] = "asked for",
) -> Reply:
    """Trust it no longer. Users who came through it stay."""
    number = issuers.issuer_number(issuer)
    gone = await call.control(lambda tx: issuers.remove(tx, call.environment.id, number, reason))
    return Reply({**gone.wire(), "enabled": False})
