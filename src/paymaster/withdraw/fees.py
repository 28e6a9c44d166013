"""What a withdrawal costs: the only place where a fee or an exchange is computed.

Pure, and whole numbers only: amounts in minor units, percentages in parts per million, rates as
exact fractions. The rounding rules:

*   A result that falls between two minor units is rounded half to even, and only once: the percent
    line of a fee at the scale of the currency withdrawn, the exchanged amount at the scale of the
    currency that it becomes.
*   Everything else is a sum or a difference. What is set aside is amount and fee; where the payee
    bears the fee, the amount is what the fee leaves. So nothing is made or lost by rounding.
*   What rounding an exchange leaves over, up to half a minor unit either way, stays in the house's
    position in the two currencies (account kind `fx`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from paymaster.kernel.money import MAX_MINOR, Money, exponent

PPM: Final = 1_000_000
"""Parts per million in one."""

Payer = Literal["sender", "receiver"]
"""`sender`: on top of the amount. `receiver`: deducted from it."""


def half_even(numerator: int, denominator: int) -> int:
    """A quotient of whole numbers from zero on, rounded to the nearest one, a half to the even."""
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2):
        return quotient + 1
    return quotient


class Tier(NamedTuple):
    """From this amount on these figures hold in the place of the plan's."""

    since: int
    flat: int
    ppm: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """That a plan pays out in other currencies too: `markup_ppm` is taken off the rate.

    `sources` are the kinds of rates that may be used, the preferred one first.
    """

    markup_ppm: int
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeePlan:
    """One version of a plan. `kinds`, `payouts` and `rails` None stand for every one.

    `kinds` are those of destinations, `payouts` the currencies that the payee gets, `rails` those
    that could make the payment. `gives_back` says whether a payment that comes back gives the fee
    back as well.
    """

    name: str
    version: int
    currency: str
    payer: Payer
    kinds: frozenset[str] | None = None
    payouts: frozenset[str] | None = None
    flat: int = 0
    ppm: int = 0
    tiers: tuple[Tier, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    gives_back: bool = False
    exchange: Exchange | None = None
    retired: bool = False
    rails: frozenset[str] | None = None

    @property
    def label(self) -> str:
        """Name and version, as it is kept with what it was applied to."""
        return f"{self.name}/{self.version}"

    def fits(
        self, kind: str, currency: str, payout: str, rails: frozenset[str] = frozenset()
    ) -> bool:
        """Whether it is for such a withdrawal. `rails` are all that could make the payment.

        One for certain rails fits where no other one could: which it will be is decided later.
        """
        return (
            not self.retired
            and self.currency == currency
            and (self.kinds is None or kind in self.kinds)
            and (self.payouts is None or payout in self.payouts)
            and (currency == payout or self.exchange is not None)
            and (self.rails is None or (bool(rails) and rails <= self.rails))
        )

    @property
    def open_fields(self) -> int:
        """How much it leaves open: the less, the closer it fits."""
        return sum(one is None for one in (self.kinds, self.payouts, self.rails))

    def ties(self, other: FeePlan) -> bool:
        """Whether some withdrawal fits both, and neither of them closer."""
        return (
            not (self.retired or other.retired)
            and self.currency == other.currency
            and self.open_fields == other.open_fields
            and _meet(self.kinds, other.kinds)
            and _meet(self.rails, other.rails)
            and _meet(self._pays, other._pays)
        )

    @property
    def _pays(self) -> frozenset[str] | None:
        """The currencies that it can pay out in."""
        if self.exchange is not None:
            return self.payouts
        own = frozenset({self.currency})
        return own if self.payouts is None else own & self.payouts


def _meet(one: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    """Whether two fields, None for everything, have something in common."""
    if one is None or other is None:
        return one != frozenset() and other != frozenset()
    return not one.isdisjoint(other)


def choose(
    plans: Iterable[FeePlan],
    kind: str,
    currency: str,
    payout: str,
    rails: frozenset[str] = frozenset(),
) -> FeePlan | None:
    """The plan for a withdrawal: of those that fit the closest.

    There are no two such; of plans from before that was checked the first by name.
    """
    fitting = [plan for plan in plans if plan.fits(kind, currency, payout, rails)]
    return min(fitting, key=lambda plan: (plan.open_fields, plan.name), default=None)


class FeeLine(NamedTuple):
    """A line of a fee in minor units; `maximum` takes off. `ppm` belongs to `percent`."""

    name: Literal["flat", "percent", "minimum", "maximum"]
    minor: int
    ppm: int | None = None


def fee_lines(plan: FeePlan, base: int) -> tuple[FeeLine, ...]:
    """The fee on an amount, line by line: what each adds to those before it."""
    flat, ppm = plan.flat, plan.ppm
    for tier in plan.tiers:
        if tier.since <= base:
            flat, ppm = tier.flat, tier.ppm
    lines: list[FeeLine] = []
    if flat:
        lines.append(FeeLine("flat", flat))
    if ppm:
        lines.append(FeeLine("percent", half_even(base * ppm, PPM), ppm))
    total = sum(line.minor for line in lines)
    if plan.minimum is not None and total < plan.minimum:
        lines.append(FeeLine("minimum", plan.minimum - total))
    elif plan.maximum is not None and total > plan.maximum:
        lines.append(FeeLine("maximum", plan.maximum - total))
    return tuple(lines)


def fee(plan: FeePlan, base: int) -> int:
    """The fee on an amount, in minor units."""
    return sum(line.minor for line in fee_lines(plan, base))


class Charge(NamedTuple):
    """What a withdrawal takes and gives; amounts are minor units.

    `amount` and `fee` in `asset` are set aside, `payout` in `payout_asset` leaves. `rate` is how
    many whole units of `payout_asset` one of `asset` becomes, None where nothing is exchanged.
    """

    amount: int
    fee: int
    asset: str
    payout: int
    payout_asset: str
    payer: Payer = "sender"
    plan: str | None = None
    fee_back: bool = False
    rate: str | None = None
    lines: tuple[FeeLine, ...] = ()

    @property
    def total(self) -> Money:
        """What is set aside."""
        return Money(self.amount + self.fee, self.asset)

    @property
    def asked(self) -> int:
        """The amount that a request for this names: without a fee on top, with a fee deducted."""
        return self.amount + self.fee if self.payer == "receiver" else self.amount


Fault = tuple[str, str]
"""A slug and what it says."""

_SMALL: Final = ("amount-below-fee", "The fee leaves nothing of this amount.")
_TINY: Final = ("amount-too-small", "Exchanged, this is less than half of the smallest unit.")
_LARGE: Final = ("insufficient-funds", "The available balance does not cover this.")


def charge(plan: FeePlan | None, asked: Money) -> Charge | Fault:
    """What a withdrawal of this amount takes when nothing is exchanged.

    Slugs: `amount-below-fee`, `insufficient-funds` for more than any balance can be.
    """
    minor, asset = asked.minor, asked.currency
    if plan is None:
        return Charge(minor, 0, asset, minor, asset)
    lines = fee_lines(plan, minor)
    total = sum(line.minor for line in lines)
    amount = minor - total if plan.payer == "receiver" else minor
    if amount <= 0:
        return _SMALL
    if amount + total > MAX_MINOR:
        return _LARGE
    return Charge(
        amount, total, asset, amount, asset, plan.payer, plan.label, plan.gives_back, lines=lines
    )


def charge_for(plan: FeePlan | None, payout: Money) -> Charge | Fault:
    """What must be withdrawn, at the least, for the payee to get exactly this.

    Further slug: `payout-unreachable` when the tiers of the plan skip the amount.
    """
    if plan is None or plan.payer == "sender":
        return charge(plan, payout)
    gross = _gross(plan, payout.minor)
    if gross is None:
        return (
            "payout-unreachable",
            "No amount leaves exactly this after the fee; ask for a little more or less.",
        )
    return charge(plan, Money(gross, payout.currency))


def _gross(plan: FeePlan, net: int) -> int | None:
    """The least amount that leaves `net` after the fee.

    Between two tiers one unit more leaves the same or one unit more, so it can be searched for.
    """
    starts = sorted({1, *(tier.since for tier in plan.tiers)})
    ends = [*(start - 1 for start in starts[1:]), MAX_MINOR]
    for start, end in zip(starts, ends, strict=True):
        low, high = max(start, net), end
        while low < high:
            middle = (low + high) // 2
            if middle - fee(plan, middle) < net:
                low = middle + 1
            else:
                high = middle
        if low == high and low - fee(plan, low) == net:
            return low
    return None


def effective(mid: Fraction, markup_ppm: int) -> Fraction:
    """The rate after the markup, which is taken off it: exact."""
    return mid * Fraction(PPM - markup_ppm, PPM)


def exchanged(money: Money, rate: Fraction, currency: str) -> int:
    """How many minor units of `currency` it becomes; may be zero, or more than any balance."""
    shift = Fraction(10) ** (exponent(currency) - exponent(money.currency))
    exact = money.minor * rate * shift
    return half_even(exact.numerator, exact.denominator)


def written(rate: Fraction) -> str:
    """A rate as it is stored: `n/d`."""
    return f"{rate.numerator}/{rate.denominator}"


def readable(rate: str, digits: int = 8) -> str:
    """A stored rate as people read it: half to even at so many decimals."""
    numerator, _, denominator = rate.partition("/")
    scaled = half_even(int(numerator) * 10**digits, int(denominator))
    whole = str(scaled).zfill(digits + 1)
    return f"{whole[:-digits]}.{whole[-digits:]}"


def exchange(plan: FeePlan, asked: Money, currency: str, mid: Fraction) -> Charge | Fault:
    """What a withdrawal of this amount takes when its payee gets another currency.

    Slugs: those of `charge`, and `amount-too-small`.
    """
    found = charge(plan, asked)
    if not isinstance(found, Charge):
        return found
    rate = _effective(plan, mid)
    payout = exchanged(Money(found.amount, found.asset), rate, currency)
    return _paying(found, payout, currency, rate)


def exchange_for(plan: FeePlan, payout: Money, mid: Fraction) -> Charge | Fault:
    """What must be withdrawn for the payee to get exactly this in another currency.

    Slugs: those of `charge_for`, and `amount-too-small`.
    """
    rate = _effective(plan, mid)
    needed = exchanged(payout, 1 / rate, plan.currency)
    if not 0 < needed <= MAX_MINOR:
        return _LARGE if needed else _TINY
    found = charge_for(plan, Money(needed, plan.currency))
    if not isinstance(found, Charge):
        return found
    return _paying(found, payout.minor, payout.currency, rate)


def _effective(plan: FeePlan, mid: Fraction) -> Fraction:
    return effective(mid, plan.exchange.markup_ppm if plan.exchange else 0)


def _paying(found: Charge, payout: int, currency: str, rate: Fraction) -> Charge | Fault:
    if not 0 < payout <= MAX_MINOR:
        return _LARGE if payout else _TINY
    return found._replace(payout=payout, payout_asset=currency, rate=written(rate))


def wire_lines(lines: Sequence[FeeLine], currency: str) -> list[dict[str, object]]:
    """Lines for JSON."""
    return [
        {
            "line": line.name,
            "amount": {"amount": Money(line.minor, currency).text(), "currency": currency},
            "ppm": line.ppm,
        }
        for line in lines
    ]
