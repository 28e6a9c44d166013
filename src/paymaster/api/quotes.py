"""Quotes: what a withdrawal would take and give, locked for a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import Field

from paymaster.api.context import Call, OwnReads, OwnWithdrawals
from paymaster.api.door import Door
from paymaster.api.explain import Accepted, Accounts, in_language, language_for
from paymaster.api.models import Amount, Body, ExternalId, Reply, Text
from paymaster.api.shapes_quotes import QuoteOut
from paymaster.db.tx import CellRead, ControlRead
from paymaster.kernel.errors import NotFound, Refusal, Unprocessable
from paymaster.kernel.ids import Ref, parse_text_id
from paymaster.kernel.money import Money
from paymaster.people import destinations
from paymaster.withdraw import quote as quotes
from paymaster.withdraw import rates_record
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.quote import Destination, Terms, Wanted
from paymaster.withdraw.quote_store import Quote
from paymaster.withdraw.request import Limits

router = APIRouter(route_class=Door, tags=["quotes"])
QuotePath = Annotated[str, Path(max_length=40, description="`qt_...`")]


class AskQuote(Body):
    """Either `amount`, as the request would name it, or `payout_amount`, what the payee shall get.

    `currency` is what is withdrawn when `payout_amount` is in another one.
    """

    user: ExternalId
    destination: Text
    amount: Amount | None = None
    payout_amount: Amount | None = None
    currency: Annotated[
        Text | None, Field(max_length=12, description="Of the balance to withdraw from.")
    ] = None


@router.post("/v1/quotes", status_code=201, response_model=QuoteOut)
async def make_quote(call: OwnWithdrawals, body: AskQuote, language: Accepted = None) -> Reply:
    """What a withdrawal would cost now. Its figures hold until it expires, for one withdrawal.

    When it would arrive is told, and not promised, in the language of `Accept-Language` or of the
    user's profile.
    """
    ref = await call.user(body.user)
    cell = call.cell(ref.cell)
    wanted = _wanted(ref, body)
    to = await cell.read(lambda tx: quotes.destination_of(tx, wanted))

    async def rules(tx: ControlRead) -> tuple[Mapping[str, Limits], Plans]:
        environment, hot = call.environment.id, call.hot
        return await hot.limits(tx, environment), await hot.plans(tx, environment)

    limits, plans = await call.look(rules)
    terms = await _terms(call, wanted, to, limits, plans)
    made = await call.write(cell, lambda tx: quotes.make(tx, wanted, terms))
    reply = await _told(call, ref.cell, made, to.kind, language)
    reply.status_code = 201
    return reply


def _wanted(ref: Ref, body: AskQuote) -> Wanted:
    if (body.amount is None) == (body.payout_amount is None):
        raise Refusal("quote-sides", "Give either amount or payout_amount.")
    try:
        found = parse_text_id("de", body.destination)
        destination = found.id if found.cell == ref.cell else 0
    except NotFound:
        destination = 0
    if body.amount is not None:
        money = body.amount.money()
        if body.currency not in (None, money.currency):
            raise Refusal("quote-sides", "An amount is withdrawn in its own currency.")
        return Wanted(ref.id, destination, "amount", money, money.currency)
    payout = body.payout_amount.money() if body.payout_amount else Money.zero("EUR")
    currency = Money.zero(body.currency or payout.currency).currency
    return Wanted(ref.id, destination, "payout", payout, currency)


async def _terms(
    call: Call, wanted: Wanted, to: Destination, limits: Mapping[str, Limits], plans: Plans
) -> Terms:
    """Plan and rate, as they are now in the environment. Raises Unprocessable."""
    plan = quotes.plan_for(plans, wanted, to)
    fx = call.deps.settings.fx
    lasts = timedelta(seconds=fx.quote_seconds)
    if plan is None or plan.exchange is None or wanted.currency == to.currency:
        return Terms(plan, None, limits, lasts, fx.open_quotes_per_user)
    sources, now = plan.exchange.sources, await call.now()
    found = await call.look(
        lambda tx: rates_record.between(
            tx, call.environment.id, wanted.currency, to.currency, sources, fx, now
        )
    )
    if isinstance(found, str):
        raise Unprocessable(found, _SAYS[found])
    return Terms(plan, found, limits, lasts, fx.open_quotes_per_user)


_SAYS = {
    "rate-missing": "There is no rate between these currencies from a source that the plan allows.",
    "rate-stale": "The newest rate is too old to be used; it must be refreshed first.",
}


@router.get("/v1/quotes/{quote}", response_model=QuoteOut)
async def get_quote(call: OwnReads, quote: QuotePath, language: Accepted = None) -> Reply:
    """A quote, what used it, and when it would arrive if it were used now."""
    ref = call.ref("qt", quote)
    own = call.principal.user
    if own is not None and own.cell != ref.cell:
        raise NotFound("not-found", "There is no such quote.")

    async def work(tx: CellRead) -> tuple[Quote, str]:
        found = await quotes.get(tx, ref.id, user_id=call.mine)
        return found, (await destinations.get(tx, found.destination_id)).kind

    found, kind = await call.cell(ref.cell).read(work)
    return await _told(call, ref.cell, found, kind, language)


async def _told(call: Call, cell: int, found: Quote, kind: str, header: str | None) -> Reply:
    """A quote with when it would arrive, in the words of the explanation of a withdrawal."""
    tongue, expected = await language_for(call, Ref(cell, found.user_id), header), None
    if quotes.is_open(found, await call.now()):
        known = await Accounts.load(call)
        expected = known.expected_now(kind, found.payout_asset).wire(tongue)
    return in_language(tongue, {**quotes.shown(cell, found), "expected": expected})
