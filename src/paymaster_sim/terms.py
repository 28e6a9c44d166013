"""What withdrawals cost in a run, and what is paid out without being asked for.

Whoever is paid in the first way bears the fee on top, and has it back with a payment that comes
back; whoever is paid in the second gets what the fee leaves of the amount, and the fee is kept.
Prices change within a run, from the usual ones to the dear ones and back. The figures are worked
out here once more, from what the plans mean, so that they can be held against those in the books.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from paymaster.db.tx import CellTx, ControlTx
from paymaster.kernel.money import Money
from paymaster.people.factors.proof import Shown
from paymaster.withdraw import automatic, fee_plans
from paymaster.withdraw.automatic import Choice
from paymaster.withdraw.automatic_schedule import Plan
from paymaster_sim.place import ENVIRONMENT

if TYPE_CHECKING:
    from paymaster_sim.mixes import Mix

PLANS = ("on-top", "deducted")
"""The plan of the first way, and of the second."""


@dataclass(frozen=True, slots=True)
class Price:
    """So many minor units and so much of the amount, within bounds."""

    flat: int
    ppm: int
    least: int
    most: int

    def fee(self, minor: int) -> int:
        """The fee on an amount; halves go to the even one."""
        return min(max(self.flat + round(Fraction(minor * self.ppm, 10**6)), self.least), self.most)


USUAL, DEAR = 0, 1
PRICES: Sequence[tuple[Price, Price]] = (
    (Price(5, 12_500, 10, 40), Price(0, 10_000, 25, 60)),
    (Price(9, 20_000, 20, 70), Price(35, 5_000, 35, 90)),
)
"""Usual and dear, for each of the plans."""

THRESHOLD, SCHEDULED = 1200, 500
"""What a balance must have reached for those who are paid by themselves, in minor units."""

_MOST, _DAY = 3000, 21
_THRESHOLDS, _SCHEDULES = 12, 16
"""Of so many people one has a threshold, and one a schedule. All schedules are due on the same day
of a week: each day on which somebody is paid has its price."""

_NOBODY_ASKS = Shown(required=False)


def fees(way: int, asked: int) -> set[tuple[int, int]]:
    """`(amount, fee)` that may be set aside when somebody has asked for so much."""
    found = {PRICES[n][way].fee(asked) for n in (USUAL, DEAR)}
    return {(asked, fee) if way == 0 else (asked - fee, fee) for fee in found}


def priced(way: int, amount: int, fee: int) -> bool:
    """Whether a withdrawal has the fee of one of the plans that are ever in force."""
    return (amount, fee) in fees(way, amount if way == 0 else amount + fee)


def gives_back(way: int) -> bool:
    """Whether a payment that comes back brings the fee back."""
    return way == 0


async def put(tx: ControlTx, mix: Mix, prices: int) -> None:
    """Put usual or dear prices in force."""
    before = {plan.name: plan.version for plan in (await fee_plans.current(tx, ENVIRONMENT)).plans}
    kinds = [way(0)[0] for way in mix.ways.values()]
    for way, name in enumerate(PLANS):
        document = _document(mix.currency, kinds[way], way, PRICES[prices][way])
        await fee_plans.put(tx, ENVIRONMENT, name, document, before.get(name, 0))


def _document(currency: str, kind: str, way: int, price: Price) -> Mapping[str, Any]:
    return {
        "currency": currency,
        "payer": ("sender", "receiver")[way],
        "destination_kinds": [kind],
        "flat": Money(price.flat, currency).text(),
        "percent_ppm": price.ppm,
        "minimum": Money(price.least, currency).text(),
        "maximum": Money(price.most, currency).text(),
        "fee_on_return": "given_back" if gives_back(way) else "kept",
    }


async def choose(
    tx: CellTx, mix: Mix, number: int, user_id: int, destinations: Mapping[str, int]
) -> None:
    """What the n-th person wants to be paid without asking, if anything."""
    first, second = (destinations[name] for name in mix.ways)
    if number % _THRESHOLDS == 3:
        choice = Choice(Plan("threshold", Money(THRESHOLD, mix.currency)), first)
    elif number % _SCHEDULES == 6:
        least, most = Money(SCHEDULED, mix.currency), Money(_MOST, mix.currency)
        choice = Choice(Plan("schedule", least, most, "month", _DAY), second)
    else:
        return
    await automatic.choose(tx, user_id, choice, _NOBODY_ASKS)
