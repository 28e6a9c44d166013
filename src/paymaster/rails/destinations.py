"""Kinds of payout destination, as data: what a user must give, how it is checked and shown.

A destination is checked before it is stored, so that a mistyped account number costs nothing. Only
what is certain refuses: length and checksum. Bank directories go out of date, so they do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from paymaster.kernel.errors import Problem, Unprocessable
from paymaster.rails import kinds
from paymaster.rails.kind import Checked, Kind, compact
from paymaster.rails.latin import transliterate

_LENGTHS = """AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22
DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22
IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27
MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24
SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"""
IBAN_LENGTHS: dict[str, int] = {word[:2]: int(word[2:]) for word in _LENGTHS.split()}
"""Length of an IBAN by country, from the ISO 13616 registry kept by SWIFT (release 101)."""

MAX_HOLDER = 70
"""Longest account holder's name in SEPA, counted after transliteration."""

_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[0-9A-Z]{1,30}\Z", re.ASCII)
_BIC = re.compile(r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?\Z", re.ASCII)
_WALLET = re.compile(r"SW-[0-9A-Z]{10}\Z", re.ASCII)
_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def iban_fault(iban: str) -> str | None:
    """Why this is no IBAN (compact form); None when it is one (ISO 13616, ISO 7064 mod 97-10)."""
    if not _IBAN.match(iban):
        return "An IBAN is two letters, two digits, then letters and digits."
    length = IBAN_LENGTHS.get(iban[:2])
    if length is None:
        return f"No country with the code {iban[:2]} issues IBANs."
    if len(iban) != length:
        return f"An IBAN of {iban[:2]} has {length} characters; this one has {len(iban)}."
    turned = iban[4:] + iban[:4]
    number = int("".join(str(_BASE36.index(letter)) for letter in turned))
    if number % 97 != 1 or not 2 <= int(iban[2:4]) <= 98:
        return "The check digits do not match: one or more characters are wrong."
    return None


def mask_iban(iban: str) -> str:
    """Country and the last four characters, for example `DE** **** 3000`."""
    return f"{iban[:2]}** **** {iban[-4:]}"


def wallet_check_character(nine: str) -> str:
    """The check character of a sandbox wallet: weighted sum of the nine characters, mod 36."""
    total = sum((index + 1) * _BASE36.index(letter) for index, letter in enumerate(nine))
    return _BASE36[total % 36]


def _iban(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    iban, holder = compact(details["iban"]), " ".join(details["holder"].split())
    fault = iban_fault(iban)
    if fault is not None:
        problems.append(Problem("/details/iban", fault))
    written = transliterate(holder)
    if not any(letter.isalnum() for letter in written):
        problems.append(
            Problem("/details/holder", "Write the holder's name in Latin letters: banks need it.")
        )
    elif len(written) > MAX_HOLDER:
        problems.append(
            Problem("/details/holder", f"The name is longer than {MAX_HOLDER} characters.")
        )
    normal = {"iban": iban, "holder": holder}
    if details.get("bic"):
        normal["bic"] = compact(details["bic"])
        if not _BIC.match(normal["bic"]):
            problems.append(Problem("/details/bic", "A BIC has 8 or 11 letters and digits."))
    return None if problems else Checked(normal, mask_iban(iban), f"iban:{iban}")


def _sandbox_wallet(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    wallet = compact(details["wallet"])
    if not _WALLET.match(wallet):
        problems.append(Problem("/details/wallet", "A wallet is SW- and ten letters or digits."))
    elif wallet[-1] != wallet_check_character(wallet[3:-1]):
        problems.append(
            Problem("/details/wallet", "The last character does not match: one is mistyped.")
        )
    if problems:
        return None
    return Checked({"wallet": wallet}, f"SW-****{wallet[-4:]}", f"sandbox-wallet:{wallet}")


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("iban", ("iban", "holder"), ("bic",), _iban),
        *kinds.KINDS,
        Kind("sandbox-wallet", ("wallet",), (), _sandbox_wallet),
    )
}
"""Every kind of destination by name."""


def check(kind: str, details: Mapping[str, str]) -> Checked:
    """Normalise the details of a destination.

    Raises Unprocessable `destination-invalid` with a problem for each fault; pointers are relative
    to the object that holds `kind` and `details`.
    """
    spec = KINDS.get(kind)
    if spec is None:
        raise _invalid([Problem("/kind", f"Kinds are: {', '.join(sorted(KINDS))}.")])
    problems = [
        Problem(f"/details/{name}", "This field is required.")
        for name in spec.required
        if not details.get(name, "").strip()
    ]
    known = {*spec.required, *spec.optional}
    problems.extend(
        Problem("/details/" + name.replace("~", "~0").replace("/", "~1"), "No such field.")
        for name in details
        if name not in known
    )
    checked = None if problems else spec.normalise(details, problems)
    if checked is None:
        raise _invalid(problems)
    return checked


def _invalid(problems: list[Problem]) -> Unprocessable:
    return Unprocessable(
        "destination-invalid", "Nothing can be paid to this destination.", problems=problems
    )
