"""Whether what users are owed is there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from paymaster.api.context import Reads
from paymaster.api.door import Door
from paymaster.api.models import Reply
from paymaster.api.shapes_funding import FundingOut
from paymaster.funding.report import report

router = APIRouter(route_class=Door, tags=["days"])
ByKind = Annotated[
    bool, Query(description="Split what users have by kind; reads every account of every user.")
]


@router.get("/v1/funding", response_model=FundingOut)
async def get_funding(call: Reads, by_kind: ByKind = False) -> Reply:
    """What users are owed against settled funds, by currency; what each account can still pay.

    Each cell's figures are from one snapshot, at the commit that `as_of_seqs` names.
    """
    deps = call.deps
    return Reply(
        await report(deps.dbs, call.environment.id, deps.settings.funding, by_kind=by_kind)
    )
