"""Endpoints that are told of events: made, changed, given new secrets, tested, switched off."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api.context import Call, Reads, scope
from paymaster.api.door import Door
from paymaster.api.models import Body, Moment, Nothing, Reply, Text, listing
from paymaster.api.positions import Positions, next_position, positions
from paymaster.api.shapes import Page
from paymaster.api.shapes_webhooks import DeliveryOut, EndpointOut, NewEndpointOut
from paymaster.db.tx import ControlTx
from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.errors import Unprocessable
from paymaster.messages import endpoints, replay
from paymaster.messages import listing as listings
from paymaster.messages.endpoints import MAX_OVERLAP, EndpointView, Wanted
from paymaster.messages.targets import MAX_URL_CHARACTERS, Targets, networks

router = APIRouter(route_class=Door, tags=["webhooks"])
LIST = "/v1/webhook-endpoints"
Webhooks = Annotated[Call, Depends(scope("webhooks"))]
EndpointPath = Annotated[str, Path(max_length=40, description="`we_...`")]

_Url = Annotated[
    Text,
    StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS),
    Field(
        description="https; in a test environment http too. Ports 80, 443 and from 1024 on.",
        examples=["https://app.example.com/hooks/paymaster"],
    ),
]
_Types = Annotated[
    list[Annotated[Text, StringConstraints(max_length=64)]],
    Field(
        min_length=1,
        max_length=200,
        description="Names of types, `group.*`, or `*`.",
        examples=[["withdrawal.*", "reward.credited"]],
    ),
]
_Description = Annotated[Text, StringConstraints(max_length=200)]


class CreateEndpoint(Body):
    """`ordered` cannot be changed later: it decides what waits for what."""

    url: _Url
    types: _Types
    description: _Description = ""
    ordered: Annotated[
        bool,
        Field(description="Events of one key (a user, a campaign) one after the other."),
    ] = False


class ChangeEndpoint(Body):
    """The whole of what can be changed."""

    url: _Url
    types: _Types
    description: _Description = ""


class Rotate(Body):
    """How long the secrets of before go on signing beside the new one."""

    overlap_seconds: Annotated[int, Field(ge=0, le=int(MAX_OVERLAP.total_seconds()))] = 86_400


class Resend(Body):
    """From when on."""

    since: Moment


def targets_of(call: Call) -> Targets:
    """Which addresses endpoints may have here."""
    return Targets(networks(call.deps.settings.webhooks.allowed_networks))


async def _checked(call: Call, url: str) -> None:
    await targets_of(call).check(url, live=call.environment.mode == "live")


@router.post(LIST, status_code=201, response_model=NewEndpointOut)
async def create_endpoint(call: Webhooks, body: CreateEndpoint) -> Reply:
    """Make an endpoint. The answer shows its secret, this once; it is told from now on.

    There is no Idempotency-Key here, because a kept answer would be a kept secret: when the answer
    is lost, look at the list and delete what is too many.
    """
    await _checked(call, body.url)
    dbs, environment_id = call.deps.dbs, call.environment.id
    heads = await endpoints.heads(dbs, environment_id)

    async def work(tx: ControlTx) -> tuple[EndpointView, str]:
        return await endpoints.create(
            tx,
            dbs,
            call.deps.secrets.sealer,
            environment_id,
            Wanted(body.url, body.types, body.description),
            heads,
            ordered=body.ordered,
            most=call.deps.settings.webhooks.endpoints,
        )

    view, secret = await call.control(work)
    return Reply({**view.wire(), "secret": secret}, 201)


@router.get(LIST, response_model=Page[EndpointOut])
async def list_endpoints(call: Reads) -> Reply:
    """All endpoints, oldest first; there are few enough for one page."""
    found = await call.look(lambda tx: endpoints.listing(tx, call.deps.dbs, call.environment.id))
    return listing([one.wire() for one in found])


@router.get(f"{LIST}/{{endpoint}}", response_model=EndpointOut)
async def get_endpoint(call: Reads, endpoint: EndpointPath) -> Reply:
    """One endpoint, without its secret."""
    return Reply((await endpoint_of(call, endpoint)).wire())


async def endpoint_of(call: Call, endpoint: str) -> EndpointView:
    """An endpoint of this environment. Raises NotFound."""
    number = call.control_id("we", endpoint)
    return await call.look(lambda tx: endpoints.get(tx, call.deps.dbs, call.environment.id, number))


@router.put(f"{LIST}/{{endpoint}}", response_model=EndpointOut)
async def change_endpoint(call: Webhooks, endpoint: EndpointPath, body: ChangeEndpoint) -> Reply:
    """Change URL, types and description. What waits goes to the new URL."""
    number = call.control_id("we", endpoint)
    await _checked(call, body.url)
    wanted = Wanted(body.url, body.types, body.description)
    view = await call.control(
        lambda tx: endpoints.change(tx, call.deps.dbs, call.environment.id, number, wanted)
    )
    return Reply(view.wire())


@router.delete(f"{LIST}/{{endpoint}}", status_code=204, response_class=Response)
async def delete_endpoint(call: Webhooks, endpoint: EndpointPath) -> Response:
    """Delete an endpoint with its secrets. What waits for it is not sent."""
    number = call.control_id("we", endpoint)
    await call.control(lambda tx: endpoints.delete(tx, call.deps.dbs, call.environment.id, number))
    await endpoints.cancel_all(call.deps.dbs, call.actor, call.environment.id, number)
    return Response(status_code=204)


@router.post(f"{LIST}/{{endpoint}}/rotate-secret", response_model=NewEndpointOut)
async def rotate_secret(call: Webhooks, endpoint: EndpointPath, body: Rotate) -> Reply:
    """A new secret, shown this once. Until the overlap is over both sign every delivery."""
    number, overlap = call.control_id("we", endpoint), timedelta(seconds=body.overlap_seconds)

    async def work(tx: ControlTx) -> tuple[EndpointView, str]:
        return await endpoints.rotate(
            tx, call.deps.dbs, call.deps.secrets.sealer, call.environment.id, number, overlap
        )

    view, secret = await call.control(work)
    return Reply({**view.wire(), "secret": secret})


@router.post(f"{LIST}/{{endpoint}}/disable", response_model=EndpointOut)
async def disable_endpoint(
    call: Webhooks,
    endpoint: EndpointPath,
    body: Nothing | None = None,  # noqa: ARG001 - an empty object may come
) -> Reply:
    """Send nothing more there. What happens meanwhile is sent later only when you ask for it."""
    number = call.control_id("we", endpoint)
    view = await call.control(
        lambda tx: endpoints.disable(tx, call.deps.dbs, call.environment.id, number, "asked")
    )
    return Reply(view.wire())


@router.post(f"{LIST}/{{endpoint}}/enable", response_model=EndpointOut)
async def enable_endpoint(
    call: Webhooks,
    endpoint: EndpointPath,
    body: Nothing | None = None,  # noqa: ARG001 - an empty object may come
) -> Reply:
    """Send again: what waited, and what happens from now on."""
    view = await endpoint_of(call, endpoint)
    await _checked(call, view.row.url)
    view = await call.control(
        lambda tx: endpoints.enable(tx, call.deps.dbs, call.environment.id, view.row.id)
    )
    return Reply(view.wire())


@router.post(f"{LIST}/{{endpoint}}/test", status_code=202, response_model=EndpointOut)
async def send_test(
    call: Webhooks,
    endpoint: EndpointPath,
    body: Nothing | None = None,  # noqa: ARG001 - an empty object may come
) -> Reply:
    """Send it a `webhook_endpoint.test`, whatever it subscribes to."""
    number = call.control_id("we", endpoint)
    view = await call.control(
        lambda tx: endpoints.test(tx, call.deps.dbs, call.environment.id, number)
    )
    return Reply(view.wire(), 202)


@router.post(f"{LIST}/{{endpoint}}/resend", status_code=202, response_model=EndpointOut)
async def resend_since(call: Webhooks, endpoint: EndpointPath, body: Resend) -> Reply:
    """Send all that it subscribes to and has not got since a moment: failed, or missed."""
    view, since = await endpoint_of(call, endpoint), parse_rfc3339(body.since)
    kept = timedelta(days=call.deps.settings.webhooks.retention_days)
    if since < call.deps.clock.now() - kept:
        raise Unprocessable(
            "webhook-events-gone", f"Events can be sent again for {kept.days} days."
        )
    await call.control(lambda tx: endpoints.note_replay(tx, view, since))
    await replay.ask(call.deps.dbs, call.actor, view.row, since)
    return Reply(view.wire(), 202)


@router.get(f"{LIST}/{{endpoint}}/deliveries", response_model=Page[DeliveryOut])
async def list_deliveries(
    call: Reads,
    endpoint: EndpointPath,
    page: Positions,
    state: Annotated[
        Literal["waiting", "sending", "delivered", "failed", "cancelled"] | None, Query()
    ] = None,
) -> Reply:
    """What was owed to an endpoint, newest event first."""
    view = await endpoint_of(call, endpoint)
    dbs, environment_id = call.deps.dbs, call.environment.id
    rows, after = await listings.deliveries_of_endpoint(
        dbs, environment_id, view.row.id, state, positions(call, page), page.limit
    )
    return listing([row.wire() for row in rows], next_position(after))
