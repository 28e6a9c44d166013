"""What is asked for, what speaks against it, and what it costs: decided from facts that were read.

Nothing here reads or writes. `price` is where a request gets its figures: from its quote, from the
fee plan in force, or without a fee where there is no plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from paymaster.db.tx import Actor
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.people.factors.proof import Shown
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.fees import Charge, Fault, charge
from paymaster.withdraw.quote_store import Quote
from paymaster.withdraw.refused import UNDER_REVIEW
from paymaster.withdraw.store import Facts


@dataclass(slots=True)
class RequestWithdrawal:
    """Pay `amount` to a destination of the user.

    `quote_id` names the quote whose figures are charged; without one the fee plan in force is
    applied. `fee` sets both aside: this much is taken on top. `actor` and `trace_id` are the
    caller's where a transaction carries several callers' requests; None means the transaction's.
    `shown` is the proof of a second factor, where one is asked for or was given.
    """

    user_id: int
    destination_id: int
    amount: Money
    fee: Money | None = None
    actor: Actor | None = None
    trace_id: str | None = None
    shown: Shown | None = None
    quote_id: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The smallest and the largest amount of one request, in one currency."""

    minimum: Money | None = None
    maximum: Money | None = None


_HELD: Final = ("account-under-review", UNDER_REVIEW)
_DEBT: Final = (
    "debt-open",
    "Something is owed in this currency; later earnings pay it back first.",
)
_USED: Final = ("quote-used", "This quote was used already; each serves once. Ask for a new one.")


def fault_of_facts(found: Facts, now: datetime) -> Fault | None:
    """What of user and destination stands against a withdrawal; None when nothing does."""
    fault = _user_fault(found.user_status) or _destination_fault(found, now)
    if fault is None and found.held:
        return _HELD
    if fault is None and found.payable_at is not None and found.payable_at > now:
        moment = rfc3339(found.payable_at)
        return "first-payout-wait", f"The first withdrawal can be asked for from {moment}."
    return fault


def _user_fault(status: str | None) -> Fault | None:
    if status is None:
        return "user-not-found", "There is no such user."
    if status != "active":
        return f"user-{status}", f"The user is {status} and cannot withdraw."
    return None


def _destination_fault(found: Facts, now: datetime) -> Fault | None:
    if found.state is None or found.usable_at is None:
        return "destination-not-found", "The user has no such payout destination."
    if found.state == "paused":
        return (
            "destination-paused",
            "Payments to this destination have failed again and again: correct or replace it.",
        )
    if found.state != "active":
        return "destination-closed", "The payout destination is closed; add another one."
    if found.usable_at > now:
        return (
            "destination-not-usable-yet",
            f"The destination is new; it can be used from {rfc3339(found.usable_at)}.",
        )
    return None


def amount_fault(command: RequestWithdrawal, limits: Limits | None) -> Fault | None:
    """What stands against the amount by itself."""
    if command.fee is not None and command.fee.minor < 0:
        return NOT_POSITIVE
    return limit_fault(command.amount, limits)


NOT_POSITIVE: Final = ("amount-not-positive", "Ask for an amount above zero.")
"""What stands against zero and less."""


def limit_fault(amount: Money, limits: Limits | None) -> Fault | None:
    """An amount that is not above zero or not within limits."""
    if amount.minor <= 0:
        return NOT_POSITIVE
    if limits and limits.minimum is not None and amount < limits.minimum:
        return "amount-below-minimum", f"The smallest withdrawal is {limits.minimum}."
    if limits and limits.maximum is not None and amount > limits.maximum:
        return "amount-above-maximum", f"The largest withdrawal is {limits.maximum}."
    return None


def price(
    command: RequestWithdrawal,
    found: Facts,
    quotes: Mapping[int, Quote],
    plans: Plans,
    now: datetime,
) -> Charge | Fault | None:
    """What a request takes, or why not; None when it is what it asks for and nothing else.

    Slugs: `debt-open`; `quote-not-found` (also for another user's), `quote-used`, `quote-differs`,
    `quote-expired`; `quote-required` for another currency than the destination's, or
    `currency-mismatch` where that is not offered; `amount-below-fee`.
    """
    amount = command.amount
    if found.owes:
        return _DEBT
    if command.quote_id is not None:
        return _quoted(command, quotes.get(command.quote_id), now)
    kind, takes = found.kind or "", found.currency or ""
    if takes != amount.currency:
        if plans.choose(kind, amount.currency, takes) is not None:
            return (
                "quote-required",
                f"The destination takes {takes}: ask for a quote first, it locks the rate.",
            )
        return (
            "currency-mismatch",
            f"The destination takes {takes}, the request is in {amount.currency}.",
        )
    if command.fee is not None:
        fee = command.fee.minor
        if amount.minor + fee > MAX_MINOR:
            return "insufficient-funds", "The available balance does not cover this."
        return Charge(amount.minor, fee, amount.currency, amount.minor, amount.currency)
    plan = plans.choose(kind, takes, takes) if plans.plans else None
    return None if plan is None else charge(plan, amount)


def _quoted(command: RequestWithdrawal, quote: Quote | None, now: datetime) -> Charge | Fault:
    """Exactly the figures of the quote, or nothing."""
    if quote is None or quote.user_id != command.user_id:
        return "quote-not-found", "The user has no such quote."
    if quote.withdrawal_id is not None:
        return _USED
    amount = command.amount
    if quote.destination_id != command.destination_id:
        return "quote-differs", "The quote is for another destination of the user."
    quoted = Money(quote.request_amount, quote.asset)
    if quoted != amount or command.fee is not None:
        return "quote-differs", f"The quote is for {quoted}: send that amount."
    if now >= quote.expires_at:
        return "quote-expired", f"The quote was good until {rfc3339(quote.expires_at)}; ask anew."
    return quote.charge


def second_use(command: RequestWithdrawal, used: set[int]) -> Fault | None:
    """Of several requests of one batch under one quote only the first may use it."""
    if command.quote_id is None:
        return None
    if command.quote_id in used:
        return _USED
    used.add(command.quote_id)
    return None
