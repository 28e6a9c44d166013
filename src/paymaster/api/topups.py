"""Money that comes in: asked for, shown as a code to scan, closed again."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, cast

import segno
from fastapi import APIRouter, Path, Query, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from paymaster.api.context import Call, Campaigns, Key, OwnReads, OwnWithdrawals
from paymaster.api.door import Door
from paymaster.api.explain import own_user
from paymaster.api.idempotent import accepted
from paymaster.api.models import Amount, Body, Nothing, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import Page
from paymaster.api.shapes_topups import TopupOut, WaysOut
from paymaster.api.users import UserPath
from paymaster.db.idempotency import Key as StoredKey
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.earn import campaign as campaigns
from paymaster.earn.machine import OfferState
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, Forbidden, NotFound, Refusal, Unprocessable
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import Money
from paymaster.payin import request, sealed, view
from paymaster.payin.machine import ChargeState
from paymaster.payin.request import MAXIMUM, MINIMUM, Ask
from paymaster.payin.view import ChargeRow
from paymaster.people import users
from paymaster.rails.payin import Checkout, Shows

router = APIRouter(route_class=Door, tags=["top-ups"])
LIST: Final = "/v1/topups"
TopupPath = Annotated[str, Path(max_length=40, description="`tp_...`")]
CampaignPath = Annotated[str, Path(max_length=128, description="The app's own id of the campaign.")]
_SCALE, _BORDER = 8, 4
"""Pixels of a module of a code, and the modules of white around it that readers need."""


class AskTopup(Body):
    """A payment to ask for, through one of our accounts."""

    rail_account: Annotated[Text, StringConstraints(min_length=1, max_length=40)]
    method: Annotated[
        Text,
        StringConstraints(min_length=1, max_length=40),
        Field(description="One of `GET /v1/topup-methods`."),
    ]
    amount: Amount
    description: Annotated[
        Text, StringConstraints(min_length=1, max_length=120), Field(description="For the payer.")
    ]
    lasts_seconds: Annotated[
        int | None, Field(ge=300, le=7200, description="How long it can be paid.")
    ] = None
    payer: Annotated[
        Text | None,
        StringConstraints(min_length=1, max_length=128),
        Field(description="Who pays, by the provider's own id, where the method needs it."),
    ] = None
    client_ip: Annotated[
        Text | None, StringConstraints(max_length=45), Field(description="The payer's address.")
    ] = None
    back_to: Annotated[
        Text | None,
        StringConstraints(pattern=r"^https?://", max_length=500),
        Field(description="Where a payer's browser goes afterwards; that proves nothing."),
    ] = None


@router.get("/v1/topup-methods", response_model=Page[WaysOut])
async def list_topup_methods(call: OwnReads) -> Reply:
    """The ways to pay in, by account; accounts that take no payments are left out."""
    known = await accounts.load(call.deps.dbs, call.environment.id)
    found: list[dict[str, Any]] = []
    for account in known.values():
        methods = request.methods_of(call.deps.rails, account)
        currency, most = account.rail.currency, account.number(MAXIMUM, 0)
        if methods:
            found.append({
                "rail_account": account.rail.name,
                "currency": currency,
                "minimum": wire(Money(max(1, account.number(MINIMUM, 1)), currency)),
                "maximum": wire(Money(most, currency)) if most else None,
                "methods": [
                    {"name": one.name, "shows": one.shows.value, "needs_payer": one.needs_payer}
                    for one in methods.values()
                ],
            })  # fmt: skip
    return listing(found)


@router.post("/v1/campaigns/{campaign}/topups", status_code=202, response_model=TopupOut)
async def top_up_campaign(
    call: Campaigns, request_: Request, campaign: CampaignPath, key: Key, body: AskTopup
) -> Response:
    """Ask a sponsor for money for a campaign's budget.

    Read it again until it is `open`: then it has what the payer needs. The budget grows when the
    provider says that it was paid.
    """
    name = call.name(campaign)
    found = await call.look(lambda tx: campaigns.get(tx, call.environment.id, name))
    if found.state == OfferState.ENDED:
        raise Unprocessable("campaign-ended", "The campaign has ended for good.")
    if body.amount.money().currency != found.currency:
        raise Unprocessable("topup-currency", f"The campaign's budget is in {found.currency}.")

    async def allowed(_tx: CellTx) -> None:
        return None

    target = ("campaign", found.number, found.home_cell)
    return await _asked(call, request_, key, body, target, allowed)


@router.post("/v1/users/{user}/topups", status_code=202, response_model=TopupOut)
async def top_up_user(
    call: OwnWithdrawals, request_: Request, user: UserPath, key: Key, body: AskTopup
) -> Response:
    """Ask a user for money for his wallet, where the settings let users pay in.

    What he owes is paid back first.
    """
    return await _of_user(call, request_, await call.user(user), key, body)


@router.post("/v1/me/topups", status_code=202, response_model=TopupOut)
async def top_up_me(call: OwnWithdrawals, request_: Request, key: Key, body: AskTopup) -> Response:
    """The same for the earner who calls. Raises Forbidden `earners-only` for everybody else."""
    return await _of_user(call, request_, own_user(call), key, body)


async def _of_user(call: Call, request_: Request, ref: Ref, key: str, body: AskTopup) -> Response:
    environment = call.environment
    if not call.deps.settings.payin.users_may(environment.tenant, environment.mode):
        raise Forbidden("topups-off", "Users may not pay in here.")

    async def allowed(tx: CellTx) -> None:
        await users.require_active(tx, ref.id)

    return await _asked(call, request_, key, body, ("user", ref.id, ref.cell), allowed)


async def _asked(
    call: Call,
    request_: Request,
    key: str,
    body: AskTopup,
    target: tuple[Literal["campaign", "user"], int, int],
    allowed: Callable[[CellTx], Awaitable[None]],
) -> Response:
    purpose, number, cell = target
    known = await accounts.load(call.deps.dbs, call.environment.id)
    account = _named(known, body.rail_account)
    minutes = call.deps.settings.payin.lasts_minutes
    ask = Ask(
        purpose,
        number,
        account,
        body.amount.money(),
        body.method,
        body.description,
        timedelta(seconds=body.lasts_seconds or minutes * 60),
        body.payer,
        body.client_ip or call.origin,
        body.back_to,
    )
    route = f"POST /v1/{purpose}s/{number}/topups"
    stored = StoredKey.of(call.principal.caller_id, route, key, await request_.body())
    sealer = call.deps.secrets.sealer

    async def work(tx: CellTx) -> dict[str, Any]:
        await allowed(tx)
        return _shown(call, known, cell, await request.request(tx, call.deps.rails, sealer, ask))

    return await accepted(call, call.cell(cell), stored, work)


def _named(known: Mapping[int, PayoutAccount], name: str) -> PayoutAccount:
    for account in known.values():
        if account.rail.name == name:
            return account
    raise NotFound("rail-account-unknown", "There is no rail account of this name here.")


def _shown(
    call: Call, known: Mapping[int, PayoutAccount], cell: int, row: ChargeRow
) -> dict[str, Any]:
    target = row.target_text(cell)
    checkout = _checkout(call, cell, row)
    return {
        "id": text_id("tp", cell, row.id),
        "reference": row.key,
        "campaign": target if row.purpose == "campaign" else None,
        "user": target if row.purpose == "user" else None,
        "rail_account": known[row.rail_account_id].rail.name,
        "amount": wire(row.money),
        "method": row.method,
        "description": row.description,
        "state": row.state,
        "checkout": None
        if checkout is None
        else {
            "shows": checkout.shows.value,
            "expires_at": rfc3339(checkout.expires_at),
            "content": checkout.content,
            "parameters": dict(checkout.parameters),
        },
        "code": row.code,
        "provider_id": row.provider_id,
        "refunded": wire(Money(row.refunded, row.asset)),
        "created_at": rfc3339(row.created_at),
        "expires_at": rfc3339(row.expires_at),
        "close_asked_at": None if row.close_at is None else rfc3339(row.close_at),
        "paid_at": None if row.paid_at is None else rfc3339(row.paid_at),
        "trace_id": row.trace_id,
    }


def _checkout(call: Call, cell: int, row: ChargeRow) -> Checkout | None:
    """What the payer's side needs, while it can be paid."""
    if row.state != ChargeState.OPEN or row.close_at is not None:
        return None
    return sealed.read(call.deps.secrets.sealer, cell, row.id, row.sealed).checkout


async def topup_of(call: Call, topup: str) -> tuple[CellDb, ChargeRow]:
    """A top-up and its cell. For an earner there are none but his own. Raises NotFound."""
    ref = call.ref("tp", topup)
    cell = call.cell(ref.cell)
    row = await cell.read(lambda tx: view.charge(tx, ref.id))
    own = call.principal.user
    foreign = own is not None and (
        own.cell != ref.cell or row is None or (row.purpose, row.target_id) != ("user", own.id)
    )
    if row is None or foreign:
        raise NotFound("not-found", "There is no such top-up.")
    return cell, row


@router.get("/v1/topups/{topup}", response_model=TopupOut)
async def get_topup(call: OwnReads, topup: TopupPath) -> Reply:
    """A top-up; while it is `open` with what the payer's side needs."""
    cell, row = await topup_of(call, topup)
    known = await accounts.load(call.deps.dbs, call.environment.id)
    return Reply(_shown(call, known, cell.number, row))


_PICTURE = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/v1/topups/{topup}/qr.{form}",
    response_class=Response,
    responses={
        200: {
            "description": "The picture.",
            "content": {"image/png": _PICTURE, "image/svg+xml": _PICTURE},
        }
    },
)
async def get_topup_code(
    call: OwnReads, topup: TopupPath, form: Annotated[Literal["png", "svg"], Path()]
) -> Response:
    """The code that a payer scans. Raises Conflict `topup-not-open` when it cannot be paid now."""
    cell, row = await topup_of(call, topup)
    checkout = _checkout(call, cell.number, row)
    if row.shows != Shows.QR:
        raise Unprocessable("topup-no-code", f"{row.method} has no code to scan.")
    if checkout is None or checkout.content is None:
        raise Conflict("topup-not-open", f"It is {row.state}: nobody can pay it now.")
    picture = io.BytesIO()
    try:
        code = segno.make_qr(checkout.content, error="m")
    except ValueError:
        raise Unprocessable("topup-no-code", "The provider gave more than a code holds.") from None
    code.save(picture, kind=form, scale=_SCALE, border=_BORDER)
    kinds = {"png": "image/png", "svg": "image/svg+xml"}
    return Response(
        picture.getvalue(), media_type=kinds[form], headers={"Cache-Control": "no-store"}
    )


@router.get(LIST, response_model=Page[TopupOut])
async def list_topups(
    call: OwnReads,
    page: Paged,
    campaign: Annotated[Text | None, Query(max_length=128)] = None,
    user: Annotated[Text | None, Query(max_length=128)] = None,
    state: Annotated[ChargeState | None, Query()] = None,
) -> Reply:
    """Top-ups, newest first: of a campaign, of a user, or all; in a state. An earner gets his."""
    if call.mine is not None:
        user = user or "me"
        if campaign is not None:
            raise NotFound("campaign-unknown", "There is no campaign of this external id.")
    if campaign is not None and user is not None:
        raise Refusal("filters-exclusive", "Filter by campaign or by user, not by both.")
    purpose, target, cells = await _target(call, campaign, user)
    filters = {"state": state and state.value, "purpose": purpose, "target": target}
    position = page.after(call, LIST, filters)
    before = Ref(cast("int", position[1]), cast("int", position[0])) if position else None
    rows: list[tuple[int, int, ChargeRow]] = []
    for cell in cells:
        # In a cell with a higher number the same id comes first.
        least = None if before is None else before.id + (cell.number < before.cell)
        found = await cell.read(
            lambda tx, to=least: view.charges(
                tx, purpose, target, state and state.value, before=to, limit=page.limit
            )
        )
        rows += [(row.id, cell.number, row) for row in found]
    rows.sort(key=lambda row: row[:2], reverse=True)
    shown, known = rows[: page.limit], await accounts.load(call.deps.dbs, call.environment.id)
    last = shown[-1][:2] if len(shown) == page.limit else None
    return listing(
        [_shown(call, known, number, row) for _, number, row in shown],
        next_cursor(call, LIST, filters, last),
    )


async def _target(
    call: Call, campaign: str | None, user: str | None
) -> tuple[str | None, int | None, list[CellDb]]:
    """Whose top-ups are meant, and the cells where they are."""
    if user is not None:
        ref = await call.user(user)
        return "user", ref.id, [call.cell(ref.cell)]
    if campaign is not None:
        name = call.name(campaign)
        found = await call.look(lambda tx: campaigns.get(tx, call.environment.id, name))
        return "campaign", found.number, [call.cell(found.home_cell)]
    return None, None, call.cells


@router.post("/v1/topups/{topup}/close", response_model=TopupOut)
async def close_topup(
    call: OwnWithdrawals,
    topup: TopupPath,
    body: Nothing | None = None,  # noqa: ARG001 - an empty object may come
) -> Reply:
    """Wish that nobody pays it any more. Again changes nothing.

    Providers close a charge some minutes after it was opened at the earliest, and have the last
    word: who was quicker has paid, and is credited.
    """
    cell, row = await topup_of(call, topup)
    closed = await call.write(cell, lambda tx: request.close(tx, row.id, call.mine))
    known = await accounts.load(call.deps.dbs, call.environment.id)
    return Reply(_shown(call, known, cell.number, closed))
