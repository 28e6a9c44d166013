"""How earnings of a source clear, are reserved and are clawed back: data, under versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import WAITS, lasting, limits_of
from paymaster.api.models import Body, Reason, Reply, Text, listing
from paymaster.api.shapes import Page
from paymaster.api.shapes_earnings import EarningPolicyHistoryOut, EarningPolicyOut
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import ControlTx
from paymaster.earn import policy
from paymaster.earn.policy import PutPolicy
from paymaster.people import four_eyes
from paymaster.people.four_eyes import EARNING_POLICY_ACT, Proposal, Waiting

router = APIRouter(route_class=Door, tags=["earnings"])
LIST = "/v1/earning-policies"
SourcePath = Annotated[
    str,
    Path(
        max_length=160,
        description="`default`, or `campaign:`, `source:`, `type:` or `partner:` and a name.",
        examples=["default"],
    ),
]


class PutTerms(Body):
    """Terms for rewards that are made from now on, made from the version their author has seen."""

    based_on: Annotated[int, Field(ge=0, le=2**31 - 2, description="0 where there is none.")]
    terms: Annotated[
        dict[Text, Any],
        Field(
            examples=[
                {
                    "clearing_seconds": 604800,
                    "reserve": {"ppm": 100000, "seconds": 2592000},
                    "loss": "sponsor",
                }
            ]
        ),
    ]
    reason: Reason


@router.get(LIST, response_model=Page[EarningPolicyOut])
async def list_policies(call: Reads) -> Reply:
    """The newest version of each source."""
    found = await call.look(lambda tx: policy.listing(tx, call.environment.id))
    return listing([view.wire() for view in found])


@router.get(f"{LIST}/{{source}}", response_model=EarningPolicyHistoryOut)
async def get_policy(call: Reads, source: SourcePath) -> Reply:
    """The newest version of one source, and all before it."""
    found = await call.look(lambda tx: policy.history(tx, call.environment.id, call.name(source)))
    versions = [view.wire() for view in found]
    return Reply({**versions[0], "versions": versions})


@router.put(f"{LIST}/{{source}}", response_model=EarningPolicyOut, responses=WAITING)
async def put_policy(call: Operates, source: SourcePath, body: PutTerms) -> Reply:
    """Put a new version in force. Rewards keep the version that they were made under.

    Where withdrawals are approved by two persons, this needs two as well.
    """
    limits = await limits_of(call)
    command = PutPolicy(call.name(source), body.based_on, body.terms, body.reason)
    terms = policy.check(command).stored()
    asked = {"based_on": body.based_on, "terms": terms, "reason": body.reason}
    proposal = Proposal(EARNING_POLICY_ACT, command.source, None, asked, body.reason)

    async def work(tx: ControlTx) -> Waiting | Mapping[str, Any]:
        waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
        return waiting or await put_in_force(tx, call.environment.id, command.source, asked)

    done = await call.control(work)
    if isinstance(done, Waiting):
        return Reply(done.wire(), WAITS)
    await tell_cells(call)
    return Reply(done)


async def put_in_force(
    tx: ControlTx, environment_id: int, source: str, asked: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Carry out what was asked for, at once or once it was approved."""
    command = PutPolicy(source, asked["based_on"], asked["terms"], asked["reason"])
    return (await policy.put(tx, environment_id, command)).wire()


async def tell_cells(call: Call) -> None:
    """Let the cells know what a request for a withdrawal looks at; else the intake role does."""
    await policy.spread(call.deps.dbs, call.environment.id, call.actor, call.trace_id)
