"""Where providers deliver their webhooks. The signature is the credential."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Path, Request

from paymaster.api.context import deps_of, trace_of
from paymaster.api.hot import Inbox
from paymaster.api.models import Reply
from paymaster.api.shapes_operate import ReceivedOut
from paymaster.kernel.errors import NotFound
from paymaster.settle.webhook import receive

router = APIRouter(tags=["hooks"])
Part = Annotated[str, Path(max_length=128)]


def inbox_of(request: Request) -> Inbox:
    """What merges the messages of this process."""
    return cast("Inbox", request.app.state.inbox)


@router.post("/v1/hooks/{tenant}/{mode}/{rail_account}", response_model=ReceivedOut)
async def take_webhook(request: Request, tenant: Part, mode: Part, rail_account: Part) -> Reply:
    """Verify, keep, acknowledge; what it says is applied afterwards.

    Anything but 2xx means that it was not kept: send it again.
    """
    deps = deps_of(request)
    wanted = [e for e in deps.dbs.environments() if (e.tenant, e.mode) == (tenant, mode)]
    if not wanted or not rail_account.isprintable():
        raise NotFound("rail-account-unknown", "There is no rail account at this address.")
    received = await receive(
        deps.dbs,
        deps.rails,
        deps.secrets.sealer,
        wanted[0].id,
        rail_account,
        dict(request.headers),
        await request.body(),
        trace_of(request),
        inbox_of(request).keep,
    )
    return Reply({"new": received.new, "again": received.again, "unmatched": received.unmatched})
