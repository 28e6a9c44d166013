"""The rules that judge withdrawals: data, under versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from paymaster.api.context import Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import WAITS, lasting, limits_of
from paymaster.api.models import Body, Reply, Text
from paymaster.api.shapes_operate import RuleSetOut
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import ControlTx
from paymaster.people import four_eyes
from paymaster.people.four_eyes import RULES_ACT, Proposal, Waiting
from paymaster.screen import activate
from paymaster.screen.defaults import default_rule_set
from paymaster.screen.rule_set import RuleSet

router = APIRouter(route_class=Door, tags=["screening"])


class PutRules(Body):
    """A whole rule set, made from the version that its author has seen."""

    based_on: Annotated[int, Field(ge=1, le=2**31 - 2, description="The version in force.")]
    rules: Annotated[
        list[dict[Text, Any]],
        Field(
            max_length=200,
            examples=[[{"rule": "minimum", "parameters": {"amounts": {"EUR": "1.00"}}}]],
        ),
    ]


@router.get("/v1/screening/rules", response_model=RuleSetOut)
async def get_rules(call: Reads) -> Reply:
    """The rules in force; the default ones where none were ever set."""
    found = await call.look(lambda tx: activate.current(tx, call.environment.id))
    return Reply((found or default_rule_set()).data())


@router.put("/v1/screening/rules", response_model=RuleSetOut, responses=WAITING)
async def put_rules(call: Operates, body: PutRules) -> Reply:
    """Put a new version in force. Verdicts keep the version that they were made by.

    Where withdrawals are approved by two persons, this needs two as well.
    """
    limits = await limits_of(call)
    based_on = body.based_on
    rules = RuleSet.read({"rules": body.rules, "version": based_on + 1}).data()["rules"]
    asked = {"based_on": based_on, "rules": rules}
    proposal = Proposal(RULES_ACT, "screening-rules", None, asked, call.reason or "")

    async def work(tx: ControlTx) -> Waiting | Mapping[str, Any]:
        waiting = await four_eyes.guard(tx, call.principal, limits, proposal, lasting(call))
        return waiting or await put_in_force(tx, call.environment.id, asked)

    done = await call.control(work)
    return Reply(done.wire(), WAITS) if isinstance(done, Waiting) else Reply(done)


async def put_in_force(
    tx: ControlTx, environment_id: int, asked: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Carry out what was asked for, at once or once it was approved."""
    rules = {"rules": asked["rules"]}
    made = await activate.activate(tx, environment_id, rules, based_on=asked["based_on"])
    return made.data()
