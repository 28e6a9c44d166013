"""A provider that takes payments, keeps books of its own, and can be told to misbehave."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.scripted_rails import FileRail

from paymaster.kernel.errors import Problem, RailError, Refusal, Unauthenticated, Unprocessable
from paymaster.kernel.guard import forbid_network
from paymaster.kernel.money import Money
from paymaster.rails.base import RailAccount, WebhookAnswer
from paymaster.rails.payin import (
    Charge,
    ChargeOutcome,
    ChargeVerdict,
    Checkout,
    Method,
    PayInNotice,
    RefundOrder,
    RefundOutcome,
    RefundVerdict,
    Shows,
)

METHODS = {
    "code": Method("code", Shows.QR),
    "page": Method("page", Shows.PAGE),
    "app": Method("app", Shows.PARAMETERS, needs_payer=True),
}


@dataclass
class Known:
    """A charge at the provider."""

    charge: Charge
    verdict: ChargeVerdict = ChargeVerdict.OPEN
    paid_at: datetime | None = None
    paid: Money | None = None


@dataclass
class PayInRail(FileRail):
    """Opens each number once; a payer pays by `pay`."""

    SECRET = secrets.token_hex(16)

    name: str = "pay-in"
    known: dict[str, Known] = field(default_factory=dict)
    refunds: dict[str, RefundOrder] = field(default_factory=dict)
    refund_verdict: RefundVerdict = RefundVerdict.PROCESSING
    refund_verdicts: dict[str, RefundVerdict] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    opened: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)
    off: bool = False
    silent: int = 0

    def __post_init__(self) -> None:
        FileRail.__init__(self, self.name)

    # ------------------------------------------------------------------ what people there do

    def pay(self, key: str, amount: Money | None = None, at: datetime | None = None) -> None:
        known = self.known[key]
        assert known.verdict is not ChargeVerdict.CLOSED, "nobody can pay what is closed"
        known.verdict = ChargeVerdict.PAID
        known.paid = known.charge.amount if amount is None else amount
        known.paid_at = at

    def said(self, key: str) -> ChargeOutcome:
        known = self.known.get(key)
        if known is None:
            return ChargeOutcome(key, ChargeVerdict.NOT_FOUND)
        return ChargeOutcome(key, known.verdict, f"tx_{key}", known.paid, occurred_at=known.paid_at)

    # ------------------------------------------------------------------ TakesPayments

    def pay_methods(self, account: RailAccount) -> Mapping[str, Method]:
        return {} if self.off else METHODS

    def check_charge(self, account: RailAccount, charge: Charge) -> None:
        if charge.description in self.refused:
            problems = [Problem("/description", self.refused[charge.description])]
            raise Unprocessable("charge-refused", "It cannot go.", problems=problems)

    async def _called(self, what: str, key: str) -> None:
        forbid_network()
        await asyncio.sleep(0)
        self.calls.append((what, key))
        if self.before:
            raise self.before.pop(0)

    async def open_charge(self, account: RailAccount, charge: Charge) -> Checkout:
        await self._called("open", charge.key)
        known = self.known.setdefault(charge.key, Known(charge))
        assert known.charge == charge, "the same number with other contents"
        self.opened[charge.key] += 1
        if self.after:
            raise self.after.pop(0)
        shows = METHODS[charge.method].shows
        if shows is Shows.PARAMETERS:
            return Checkout(shows, charge.expires_at, None, {"prepay": charge.key})
        return Checkout(shows, charge.expires_at, f"https://pay.test/{charge.key}")

    async def find_charge(self, account: RailAccount, key: str) -> ChargeOutcome:
        try:
            await self._called("find", key)
        except RailError:
            return ChargeOutcome(key, ChargeVerdict.UNKNOWN)
        if self.silent:
            self.silent -= 1
            return ChargeOutcome(key, ChargeVerdict.UNKNOWN)
        return self.said(key)

    async def close_charge(self, account: RailAccount, key: str) -> ChargeOutcome:
        try:
            await self._called("close", key)
        except RailError:
            return ChargeOutcome(key, ChargeVerdict.UNKNOWN)
        if self.silent:
            self.silent -= 1
            return ChargeOutcome(key, ChargeVerdict.UNKNOWN)
        known = self.known.get(key)
        if known is not None and known.verdict is ChargeVerdict.OPEN:
            known.verdict = ChargeVerdict.CLOSED
        found = self.said(key)
        return ChargeOutcome(key, found.verdict, found.provider_id)

    async def refund(self, account: RailAccount, order: RefundOrder) -> RefundOutcome:
        await self._called("refund", order.key)
        known = self.known[order.charge_key]
        assert known.verdict is ChargeVerdict.PAID, "nothing to give back"
        assert self.refunds.setdefault(order.key, order) == order
        given = sum(
            one.amount.minor for one in self.refunds.values() if one.charge_key == order.charge_key
        )
        assert given <= order.charged.minor, "more given back than was paid"
        if self.after:
            raise self.after.pop(0)
        return self._refund(order.key)

    async def find_refund(self, account: RailAccount, order: RefundOrder) -> RefundOutcome:
        try:
            await self._called("find_refund", order.key)
        except RailError:
            return RefundOutcome(order.key, RefundVerdict.UNKNOWN)
        if order.key not in self.refunds:
            return RefundOutcome(order.key, RefundVerdict.NOT_FOUND)
        return self._refund(order.key)

    def _refund(self, key: str) -> RefundOutcome:
        verdict = self.refund_verdicts.get(key, self.refund_verdict)
        return RefundOutcome(key, verdict, f"rf_{key}", self.refunds[key].amount)

    # ------------------------------------------------------------------ what it tells

    def notice(
        self, event: str, at: datetime, key: str, **more: Any
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body of a message."""
        said = {"id": event, "at": at.isoformat(), "key": key, "about": "charge", **more}
        body = json.dumps(said).encode()
        made = hmac.new(self.SECRET.encode(), body, hashlib.sha256).hexdigest()
        return {"X-Signature": made}, body

    def paid_notice(self, event: str, at: datetime, key: str) -> tuple[dict[str, str], bytes]:
        """What it says of a charge that was paid."""
        paid = self.known[key].paid
        assert paid is not None
        return self.notice(
            event, at, key, verdict="paid", amount=paid.text(), currency=paid.currency
        )

    def read_payin_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[PayInNotice]:
        expected = hmac.new(self.SECRET.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, headers.get("x-signature", "")):
            raise Unauthenticated("webhook-signature", "The signature does not match.")
        said = json.loads(body)
        if abs(now - datetime.fromisoformat(said["at"])) > timedelta(minutes=5):
            raise Unauthenticated("webhook-stale", "Too old.")
        if "verdict" not in said:
            raise Refusal("webhook-malformed", "No verdict.")
        amount = Money.parse(said["amount"], said["currency"]) if "amount" in said else None
        about: ChargeOutcome | RefundOutcome
        if said["about"] == "charge":
            about = ChargeOutcome(said["key"], ChargeVerdict(said["verdict"]), amount=amount)
        else:
            about = RefundOutcome(said["key"], RefundVerdict(said["verdict"]), amount=amount)
        return [PayInNotice(said["id"], about)]

    def payin_answer(self, taken: bool) -> WebhookAnswer:
        return WebhookAnswer(200 if taken else 403, "text/plain", b"thanks" if taken else b"no")
