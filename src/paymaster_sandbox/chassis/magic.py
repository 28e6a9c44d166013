"""Payees whose name says what becomes of payments to them, so that a test needs no control plane.

A wallet `SW-` with one of these words, any digits and letters up to nine characters, and its check
character; a German IBAN of the bank code 99999999, whose account number is one of these numbers.
What somebody foretold for a payee by hand counts before its name does.
"""

import re
from collections.abc import Mapping
from typing import Final

from paymaster_sandbox.chassis.clock import SECOND

SOON: Final = 2 * SECOND
LATER: Final = 60 * SECOND

Outcome = tuple[str, str | None, int]
"""Outcome, code, and after how many microseconds; as in `oracle`."""

_WALLETS: Final[Mapping[str, Outcome]] = {
    "CLOSED": ("closed", None, 0),
    "REFUSED": ("reject", "wallet_blocked", 0),
    "LIMIT": ("reject", "wallet_limit_exceeded", 0),
    "FAILED": ("fail", "recipient_unverified", SOON),
    "RETURN": ("return", "returned_by_recipient", SOON),
    "SLOW": ("slow", None, LATER),
}
_ANSWERS: Final[Mapping[str, str]] = {"DROPPED": "drop_answers", "BROKEN": "fail_after"}
_NOTICES: Final = frozenset({"SILENT", "TWICE", "FORGED"})

_ACCOUNTS: Final[Mapping[int, Outcome]] = {
    2: ("closed", "AC04", 0),
    3: ("reject", "AC01", 0),
    4: ("reject", "BE04", 0),
    5: ("reject", "MS03", 0),
    6: ("return", "AC04", SOON),
    7: ("return", "MD07", LATER),
    8: ("slow", None, LATER),
}
_WORD = re.compile(r"SW-([A-Z]+)[0-9A-Z]*\Z")
_IBAN = re.compile(r"DE[0-9]{2}99999999([0-9]{10})\Z")


def _word(wallet: str, words: Mapping[str, object] | frozenset[str]) -> str | None:
    found = _WORD.match(wallet)
    return next((word for word in words if found and found[1].startswith(word)), None)


def fate(payee: str) -> Outcome | None:
    """What becomes of a payment to the payee, if its name says so."""
    iban = _IBAN.match(payee)
    if iban is not None:
        return _ACCOUNTS.get(int(iban[1]))
    word = _word(payee, _WALLETS)
    return None if word is None else _WALLETS[word]


def answer(wallet: str) -> str | None:
    """How the answer to the payout is kept from its sender: `drop_answers`, `fail_after`."""
    word = _word(wallet, _ANSWERS)
    return None if word is None else _ANSWERS[word]


def notice(wallet: str) -> str | None:
    """What is odd about the notifications: `SILENT` (none), `TWICE`, `FORGED` (a lie beside)."""
    return _word(wallet, _NOTICES)
