"""Linking: a user shows that an account with a wallet provider is his own."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field, StringConstraints
from starlette.responses import RedirectResponse, Response

from paymaster.api import staff_session
from paymaster.api.context import (
    Call,
    Operates,
    OwnReads,
    OwnUsers,
    Reads,
    deps_of,
    origin_of,
    trace_of,
)
from paymaster.api.door import Door
from paymaster.api.explain import own_user
from paymaster.api.factors import StepUpId
from paymaster.api.models import Body, Reply, Text, listing
from paymaster.api.shapes_links import LinkOut, LinkProviderOut, LinkProvidersOut, LinksOut, WayOut
from paymaster.api.stepup import by
from paymaster.api.users import UserPath
from paymaster.api.withdrawals import seen_by
from paymaster.compose import Deps
from paymaster.db.tx import CellTx, ControlRead
from paymaster.kernel.errors import Conflict, PaymasterError
from paymaster.kernel.ids import Ref, text_id
from paymaster.people.factors import policy
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.proof import Shown
from paymaster.people.links import begin, manage, providers
from paymaster.people.links.exchange import Exchanger
from paymaster.people.links.finish import Back, Finish
from paymaster.people.links.providers import LinkProvider, NewProvider
from paymaster.withdraw import pinned

router = APIRouter(route_class=Door, tags=["links"])
browsers = APIRouter(include_in_schema=False)
"""Where browsers come back to; what they carry is the credential."""

Provider = Annotated[Literal["wechat", "alipay"], Path()]
_Value = Annotated[Text, StringConstraints(max_length=500)]
MAX_CODE: Final = 512


class BeginLink(Body):
    """Where the browser shall be sent afterwards, and a proof where a new destination needs one."""

    return_to: Annotated[
        Text | None,
        StringConstraints(max_length=500),
        Field(description="One of the provider's `return_to`; `link` or `link_error` is added."),
    ] = None
    step_up: StepUpId | None = None


class PutLinkProvider(Body):
    """As which app we ask there, and where. `secrets` name secrets of the store."""

    settings: Annotated[
        dict[Text, _Value],
        Field(max_length=10, examples=[{"app_id": "wx0123456789abcdef"}]),
    ]
    secrets: Annotated[
        dict[Text, _Value], Field(max_length=10, examples=[{"app_secret": "wechat-app-secret"}])
    ]
    currency: Annotated[Text, StringConstraints(max_length=12)] = "CNY"
    return_to: Annotated[list[_Value], Field(default_factory=list, max_length=20)]
    enabled: bool = True


def _redirect_uri(deps: Deps, provider: str) -> str:
    return f"{deps.settings.api.public_url}/v1/links/callback/{provider}"


def _suffix(provider: str) -> str:
    return f"-link-{provider}"


@router.post("/v1/me/links/{provider}", response_model=WayOut, status_code=201)
async def begin_link(call: OwnUsers, provider: Provider, body: BeginLink | None = None) -> Reply:
    """Begin to link the earner's own account with a provider; only with an earner's token.

    Send the browser to `authorize_url`. The answer sets a cookie: the way back works in this
    browser only, once, within ten minutes.
    """
    user, environment = own_user(call), call.environment.id
    settings = call.deps.settings
    staff_session.secure(settings)
    asked = body or BeginLink()

    async def rules(tx: ControlRead) -> tuple[LinkProvider, bool]:
        found = await providers.usable(tx, environment, provider)
        return found, await policy.required(
            tx, environment, Purpose.DESTINATION, by(call), found.currency
        )

    found, required = await call.look(rules)

    async def work(tx: CellTx) -> begin.Way:
        return await begin.begin(
            tx,
            found,
            user.id,
            _redirect_uri(call.deps, provider),
            return_to=asked.return_to,
            shown=Shown(required, asked.step_up),
        )

    way = await call.write(call.cell(user.cell), work)
    reply = Reply({"provider": provider, **way.wire()}, 201)
    staff_session.give(reply, settings, way.nonce, _suffix(provider))
    return reply


@browsers.get("/v1/links/callback/{provider}")
async def come_back(
    request: Request,
    provider: Provider,
    state: Annotated[str, Query(max_length=200)] = "",
    code: Annotated[str, Query(max_length=MAX_CODE)] = "",
    auth_code: Annotated[str, Query(max_length=MAX_CODE)] = "",
) -> Response:
    """From the provider: find out who it is, and link. Coming twice gets the same answer twice."""
    deps = deps_of(request)
    nonce = staff_session.held(request, _suffix(provider)) or ""
    back = Back(provider, state, (auth_code or code) or None, nonce)
    finish = Finish(
        deps.dbs,
        deps.secrets.sealer,
        Exchanger(deps.http, deps.secrets.text, deps.clock),
        timedelta(seconds=deps.settings.limits.destination_cooling_seconds),
        trace_of(request),
        origin_of(request),
    )
    try:
        way, link_id = await finish.come_back(back)
    except PaymasterError as error:
        known = await finish.way_of(back)
        if known is None or known.return_to is None:
            raise
        return _sent(known.return_to, {"link_error": error.slug})
    parsed = begin.parse_state(state)
    assert parsed is not None
    ref = Ref(parsed[0].cell, link_id)
    request.state.actor = finish.actor(ref, way.user_id).name
    if way.return_to is not None:
        return _sent(way.return_to, {"link": text_id("ln", ref.cell, ref.id)})
    links = await deps.dbs.cell(ref.cell).read(lambda tx: manage.listing(tx, way.user_id))
    return Reply(next(one for one in links if one.ref == ref).wire())


def _sent(address: str, told: dict[str, str]) -> Response:
    return RedirectResponse(f"{address}?{urlencode(told)}", 303)


@router.get("/v1/me/links", response_model=LinksOut)
async def list_own_links(call: OwnReads) -> Reply:
    """What the earner has linked."""
    return await _listed(call, own_user(call))


@router.get("/v1/users/{user}/links", response_model=LinksOut)
async def list_links(call: OwnReads, user: UserPath) -> Reply:
    """What a user has linked."""
    return await _listed(call, await call.user(user))


async def _listed(call: Call, ref: Ref) -> Reply:
    found = await call.cell(ref.cell).read(lambda tx: manage.listing(tx, ref.id))
    return listing([one.wire() for one in found])


Why = Annotated[Text, Query(min_length=1, max_length=500, description="Kept in the audit.")]


@router.delete("/v1/me/links/{provider}", response_model=LinkOut)
async def unlink_own(call: OwnUsers, provider: Provider, reason: Why = "asked for") -> Reply:
    """End the earner's link: nothing goes there any more, and what waits for it is cancelled.

    It can be linked again, also by somebody else, with the cooling-off of a new destination.
    """
    return await _unlinked(call, own_user(call), provider, reason)


@router.delete("/v1/users/{user}/links/{provider}", response_model=LinkOut)
async def unlink_of(
    call: OwnUsers, user: UserPath, provider: Provider, reason: Why = "asked for"
) -> Reply:
    """End a user's link; see `DELETE /v1/me/links/{provider}`."""
    return await _unlinked(call, await call.user(user), provider, reason)


async def _unlinked(call: Call, ref: Ref, provider: str, reason: str) -> Reply:
    try:
        view = await manage.unlink(
            call.deps.dbs, call.actor, call.trace_id, ref, provider, reason, pinned.close
        )
    except Conflict as error:
        raise seen_by(call, error) from None
    return Reply(view.wire())


@router.get("/v1/link-providers", response_model=LinkProvidersOut)
async def list_link_providers(call: Reads) -> Reply:
    """Where users of the environment link accounts."""
    found = await call.look(lambda tx: providers.listing(tx, call.environment.id))
    return listing([one.wire() for one in found])


@router.put("/v1/link-providers/{provider}", response_model=LinkProviderOut)
async def put_link_provider(call: Operates, provider: Provider, body: PutLinkProvider) -> Reply:
    """Let users link there, or change how. Safe to repeat; `enabled` false ends it for new ones."""
    new = NewProvider(body.settings, body.secrets, body.currency, body.return_to, body.enabled)
    made = await call.control(lambda tx: providers.put(tx, call.environment, provider, new))
    return Reply(made.wire())
