"""Quotes: what a withdrawal would take and give, shown before it is agreed to and then locked.

The plan and the rate come from the directory, so a quote is made in two steps: `terms` there, with
everything that it depends on, then `make` in the user's cell. A quote sets no money aside. It is
good for one withdrawal until it expires; that is decided in `request_checks.price`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound, RateLimited, Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.withdraw import fees, quote_store, store
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.fees import Charge, FeePlan
from paymaster.withdraw.quote_store import Quote
from paymaster.withdraw.rates import Found
from paymaster.withdraw.request_checks import NOT_POSITIVE, Limits, fault_of_facts, limit_fault

KEPT: Final = timedelta(days=30)
"""How long a quote that nobody used is shown after it expired. Used ones stay."""

Side = Literal["amount", "payout"]
"""Whether the amount to withdraw is given, or what the payee shall get."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a quote is asked for.

    `currency` is what is withdrawn. `money` is in it for the side `amount`, and in the
    destination's currency for the side `payout`.
    """

    user_id: int
    destination_id: int
    side: Side
    money: Money
    currency: str


@dataclass(frozen=True, slots=True)
class Destination:
    """What the terms depend on."""

    kind: str
    currency: str


async def destination_of(tx: CellRead, wanted: Wanted) -> Destination:
    """Where it would go. Raises Unprocessable when it could not be withdrawn at all now.

    Slugs: those of a request about user and destination, `currency-mismatch` when what the payee
    shall get is not in the destination's currency.
    """
    found = await store.facts_of(tx, wanted.user_id, wanted.destination_id, wanted.currency)
    fault = fault_of_facts(found, tx.now)
    if fault is not None:
        raise Unprocessable(*fault)
    if wanted.side == "payout" and wanted.money.currency != found.currency:
        raise Unprocessable(
            "currency-mismatch",
            f"The destination takes {found.currency}, not {wanted.money.currency}.",
        )
    return Destination(found.kind or "", found.currency or "")


def plan_for(plans: Plans, wanted: Wanted, destination: Destination) -> FeePlan | None:
    """The plan that applies. Raises Unprocessable `exchange-not-offered`."""
    plan = plans.choose(destination.kind, wanted.currency, destination.currency)
    if plan is None and wanted.currency != destination.currency:
        raise Unprocessable(
            "exchange-not-offered",
            f"No fee plan pays {wanted.currency} out in {destination.currency}.",
        )
    return plan


def figures(plan: FeePlan | None, wanted: Wanted, to: Destination, rate: Found | None) -> Charge:
    """What is charged. Raises Unprocessable with the slugs of `fees`, `amount-not-positive`."""
    if wanted.money.minor <= 0:
        raise Unprocessable(*NOT_POSITIVE)
    by_amount = wanted.side == "amount"
    if plan is None or wanted.currency == to.currency:
        found = (fees.charge if by_amount else fees.charge_for)(plan, wanted.money)
    elif rate is None:
        raise Unprocessable("rate-missing", "There is no rate between these currencies.")
    elif by_amount:
        found = fees.exchange(plan, wanted.money, to.currency, rate.value)
    else:
        found = fees.exchange_for(plan, wanted.money, rate.value)
    if not isinstance(found, Charge):
        raise Unprocessable(*found)
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """Everything that a quote rests on."""

    plan: FeePlan | None
    rate: Found | None
    limits: Mapping[str, Limits]
    lasts: timedelta
    most_open: int = 20


async def make(tx: CellTx, wanted: Wanted, terms: Terms) -> Quote:
    """Store a quote.

    Raises Unprocessable with the slugs of `destination_of` and of `fees`, and those of a request
    about the amount; RateLimited `too-many-quotes`.
    """
    to = await destination_of(tx, wanted)
    charge = figures(terms.plan, wanted, to, terms.rate)
    asked = Money(charge.asked, charge.asset)
    fault = limit_fault(asked, terms.limits.get(charge.asset))
    if fault is not None:
        raise Unprocessable(*fault)
    await _require_room(tx, wanted.user_id, terms.most_open)
    markup = terms.plan.exchange.markup_ppm if terms.plan and terms.plan.exchange else 0
    rate = terms.rate if charge.rate is not None else None
    quote = Quote(
        tx.id(),
        wanted.user_id,
        wanted.destination_id,
        wanted.side,
        wanted.money.minor,
        charge.amount,
        charge.fee,
        charge.asset,
        charge.payout,
        charge.payout_asset,
        charge.payer,
        charge.plan,
        charge.fee_back,
        fees.wire_lines(charge.lines, charge.asset),
        charge.rate,
        rate and fees.written(rate.value),
        None if rate is None else markup,
        rate and rate.source,
        rate and rate.observed_at,
        tx.now,
        tx.now + terms.lasts,
        tx.actor.name,
        tx.trace_id,
        None,
    )
    await quote_store.insert(tx, quote)
    return quote


async def _require_room(tx: CellTx, user_id: int, most: int) -> None:
    room_at = await quote_store.room_at(tx, user_id, most)
    if room_at is not None:
        raise RateLimited(
            "too-many-quotes",
            f"The user has {most} open quotes; use one, or wait until one has expired.",
            retry_after_seconds=max(1, math.ceil((room_at - tx.now).total_seconds())),
        )


async def get(tx: CellRead, quote_id: int, *, user_id: int | None = None) -> Quote:
    """A quote; only if it is `user_id`'s, where given. Raises NotFound `not-found`."""
    found = await quote_store.find(tx, quote_id)
    if found is None or user_id not in (None, found.user_id):
        raise NotFound("not-found", "There is no such quote.")
    return found


async def forget(tx: CellTx, limit: int) -> int:
    """Remove quotes that nobody used, long after they expired; how many went."""
    return await quote_store.forget(tx, tx.now - KEPT, limit)


def is_open(quote: Quote, now: datetime) -> bool:
    """Whether it can still be used."""
    return quote.withdrawal_id is None and now < quote.expires_at


def shown(cell: int, quote: Quote) -> dict[str, Any]:
    """A quote for JSON. What counts is the amounts; `rate` is for reading, `exact_rate` for you."""

    def wire(minor: int, currency: str) -> dict[str, str]:
        return {"amount": Money(minor, currency).text(), "currency": currency}

    exchange = None
    if quote.rate is not None and quote.mid_rate is not None:
        exchange = {
            "rate": fees.readable(quote.rate),
            "exact_rate": quote.rate,
            "mid_rate": fees.readable(quote.mid_rate),
            "markup_ppm": quote.markup_ppm,
            "source": quote.rate_source,
            "observed_at": quote.rate_observed_at and rfc3339(quote.rate_observed_at),
        }
    return {
        "id": text_id("qt", cell, quote.id),
        "user": text_id("us", cell, quote.user_id),
        "destination": text_id("de", cell, quote.destination_id),
        "amount": wire(quote.request_amount, quote.asset),
        "held": wire(quote.amount + quote.fee, quote.asset),
        "fee": wire(quote.fee, quote.asset),
        "fee_lines": quote.fee_lines,
        "fee_payer": quote.fee_payer,
        "fee_plan": quote.fee_plan,
        "payout": wire(quote.payout_amount, quote.payout_asset),
        "exchange": exchange,
        "created_at": rfc3339(quote.created_at),
        "expires_at": rfc3339(quote.expires_at),
        "withdrawal": quote.withdrawal_id and text_id("wd", cell, quote.withdrawal_id),
    }
