"""The rules that judge withdrawals: data, under versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from paymaster.api.context import Operates, Reads
from paymaster.api.door import Door
from paymaster.api.models import Body, Reply, Text
from paymaster.api.shapes_operate import RuleSetOut
from paymaster.screen import activate
from paymaster.screen.defaults import default_rule_set

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


@router.put("/v1/screening/rules", response_model=RuleSetOut)
async def put_rules(call: Operates, body: PutRules) -> Reply:
    """Put a new version in force. Verdicts keep the version that they were made by."""
    made = await call.control(
        lambda tx: activate.activate(
            tx, call.environment.id, {"rules": body.rules}, based_on=body.based_on
        )
    )
    return Reply(made.data())
