"""What the answers about money that comes in look like, for the OpenAPI document; see `shapes`."""

from __future__ import annotations

from paymaster.api.shapes import MoneyOut, Shape, Time


class MethodOut(Shape):
    """A way to pay. `shows` is `qr`, `page` or `parameters`: what the payer's side gets."""

    name: str
    shows: str
    needs_payer: bool


class WaysOut(Shape):
    """The ways to pay into one of our accounts; `maximum` null: the provider's own limit."""

    rail_account: str
    currency: str
    minimum: MoneyOut
    maximum: MoneyOut | None
    methods: list[MethodOut]


class CheckoutOut(Shape):
    """What the payer's side needs: a code or address (`content`), or parameters for an app."""

    shows: str
    expires_at: Time
    content: str | None
    parameters: dict[str, str]


class TopupOut(Shape):
    """Money that a payer is asked for. `checkout` is there while it can be paid.

    `reference` is our number at the provider. `refunded` is what was given back, or is about to be.
    """

    id: str
    reference: str
    campaign: str | None
    user: str | None
    rail_account: str
    amount: MoneyOut
    method: str
    description: str
    state: str
    checkout: CheckoutOut | None
    code: str | None
    provider_id: str | None
    refunded: MoneyOut
    created_at: Time
    expires_at: Time
    close_asked_at: Time | None
    paid_at: Time | None
    trace_id: str


class TopupRefundOut(Shape):
    """Money that is given back to a payer."""

    id: str
    topup: str
    reference: str
    amount: MoneyOut
    state: str
    reason: str
    code: str | None
    provider_id: str | None
    created_at: Time
    ended_at: Time | None
    trace_id: str
