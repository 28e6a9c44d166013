"""Amounts as the sandbox reads and writes them: decimal text outside, integers inside."""

import re

_EXPONENTS = {
    "BHD": 3, "BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "IQD": 3, "ISK": 0, "JOD": 3, "JPY": 0,
    "KMF": 0, "KRW": 0, "KWD": 3, "LYD": 3, "OMR": 3, "PYG": 0, "RWF": 0, "TND": 3, "UGX": 0,
    "VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
}  # fmt: skip
_CURRENCY = re.compile(r"[A-Z]{3}")
_PLAIN = re.compile(r"(0|[1-9][0-9]{0,13})(?:\.([0-9]{1,5}))?")


def check_currency(currency: str) -> str:
    """Return the code if it looks like ISO 4217. Raises ValueError otherwise."""
    if _CURRENCY.fullmatch(currency) is None:
        raise ValueError(f"{currency!r} is not a currency code")
    return currency


def exponent(currency: str) -> int:
    """Number of decimals of the currency's minor unit (ISO 4217)."""
    return _EXPONENTS.get(currency, 2)


def parse_exact(text: str, currency: str) -> int:
    """Minor units of a decimal text with exactly the currency's decimals, zero or more.

    Raises ValueError for anything else: signs, spaces, leading zeros, exponents, other precision.
    """
    digits = exponent(currency)
    match = _PLAIN.fullmatch(text)
    if match is None or len(match[2] or "") != digits:
        raise ValueError(f"amount must be decimal text with {digits} decimals for {currency}")
    return int(match[1] + (match[2] or ""))


def parse_decimal(text: str, currency: str) -> int:
    """Minor units of an XML decimal; fewer decimals and trailing zeros are fine.

    Raises ValueError if the text is no plain decimal or is finer than the currency.
    """
    digits = exponent(currency)
    match = _PLAIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an amount")
    fraction = (match[2] or "").rstrip("0")
    if len(fraction) > digits:
        raise ValueError(f"{text!r} has more decimals than {currency}")
    return int(match[1] + fraction.ljust(digits, "0"))


def format_minor(minor: int, currency: str) -> str:
    """Decimal text of minor units, with a leading minus if negative."""
    digits = exponent(currency)
    sign = "-" if minor < 0 else ""
    text = str(abs(minor)).rjust(digits + 1, "0")
    return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else sign + text
