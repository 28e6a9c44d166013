"""The shapes of the wallet provider's API, and its refusals."""

import re
from dataclasses import dataclass

import msgspec

from paymaster_sandbox.chassis.clock import stamp
from paymaster_sandbox.chassis.money import format_minor

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WALLET = re.compile(r"SW-([0-9A-Z]{9})([0-9A-Z])")


class ApiError(Exception):
    """A refusal as the client sees it."""

    def __init__(
        self, status: int, code: str, message: str, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class PayoutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/payouts."""

    reference: str
    wallet: str
    amount: str
    currency: str


@dataclass(frozen=True, slots=True)
class Payout:
    """A payout as the books have it. Amounts in minor units, `created` in microseconds."""

    id: str
    reference: str
    wallet: str
    amount: int
    currency: str
    status: str
    failure_code: str | None
    fee: int
    created: int

    def public(self) -> dict[str, object]:
        """As the API shows it."""
        return {
            "id": self.id,
            "reference": self.reference,
            "wallet": self.wallet,
            "amount": format_minor(self.amount, self.currency),
            "currency": self.currency,
            "status": self.status,
            "failure_code": self.failure_code,
            "fee": format_minor(self.fee, self.currency),
            "created_at": stamp(self.created),
        }


def check_character(nine: str) -> str:
    """The tenth character of a wallet number."""
    total = sum((place + 1) * _ALPHABET.index(char) for place, char in enumerate(nine))
    return _ALPHABET[total % 36]


def wallet_valid(wallet: str) -> bool:
    """Whether the number is well formed; every such wallet exists."""
    match = _WALLET.fullmatch(wallet)
    return match is not None and check_character(match[1]) == match[2]
