"""Fee plans, rates and quotes for the tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction

from tests.withdrawals import Earner, insert_destination, new_earner
from tests.world import START, World

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.ledger import balance
from paymaster.withdraw import quote
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.fees import Exchange, FeePlan
from paymaster.withdraw.quote import Side, Terms, Wanted
from paymaster.withdraw.quote_store import Quote
from paymaster.withdraw.rates import Found
from paymaster.withdraw.request import Requested, RequestWithdrawal, request

LASTS = timedelta(minutes=15)
PLAN = FeePlan(
    "normal", 1, "EUR", "sender", flat=25, ppm=10_000, exchange=Exchange(5_000, ("ecb",))
)
"""0.25 and one percent on top, 0.5 percent off the rate."""
DEDUCTED = replace(PLAN, payer="receiver")
RATE = Found(Fraction("1.0823"), "ecb", START)
"""Dollars for a euro."""


@dataclass(frozen=True)
class Quoted:
    """An earner with a quote."""

    earner: Earner
    quote: Quote

    def asks(self, amount: str | None = None, quote_id: int | None = None) -> RequestWithdrawal:
        minor = self.quote.request_amount
        money = Money(minor, "EUR") if amount is None else Money.parse(amount, "EUR")
        return RequestWithdrawal(
            self.earner.user_id,
            self.quote.destination_id,
            money,
            quote_id=quote_id or self.quote.id,
        )


async def abroad(world: World, available: str = "100.00", currency: str = "USD") -> Earner:
    """An earner with euros who is paid in another currency."""
    earner = await new_earner(world, available)
    destination_id = await world.run(
        lambda tx: insert_destination(tx, earner.user_id, currency=currency)
    )
    return replace(earner, destination_id=destination_id)


async def quoted(
    world: World,
    earner: Earner,
    amount: str = "40.00",
    *,
    plan: FeePlan | None = PLAN,
    rate: Found | None = RATE,
    side: Side = "amount",
    currency: str = "EUR",
    lasts: timedelta = LASTS,
) -> Quoted:
    """A quote; `currency` is that of `amount`."""
    wanted = Wanted(
        earner.user_id, earner.destination_id, side, Money.parse(amount, currency), "EUR"
    )

    async def work(tx: CellTx) -> Quote:
        return await quote.make(tx, wanted, Terms(plan, rate, {}, lasts))

    return Quoted(earner, await world.run(work))


async def ask(world: World, *commands: RequestWithdrawal, plan: FeePlan = PLAN) -> list[Requested]:
    """Requests in one batch, under one plan."""
    return await world.run(lambda tx: request(tx, commands, plans=Plans(1, (plan,))))


async def accepted(world: World, one: Quoted) -> int:
    """The withdrawal made by a quote."""
    [outcome] = await ask(world, one.asks())
    assert outcome.withdrawal_id is not None, outcome
    return outcome.withdrawal_id


async def position(world: World) -> dict[str, int]:
    """The house's position, minor units by currency."""
    rows = await world.read(lambda tx: balance.of_kind(tx, "fx"))
    return {money.currency: money.minor for _, money in rows}


async def wallet(world: World, earner: Earner) -> tuple[int, int]:
    """What an earner has available and held, in cents of EUR."""
    for one in await world.read(lambda tx: balance.balances(tx, earner.user_id)):
        if one.currency == "EUR":
            return one.available.minor, one.held.minor
    return 0, 0
