"""What answers about fees, rates and quotes look like."""

from __future__ import annotations

from typing import Any, Literal

from paymaster.api.shapes import MoneyOut, Shape, Time
from paymaster.api.shapes_status import ExpectedOut


class FeeLineOut(Shape):
    """What one component of the plan adds; `maximum` takes off. `ppm` is of `percent` only."""

    line: Literal["flat", "percent", "minimum", "maximum"]
    amount: MoneyOut
    ppm: int | None


class ExchangeOut(Shape):
    """The locked rate: units of the payout's currency for one of the amount's.

    `rate` and `mid_rate` are rounded for reading; `exact_rate` is the fraction that was used.
    """

    rate: str
    exact_rate: str
    mid_rate: str
    markup_ppm: int
    source: str
    observed_at: Time


class QuoteOut(Shape):
    """What a withdrawal would take and give. `amount` is what the request must name.

    `expected` is when it would arrive if it were asked for now; null when used or expired.
    """

    language: str
    id: str
    user: str
    destination: str
    amount: MoneyOut
    held: MoneyOut
    fee: MoneyOut
    fee_lines: list[FeeLineOut]
    fee_payer: Literal["sender", "receiver"]
    fee_plan: str | None
    payout: MoneyOut
    exchange: ExchangeOut | None
    expected: ExpectedOut | None
    created_at: Time
    expires_at: Time
    withdrawal: str | None


class FeePlanOut(Shape):
    """A version of a fee plan; amounts are in its currency."""

    name: str
    version: int
    currency: str
    payer: Literal["sender", "receiver"]
    destination_kinds: list[str] | None
    payout_currencies: list[str] | None
    rails: list[str] | None
    flat: str
    percent_ppm: int
    tiers: list[dict[str, Any]]
    minimum: str | None
    maximum: str | None
    fee_on_return: Literal["kept", "given_back"]
    exchange: dict[str, Any] | None
    retired: bool


class RateOut(Shape):
    """One unit of `base` is `rate` units of `counter`."""

    source: Literal["ecb", "provider", "operator"]
    base: str
    counter: str
    rate: str
    observed_at: Time
    valid_until: Time
    reference: str


class RecordedOut(Shape):
    """How many rates were new, and how many were known already."""

    new: int
    known: int
