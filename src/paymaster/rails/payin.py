"""The interface of a rail that takes money in: ask for it, look, close, give back, be told.

A charge is one payment that we ask a payer for. Its number (`key`) is ours and the same at every
try; the provider knows one charge by it, whatever becomes of our calls. What a provider says in
answer to a call that opens a charge is what the payer's app needs; that the payer has paid is said
by a look-up or an authentic notice, and by nothing else. Which methods a rail offers is data: each
says what the payer's side gets (a code to scan, parameters for the provider's app, a page).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount, WebhookAnswer


class ChargeVerdict(StrEnum):
    """What is known about a charge at the provider."""

    OPEN = "open"
    """It is there, and can still be paid."""
    PAID = "paid"
    """The payer has paid. Refunds, in part or whole, do not change that."""
    CLOSED = "closed"
    """It was not paid and cannot be paid any more."""
    NOT_FOUND = "not_found"
    """The provider does not know the number (proof only after its lag)."""
    UNKNOWN = "unknown"
    """No proof either way."""


class RefundVerdict(StrEnum):
    """What is known about money that is given back to a payer."""

    PROCESSING = "processing"
    DONE = "done"
    """The provider has given it back."""
    FAILED = "failed"
    """It was not given back, and will not be under this number."""
    STUCK = "stuck"
    """The provider cannot reach the payer's account: a person has to see to it there."""
    NOT_FOUND = "not_found"
    UNKNOWN = "unknown"


class Shows(StrEnum):
    """What a method gives to the payer's side."""

    QR = "qr"
    """`content` is to be shown as a QR code."""
    PAGE = "page"
    """`content` is an address to be opened."""
    PARAMETERS = "parameters"
    """`parameters` are handed to the provider's app or script, as they are."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to pay: its name, what it gives, and whether the payer's identity there is needed."""

    name: str
    shows: Shows
    needs_payer: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """A payment to ask for. `key` is our reference (15 of [0-9A-Z]), the same at every try.

    `payer` is the payer's identity at the provider, where the method needs it. `back_to` is where a
    payer's browser goes afterwards: that it comes there proves nothing.
    """

    key: str
    amount: Money
    method: str
    description: str
    created_at: datetime
    expires_at: datetime
    payer: str | None = field(default=None, repr=False)
    client_ip: str | None = field(default=None, repr=False)
    back_to: str | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """What the payer's side needs. Whoever has it can pay, nobody can take money with it."""

    shows: Shows
    expires_at: datetime
    content: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ChargeOutcome:
    """What is known about one charge. `amount` is what the payer was asked for, in full.

    With PAID and without `amount` it is not known to be paid in full, and is not credited.
    """

    key: str
    verdict: ChargeVerdict
    provider_id: str | None = None
    amount: Money | None = None
    code: str | None = None
    detail: str | None = None
    occurred_at: datetime | None = None

    @classmethod
    def unknown(cls, key: str, detail: str, code: str | None = None) -> ChargeOutcome:
        """No proof either way, and why not."""
        return cls(key, ChargeVerdict.UNKNOWN, code=code, detail=detail)


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """Money to be given back of a charge that was paid. `key` is ours, the same at every try."""

    key: str
    charge_key: str
    charged: Money
    amount: Money
    reason: str


@dataclass(frozen=True, slots=True)
class RefundOutcome:
    """What is known about one refund."""

    key: str
    verdict: RefundVerdict
    provider_id: str | None = None
    amount: Money | None = None
    code: str | None = None
    detail: str | None = None
    occurred_at: datetime | None = None

    @classmethod
    def unknown(cls, key: str, detail: str, code: str | None = None) -> RefundOutcome:
        """No proof either way, and why not."""
        return cls(key, RefundVerdict.UNKNOWN, code=code, detail=detail)


@dataclass(frozen=True, slots=True)
class PayInNotice:
    """An authenticated message about a charge or a refund; `event_id` is unique there."""

    event_id: str
    about: ChargeOutcome | RefundOutcome


@runtime_checkable
class TakesPayments(Protocol):
    """Rails that take money in. Inside a transaction only what is pure is called."""

    def pay_methods(self, account: RailAccount) -> Mapping[str, Method]:
        """The methods that this account is set up for, by name; empty: none. Pure."""
        ...

    def check_charge(self, account: RailAccount, charge: Charge) -> None:
        """Whether a charge could go as it is; pure.

        Raises Unprocessable `charge-refused` with a problem for each field that cannot go.
        """
        ...

    async def open_charge(self, account: RailAccount, charge: Charge) -> Checkout:
        """Make the charge known to the provider; again under the same number is the same charge.

        Raises NeverSent (nothing left) or RailUnknown (ask). No answer to it is a definite no
        without a look-up: what was said is `error.extra["code"]`.
        """
        ...

    async def find_charge(self, account: RailAccount, key: str) -> ChargeOutcome:
        """Ask. UNKNOWN when no answer could be had; never raises RailError."""
        ...

    async def close_charge(self, account: RailAccount, key: str) -> ChargeOutcome:
        """Ask the provider to let nobody pay it any more; asking again does no harm.

        PAID when the payer was quicker, where the provider says so; UNKNOWN unless it is certain.
        """
        ...

    async def refund(self, account: RailAccount, order: RefundOrder) -> RefundOutcome:
        """Give money back; the same number is given back once, however often it is asked.

        Raises NeverSent or RailUnknown. No answer to it is a definite no without a look-up.
        """
        ...

    async def find_refund(self, account: RailAccount, order: RefundOrder) -> RefundOutcome:
        """Ask. UNKNOWN when no answer could be had; never raises RailError."""
        ...

    def read_payin_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[PayInNotice]:
        """Verify on the raw bytes, then translate; pure. Header names are lower case.

        Raises Unauthenticated `webhook-signature` or `webhook-stale`, Refusal `webhook-malformed`.
        """
        ...

    def payin_answer(self, taken: bool) -> WebhookAnswer:
        """What to answer to a message that is durably kept (`taken`), or that was refused."""
        ...
