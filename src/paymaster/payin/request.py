"""Ask for a payment: a row, due at once. The provider is told of it afterwards, by the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import reference, text_id
from paymaster.kernel.money import Money
from paymaster.payin import sealed, store
from paymaster.payin.machine import CHARGE, ChargeEvent, ChargeState
from paymaster.payin.moves import move, tell
from paymaster.payin.sealed import Secret
from paymaster.payin.store import ChargeRow
from paymaster.rails.base import Rail
from paymaster.rails.payin import Charge, Method, TakesPayments
from paymaster.secrets.sealing import Sealer

MINIMUM, MAXIMUM = "payin_minimum", "payin_maximum"
"""Settings of a rail account: the least and the most that a payer is asked for, in minor units."""

SHORTEST, LONGEST = timedelta(minutes=5), timedelta(hours=2)
"""How long a charge can be paid: providers close none before, and forget what opens it after."""

CLOSES_AFTER: Final = timedelta(minutes=5, seconds=10)
"""So long after it was opened a provider may be asked to close a charge."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A payment to ask for. `target_id` is a campaign's number or a user's id here."""

    purpose: Literal["campaign", "user"]
    target_id: int
    account: PayoutAccount
    amount: Money
    method: str
    description: str
    lasts: timedelta
    payer: str | None = field(default=None, repr=False)
    client_ip: str | None = field(default=None, repr=False)
    back_to: str | None = None


def taker(rails: Mapping[str, Rail], account: PayoutAccount) -> TakesPayments | None:
    """The rail of an account, if it takes payments; every rail that does is also in the table."""
    rail: object = rails.get(account.rail.rail)
    return rail if isinstance(rail, TakesPayments) else None


def methods_of(rails: Mapping[str, Rail], account: PayoutAccount) -> Mapping[str, Method]:
    """The ways to pay into an account; none while it is paused or is not set up for it."""
    rail = taker(rails, account)
    return rail.pay_methods(account.rail) if rail is not None and account.active else {}


def check(rails: Mapping[str, Rail], ask: Ask, now: datetime) -> Method:
    """Whether it can be asked for, without the network; the way to pay.

    Raises Unprocessable `topup-unavailable`, `topup-method`, `topup-currency`, `topup-amount`,
    `topup-lasts`, `topup-payer`, or the rail's `charge-refused`.
    """
    account, amount = ask.account, ask.amount
    rail, offered = taker(rails, account), methods_of(rails, account)
    if rail is None or not offered:
        raise Unprocessable("topup-unavailable", f"{account.rail.name} takes no payments now.")
    method = offered.get(ask.method)
    if method is None:
        raise Unprocessable("topup-method", f"Ways to pay here are: {', '.join(sorted(offered))}.")
    if amount.currency != account.rail.currency:
        raise Unprocessable("topup-currency", f"The account takes {account.rail.currency}.")
    least, most = max(1, account.number(MINIMUM, 1)), account.number(MAXIMUM, 0)
    if amount.minor < least or (most and amount.minor > most):
        at_most = f" and at most {Money(most, amount.currency).text()}" if most else ""
        raise Unprocessable(
            "topup-amount", f"Pay at least {Money(least, amount.currency).text()}{at_most}."
        )
    if not SHORTEST <= ask.lasts <= LONGEST:
        raise Unprocessable("topup-lasts", "It can be paid for between 5 minutes and 2 hours.")
    if method.needs_payer and not ask.payer:
        raise Unprocessable(
            "topup-payer", f"{ask.method} needs the payer's identity at the provider."
        )
    rail.check_charge(account.rail, charge_of(ask, "0" * 15, now))
    return method


def charge_of(ask: Ask, key: str, now: datetime) -> Charge:
    """What the rail is asked for."""
    return Charge(
        key,
        ask.amount,
        ask.method,
        ask.description,
        now,
        now + ask.lasts,
        ask.payer,
        ask.client_ip,
        ask.back_to,
    )


async def request(tx: CellTx, rails: Mapping[str, Rail], sealer: Sealer, ask: Ask) -> ChargeRow:
    """Write a charge, audited. Raises what `check` raises."""
    method = check(rails, ask, tx.now)
    number, entry_id = tx.ids(2)
    secret = Secret(ask.payer, ask.client_ip, ask.back_to)
    row = ChargeRow(
        id=number,
        key=reference(tx.cell, number),
        purpose=ask.purpose,
        target_id=ask.target_id,
        rail_account_id=ask.account.id,
        amount=ask.amount.minor,
        asset=ask.amount.currency,
        method=method.name,
        shows=method.shows.value,
        description=ask.description,
        state=CHARGE.initial.value,
        maybe_there=False,
        found=None,
        provider_id=None,
        code=None,
        detail=None,
        refunded=0,
        entry_id=entry_id,
        created_at=tx.now,
        expires_at=tx.now + ask.lasts,
        opened_at=None,
        close_at=None,
        paid_at=None,
        ended_at=None,
        booked_on=None,
        booked_line=None,
        due_at=tx.now,
        tries=0,
        lease_token=0,
        actor=tx.actor.name,
        trace_id=tx.trace_id,
        sealed=sealed.close(sealer, tx.cell, number, secret),
    )
    await store.insert(tx, row)
    subject = text_id("tp", tx.cell, number)
    detail = {
        "target": row.target_text(tx.cell),
        "amount": ask.amount.text(),
        "currency": row.asset,
    }
    await audit.record(tx, [audit.Act("topup.request", subject, None, detail)])
    await tell(tx, row, None)
    return row


async def close(tx: CellTx, charge_id: int, user_id: int | None = None) -> ChargeRow:
    """Wish that nobody pays it any more; the provider has the last word.

    A charge that the provider cannot know is closed at once. Again changes nothing. `user_id` is
    the earner who asks, who has his own charges only. Raises NotFound, Conflict `topup-paid`.
    """
    row = (await store.lock_ids(tx, [charge_id])).get(charge_id)
    if row is None or (user_id is not None and (row.purpose, row.target_id) != ("user", user_id)):
        raise NotFound("not-found", "There is no such top-up.")
    if row.state in {ChargeState.PAID, ChargeState.DISPUTED}:
        raise Conflict("topup-paid", "It was paid: give the money back instead.")
    if row.state == ChargeState.CLOSED or row.close_at is not None:
        return row
    subject = text_id("tp", tx.cell, charge_id)
    await audit.record(tx, [audit.Act("topup.close", subject)])
    if row.state == ChargeState.REQUESTED and not row.maybe_there:
        return await move(tx, row, ChargeEvent.CLOSE, close_at=tx.now)
    return await _wish(tx, row)


async def _wish(tx: CellTx, row: ChargeRow) -> ChargeRow:
    due = tx.now if row.state != ChargeState.OPENING else row.due_at
    wished = replace(row, close_at=tx.now, due_at=due)
    await store.write(tx, wished)
    return wished
