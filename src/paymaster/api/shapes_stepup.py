"""What answers about second factors look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from paymaster.api.shapes import MoneyOut, Shape, Time


class FactorOut(Shape):
    """A second factor: nothing of it that proves anything."""

    id: str
    kind: str
    name: str
    state: str
    created_at: Time
    confirmed_at: Time | None
    last_used_at: Time | None
    expires_at: Time | None


class FactorsOut(Shape):
    """All factors of a user."""

    data: list[FactorOut]
    recovery_codes_left: int
    cooling_off_until: Time | None


class AppOut(Shape):
    """For an authenticator app: the seed, and the `otpauth://` address to show as a QR code."""

    secret: str
    address: str


class BegunOut(FactorOut):
    """A factor that waits for its first use. What is needed for that is shown once."""

    totp: AppOut | None
    passkey: dict[str, Any] | None


class ConfirmedOut(FactorOut):
    """An active factor; with the first one ten recovery codes, shown once."""

    recovery_codes: list[str] | None
    cooling_off_until: Time | None


class CodesOut(Shape):
    """Ten recovery codes, shown once."""

    recovery_codes: list[str]


class ResetOut(Shape):
    """Until when step-ups of the user move no money."""

    user: str
    cooling_off_until: Time


class StepUpOut(Shape):
    """A proof that was asked for, or given. `passkey` is for `navigator.credentials.get`."""

    id: str
    user: str
    purpose: str
    amount: MoneyOut | None
    payee: str
    state: str
    methods: list[str]
    method: str | None
    used_for: str | None
    created_at: Time
    expires_at: Time
    statement: str
    nonce: str
    passkey: dict[str, Any] | None


class PolicyRuleOut(Shape):
    """One rule. `above` null means every amount in every currency."""

    purpose: str
    above: MoneyOut | None
    applies_to: str


class PolicyOut(Shape):
    """Which acts of the environment need a step-up; all rules in force."""

    rules: list[PolicyRuleOut]
