"""What the tests of the rails share: data from outside, accounts, instructions, a set of deps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from paymaster.kernel.clock import ManualClock
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.rails.base import Instruction, Payee, RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.destinations import wallet_check_character

NOON = datetime(2025, 3, 12, 12, 0, tzinfo=UTC)
OUR_IBAN = "DE89370400440532013000"
DATA = Path(os.environ.get("PAYMASTER_DATA", Path(__file__).parents[3] / "shared" / "data"))


def data_files(folder: str, pattern: str = "*") -> list[Path]:
    """Files from outside; an empty list where they are missing."""
    return sorted((DATA / folder).glob(pattern))


def need_data(folder: str) -> Path:
    """A folder of files from outside, or skip."""
    found = DATA / folder
    if not found.is_dir():
        pytest.skip(f"{found} is missing: set PAYMASTER_DATA")
    return found


def iban_of(country: str, bban: str) -> str:
    """A valid IBAN around a made-up account number."""
    digits = "".join(str(int(letter, 36)) for letter in bban + country + "00")
    return f"{country}{98 - int(digits) % 97:02d}{bban}"


def payee_iban(number: int, holder: str = "Änne Übermaß") -> Payee:
    """A bank account of a made-up person; another for every number."""
    return Payee("iban", {"iban": iban_of("DE", f"37040044{number:010d}"), "holder": holder})


def payee_wallet(number: int) -> Payee:
    """A sandbox wallet; another for every number."""
    nine = f"{number:09d}"
    return Payee("sandbox-wallet", {"wallet": f"SW-{nine}{wallet_check_character(nine)}"})


def instruction(
    number: int, payee: Payee, minor: int = 123, currency: str = "EUR", cell: int = 1
) -> Instruction:
    """A payment whose key follows from its number."""
    return Instruction(
        key=reference(cell, number),
        amount=Money(minor, currency),
        payee=payee,
        purpose="Thank you for 3 tasks",
        created_at=NOON,
    )


def deps(
    secrets: Mapping[str, str] | None = None, http: httpx.AsyncClient | None = None
) -> RailDeps:
    """What a rail is given; without `http` it gets a client that can reach nothing."""

    def nowhere(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("this test has no network", request=request)

    return RailDeps(
        http=http or httpx.AsyncClient(transport=httpx.MockTransport(nowhere)),
        secret=dict(secrets or {}).__getitem__,
        clock=ManualClock(NOON),
    )


def bank_account(currency: str = "EUR", **settings: str) -> RailAccount:
    """Our account at a bank."""
    known = {"iban": OUR_IBAN, "holder": "Zahlstelle & Söhne GmbH"} | settings
    return RailAccount(7, "house bank", "iso20022", currency, known, {"client_key": "bank-key"})
