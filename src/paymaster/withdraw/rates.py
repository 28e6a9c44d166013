"""Rates between currencies: exact, with their source and their age; never a float.

A rate says how many units of `counter` one unit of `base` is. It is kept as the decimal text that
it came as and counted with as a fraction. From the European Central Bank come rates of EUR; what
is between two other currencies is worked out through EUR, exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from paymaster.kernel.errors import Unprocessable

Source = Literal["ecb", "provider", "operator"]
SOURCES: Final = ("ecb", "provider", "operator")
"""Where rates come from: the central bank's daily file, a provider's quote, a person's entry."""

PIVOT: Final = "EUR"
"""The base of all rates of the European Central Bank."""

_RATE = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,12})?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate as it is stored. It may be used until `valid_for` after it was observed."""

    source: str
    base: str
    counter: str
    rate: str
    observed_at: datetime
    valid_seconds: int
    reference: str = ""

    @property
    def value(self) -> Fraction:
        """Units of `counter` for one of `base`."""
        return fraction(self.rate)

    @property
    def valid_until(self) -> datetime:
        """The moment from which on it is not used any more."""
        return self.observed_at + timedelta(seconds=self.valid_seconds)


def fraction(text: str) -> Fraction:
    """The exact value of a decimal text. Raises Unprocessable `rate-invalid`."""
    if not _RATE.match(text) or not Fraction(text):
        raise Unprocessable(
            "rate-invalid",
            "Write a rate above zero as a decimal text, with at most 12 digits on either side.",
        )
    return Fraction(text)


class Found(NamedTuple):
    """A rate that may be used now: `value` units of the wanted currency for one of the given.

    Of a cross rate `observed_at` is the older of the two moments.
    """

    value: Fraction
    source: str
    observed_at: datetime


def pick(
    rates: Sequence[Rate],
    given: str,
    wanted: str,
    sources: Sequence[str],
    ages: Mapping[str, timedelta],
    now: datetime,
) -> Found | str:
    """The rate of the first source that has a fresh one, or the slug that says why there is none.

    `rates` has the newest of each source and pair. Slugs: `rate-missing`; `rate-stale` when there
    are some, but all older than `ages` allows for their source or beyond the time they were given
    for.
    """
    known = {(rate.source, rate.base, rate.counter): rate for rate in rates}
    stale = False
    for source in sources:
        found = _of(known, source, given, wanted)
        if found is None:
            continue
        value, parts = found
        if all(now < rate.valid_until and now - rate.observed_at <= ages[source] for rate in parts):
            return Found(value, source, min(rate.observed_at for rate in parts))
        stale = True
    return "rate-stale" if stale else "rate-missing"


def _of(
    known: Mapping[tuple[str, str, str], Rate], source: str, given: str, wanted: str
) -> tuple[Fraction, list[Rate]] | None:
    """A source's rate and what it was made from."""
    direct = known.get((source, given, wanted))
    if direct is not None:
        return direct.value, [direct]
    if source != "ecb":
        # Somebody's price for one direction is nobody's price for the other.
        return None
    value, parts = Fraction(1), list[Rate]()
    for currency, power in ((given, -1), (wanted, 1)):
        if currency != PIVOT:
            leg = known.get((source, PIVOT, currency))
            if leg is None:
                return None
            value *= leg.value**power
            parts.append(leg)
    return value, parts


def worked_out(rates: Sequence[Rate], given: str, wanted: str) -> Fraction | None:
    """What the central bank's rates say of a pair, however old they are; None without them."""
    known = {(rate.source, rate.base, rate.counter): rate for rate in rates}
    found = _of(known, "ecb", given, wanted)
    return None if found is None else found[0]
