"""Money: an integer count of minor units and its currency, and nothing else.

The exponent of a currency is how many decimals its minor unit has (ISO 4217). Money of two
currencies never meets: adding or comparing them raises `Broken`, because it is a fault in the
code, not in the input.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from paymaster.kernel.errors import Broken, Refusal

MAX_MINOR = 2**63 - 1
"""The largest amount a balance can hold (bigint)."""

_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_TWO = """AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD
CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ
GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA
MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR
RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD
TWD TZS UAH USD UYU UZS VED VES WST XCD YER ZAR ZMW ZWG"""
_THREE = "BHD IQD JOD KWD LYD OMR TND"

EXPONENTS: dict[str, int] = {
    **dict.fromkeys(_ZERO.split(), 0),
    **dict.fromkeys(_TWO.split(), 2),
    **dict.fromkeys(_THREE.split(), 3),
}
"""ISO 4217 currencies in circulation and their exponents."""

_AMOUNT = re.compile(r"(-?)(0|[1-9][0-9]{0,17})(?:\.([0-9]{1,9}))?\Z", re.ASCII)


def exponent(currency: str) -> int:
    """Decimals of the minor unit. Raises Refusal `currency-unknown`."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise Refusal(
            "currency-unknown",
            f"{currency[:12]!r} is not an ISO 4217 currency code in upper case.",
        ) from None


@dataclass(frozen=True, slots=True)
class Money:
    """`minor` units of `currency`; negative amounts are allowed and mean the other direction."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if abs(self.minor) > MAX_MINOR:
            raise Refusal("amount-too-large", "The amount does not fit into 63 bits.")

    @classmethod
    def parse(cls, text: str, currency: str) -> Money:
        """Read a decimal string such as `1.23`.

        Raises Refusal `currency-unknown`, `amount-malformed` or `amount-precision` (more decimals
        than the currency has; nothing is ever rounded on the way in).
        """
        decimals = exponent(currency)
        match = _AMOUNT.match(text)
        if match is None:
            raise Refusal(
                "amount-malformed", 'Write the amount as a decimal string such as "12.34".'
            )
        sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
        if len(fraction) > decimals:
            raise Refusal(
                "amount-precision",
                f"{currency} has {decimals} decimals; {text!r} has {len(fraction)}.",
            )
        minor = int(whole) * 10**decimals + int((fraction + "0" * decimals)[:decimals] or "0")
        return cls(-minor if sign else minor, currency)

    @staticmethod
    @lru_cache(maxsize=256)
    def zero(currency: str) -> Money:
        """Nothing of a currency."""
        return Money(0, currency)

    def text(self) -> str:
        """The decimal string, with all the decimals of the currency."""
        decimals = exponent(self.currency)
        sign, digits = ("-" if self.minor < 0 else ""), str(abs(self.minor)).zfill(decimals + 1)
        if decimals == 0:
            return sign + digits
        return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"

    def __str__(self) -> str:
        return f"{self.text()} {self.currency}"

    def _same(self, other: Money) -> None:
        if self.currency != other.currency:
            raise Broken("currency-mixed", f"{self.currency} met {other.currency}.")

    def __add__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.minor + other.minor, self.currency)

    def __sub__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.minor - other.minor, self.currency)

    def __neg__(self) -> Money:
        return Money(-self.minor, self.currency)

    def __lt__(self, other: Money) -> bool:
        self._same(other)
        return self.minor < other.minor

    def __le__(self, other: Money) -> bool:
        self._same(other)
        return self.minor <= other.minor

    def __gt__(self, other: Money) -> bool:
        return other < self

    def __ge__(self, other: Money) -> bool:
        return other <= self

    def __bool__(self) -> bool:
        return self.minor != 0

    def allocate(self, weights: Sequence[int]) -> list[Money]:
        """Split by whole-number weights; the remainder goes one unit each to the first shares.

        The parts always add up to the whole. Raises Broken when no weight is positive.
        """
        total = sum(weights)
        if total <= 0 or min(weights) < 0:
            raise Broken("allocation-weights", "Weights must not be negative, one must be positive")
        sign = -1 if self.minor < 0 else 1
        parts = [abs(self.minor) * weight // total for weight in weights]
        remainder = abs(self.minor) - sum(parts)
        for index, weight in enumerate(weights):
            if remainder and weight:
                parts[index] += 1
                remainder -= 1
        return [Money(sign * part, self.currency) for part in parts]
