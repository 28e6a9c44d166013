"""Where providers deliver their webhooks. The signature is the credential."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from paymaster.api.context import deps_of, trace_of
from paymaster.api.hot import Inbox
from paymaster.api.models import Reply
from paymaster.api.shapes_operate import ReceivedOut
from paymaster.compose import Deps
from paymaster.kernel.errors import NotFound, PaymasterError
from paymaster.observe import get_logger
from paymaster.rails.base import WebhookAnswer
from paymaster.settle.payin_webhook import Door
from paymaster.settle.webhook import receive, refusal

router = APIRouter(tags=["hooks"])
_log = get_logger(__name__)
Part = Annotated[str, Path(max_length=128)]


def inbox_of(request: Request) -> Inbox:
    """What merges the messages of this process."""
    return cast("Inbox", request.app.state.inbox)


def _in_its_words(said: WebhookAnswer) -> Response:
    return Response(said.body, said.status, media_type=said.content_type)


def _refused(said: WebhookAnswer | None, rail_account: str, error: PaymasterError) -> Response:
    """The refusal in the provider's words, where it wants certain ones; else the problem."""
    if said is None:
        raise error
    _log.info("webhook_refused", rail_account=rail_account, slug=error.slug)
    return _in_its_words(said)


def _environment_of(deps: Deps, tenant: str, mode: str, rail_account: str) -> int:
    """Whose door this is. Raises NotFound `rail-account-unknown`."""
    for environment in deps.dbs.environments():
        if (environment.tenant, environment.mode) == (tenant, mode) and rail_account.isprintable():
            return environment.id
    raise NotFound("rail-account-unknown", "There is no rail account at this address.")


@router.post("/v1/hooks/{tenant}/{mode}/{rail_account}", response_model=ReceivedOut)
async def take_webhook(request: Request, tenant: Part, mode: Part, rail_account: Part) -> Response:
    """Verify, keep, acknowledge; what it says is applied afterwards.

    Anything but 2xx means that it was not kept: send it again. A provider that wants to hear
    certain words hears those, also when its message is refused.
    """
    deps = deps_of(request)
    environment_id = _environment_of(deps, tenant, mode, rail_account)
    try:
        received = await receive(
            deps.dbs,
            deps.rails,
            deps.secrets.sealer,
            environment_id,
            rail_account,
            dict(request.headers),
            await request.body(),
            trace_of(request),
            inbox_of(request).keep,
        )
    except PaymasterError as error:
        said = await refusal(deps.dbs, deps.rails, environment_id, rail_account, error)
        return _refused(said, rail_account, error)
    if received.answer is not None:
        return _in_its_words(received.answer)
    return Reply({"new": received.new, "again": received.again, "unmatched": received.unmatched})


@router.post("/v1/hooks/{tenant}/{mode}/{rail_account}/payins", response_class=Response)
async def take_payin_webhook(
    request: Request, tenant: Part, mode: Part, rail_account: Part
) -> Response:
    """The same about charges and refunds: money that comes in through the account.

    Anything but what the provider calls an acknowledgement means that it was not kept.
    """
    deps = deps_of(request)
    environment_id = _environment_of(deps, tenant, mode, rail_account)
    sealer, keep = deps.secrets.sealer, inbox_of(request).keep
    door = Door(deps.dbs, deps.rails, sealer, environment_id, keep)
    headers, body = dict(request.headers), await request.body()
    try:
        return _in_its_words(await door.receive(rail_account, headers, body, trace_of(request)))
    except PaymasterError as error:
        return _refused(await door.refusal(rail_account, error), rail_account, error)
