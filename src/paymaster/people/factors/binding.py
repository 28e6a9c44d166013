"""What a proof is for. It holds for exactly that: one purpose, one amount, one payee."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from paymaster.kernel.money import Money
from paymaster.rails.destinations import Checked
from paymaster.secrets.sealing import Sealer

NONCE_BYTES = 32
_DETAILS = "step-up-details"


class Purpose(StrEnum):
    """What a proof lets happen."""

    WITHDRAWAL = "withdrawal"
    DESTINATION = "destination"
    FACTOR = "factor"


@dataclass(frozen=True, slots=True)
class Binding:
    """`payee` is where money goes (`de_...`, or the account that is added), or the act on factors.

    `amount` is there for withdrawals only.
    """

    purpose: Purpose
    payee: str
    amount: Money | None = None

    def statement(self, step_up: str, user: str) -> str:
        """What a person agrees to, line by line; an app can show it before it asks for the key."""
        amount = [] if self.amount is None else [f"{self.amount.text()} {self.amount.currency}"]
        lines = ["paymaster step-up 1", step_up, user, self.purpose.value, *amount, self.payee]
        return "\n".join(lines)


def challenge(nonce: bytes, statement: str) -> bytes:
    """What a passkey signs: SHA-256 over the nonce and the statement.

    The statement is made anew from the row when the answer comes, so an assertion holds for the
    amount and payee that were asked about and for no others, whatever became of the row.
    """
    return hashlib.sha256(nonce + statement.encode()).digest()


def new_accounts(sealer: Sealer, kind: str, currency: str, checked: Checked) -> list[str]:
    """The payee of a destination that is to be added, under each version of the key, newest first.

    All details count, not only the account's number; none of them can be read from it.
    """
    plain = "\0".join(f"{name}\0{value}" for name, value in sorted(checked.details.items()))
    marks: Sequence[bytes] = sealer.fingerprints(_DETAILS, f"{kind}\0{plain}")
    return [f"{kind} {currency} {checked.mask} {mark.hex()}" for mark in marks]


ADD = "add"
RECOVERY_CODES = "recovery-codes"


def linking(provider: str) -> str:
    """The payee of a proof for linking an account whose owner is not known before."""
    return f"link {provider}"


def removal(factor: str) -> str:
    """The payee of a proof for removing a factor, by its text id."""
    return f"remove {factor}"
