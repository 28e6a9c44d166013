"""What a provider has said, under the seal: the same form for payments, charges and refunds.

Kept as evidence with what it wrote, byte for byte. Beside it, in the clear, only ids.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from paymaster.db.inbox import Due, Incoming
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money
from paymaster.rails.base import Outcome
from paymaster.rails.payin import ChargeOutcome, RefundOutcome
from paymaster.secrets.sealing import Sealer, place

_MAX_ID = 200
T = TypeVar("T")
S = TypeVar("S", bound="Said")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a provider sent, as it came: header names in lower case, body byte for byte."""

    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Said(msgspec.Struct, kw_only=True):
    """What all outcomes have. Amounts as decimal strings, times as RFC 3339."""

    account: int
    event_id: str
    key: str
    verdict: str
    provider_id: str | None = None
    code: str | None = None
    detail: str | None = None
    amount: str | None = None
    currency: str | None = None
    occurred_at: str | None = None
    headers: dict[str, str] = {}
    body: str = ""

    @property
    def money(self) -> Money | None:
        """The amount that was named. Raises ValueError."""
        if self.amount is None or self.currency is None:
            return None
        return Money.parse(self.amount, self.currency)

    @property
    def at(self) -> datetime | None:
        """When it happened. Raises ValueError."""
        return moment(self.occurred_at)


def moment(written: str | None) -> datetime | None:
    """A time as it is written under the seal. Raises ValueError."""
    return parse_rfc3339(written) if written else None


def said(
    rail_account_id: int,
    event_id: str,
    outcome: Outcome | ChargeOutcome | RefundOutcome,
    evidence: Evidence | None,
) -> dict[str, Any]:
    """The members of `Said`."""
    amount = outcome.amount
    return {
        "account": rail_account_id,
        "event_id": event_id,
        "key": outcome.key,
        "verdict": outcome.verdict.value,
        "provider_id": outcome.provider_id,
        "code": outcome.code,
        "detail": outcome.detail,
        "amount": None if amount is None else amount.text(),
        "currency": None if amount is None else amount.currency,
        "occurred_at": rfc3339(outcome.occurred_at) if outcome.occurred_at else None,
        "headers": dict(evidence.headers) if evidence else {},
        "body": base64.b64encode(evidence.body).decode() if evidence else "",
    }


def message_id(event_id: str) -> str:
    """The provider's id of an event, made short enough to be a key."""
    if len(event_id) <= _MAX_ID:
        return event_id
    return "sha256:" + hashlib.sha256(event_id.encode()).hexdigest()


def close(
    sealer: Sealer,
    source: str,
    topic: str,
    record: Said,
    payload: Mapping[str, Any],
    trace_id: str,
) -> Incoming:
    """The message to keep."""
    name = message_id(record.event_id)
    sealed = sealer.seal_bytes(msgspec.json.encode(record), place("inbox", source, name))
    return Incoming(source, name, topic, payload, sealed, trace_id)


def read(sealer: Sealer, message: Due, form: type[S], make: Callable[[S], T]) -> T:
    """What is in a message. Raises Broken `sealed-damaged` or `notice-malformed`."""
    if message.sealed is None:
        raise Broken("notice-malformed", "A notice has no sealed part.")
    plain = sealer.open_bytes(message.sealed, place("inbox", message.source, message.message_id))
    try:
        return make(msgspec.json.decode(plain, type=form))
    except (msgspec.DecodeError, ValueError) as error:
        raise Broken("notice-malformed", f"A notice cannot be read: {error}") from None
