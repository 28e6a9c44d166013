"""An authenticated message about a payment, as it lies in the inbox of the payment's cell.

The references in it are ours and carry their cell, so a message finds its cell without a look-up.
What the provider wrote is kept sealed, as evidence; beside it, in the clear, only ids.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import msgspec

from paymaster.db.cells import Databases
from paymaster.db.inbox import Due, Incoming
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import parse_reference
from paymaster.kernel.money import Money
from paymaster.rails.base import Confirmation, Notice, Outcome, Verdict
from paymaster.secrets.sealing import Sealer, place

TOPIC: Final = "notice"
"""Messages that are to be applied."""

UNMATCHED: Final = "notice.unmatched"
"""Messages about a reference that no cell of the environment can have; kept in the treasury."""

_MAX_ID = 200


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a provider sent, as it came: header names in lower case, body byte for byte."""

    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class _Sealed(msgspec.Struct):
    """The form under the seal. Amounts as decimal strings, times as RFC 3339."""

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
    batch_key: str | None = None
    but_not: list[str] = []
    package: str | None = None
    expires_at: str | None = None
    public: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A notice taken out of an inbox: which rail account said it, and what."""

    rail_account_id: int
    notice: Notice


def message_id(event_id: str) -> str:
    """The provider's id of an event, made short enough to be a key."""
    if len(event_id) <= _MAX_ID:
        return event_id
    return "sha256:" + hashlib.sha256(event_id.encode()).hexdigest()


def by_cell(
    dbs: Databases, environment_id: int, notices: Iterable[Notice]
) -> tuple[dict[int, list[Notice]], list[Notice]]:
    """Notices by the cell that their reference names, and those that name none of ours."""
    cells = {cell.number for cell in dbs.cells(environment_id)}
    found: dict[int, list[Notice]] = {}
    foreign: list[Notice] = []
    for notice in notices:
        ref = parse_reference(notice.batch_key or notice.outcome.key)
        if ref is not None and ref.cell in cells:
            found.setdefault(ref.cell, []).append(notice)
        else:
            foreign.append(notice)
    return found, foreign


def pack(
    sealer: Sealer,
    source: str,
    rail_account_id: int,
    notice: Notice,
    evidence: Evidence | None,
    trace_id: str,
    *,
    topic: str = TOPIC,
) -> Incoming:
    """The message to keep."""
    said, amount = notice.outcome, notice.outcome.amount
    way = said.confirmation
    record = _Sealed(
        account=rail_account_id,
        event_id=notice.event_id,
        key=said.key,
        verdict=said.verdict.value,
        provider_id=said.provider_id,
        code=said.code,
        detail=said.detail,
        amount=None if amount is None else amount.text(),
        currency=None if amount is None else amount.currency,
        occurred_at=rfc3339(said.occurred_at) if said.occurred_at else None,
        batch_key=notice.batch_key,
        but_not=sorted(notice.but_not),
        package=way.package if way else None,
        expires_at=rfc3339(way.expires_at) if way else None,
        public=dict(way.public) if way else {},
        headers=dict(evidence.headers) if evidence else {},
        body=base64.b64encode(evidence.body).decode() if evidence else "",
    )
    kept_as = message_id(notice.event_id)
    sealed = sealer.seal_bytes(msgspec.json.encode(record), place("inbox", source, kept_as))
    payload = {
        "rail_account": rail_account_id,
        "key": said.key if parse_reference(said.key) else None,
        "verdict": said.verdict.value,
        "code": said.code,
        "batch_key": notice.batch_key,
    }
    return Incoming(source, kept_as, topic, payload, sealed, trace_id)


def unpack(sealer: Sealer, message: Due) -> Opened:
    """The notice in a message. Raises Broken `sealed-damaged` or `notice-malformed`."""
    if message.sealed is None:
        raise Broken("notice-malformed", "A notice has no sealed part.")
    plain = sealer.open_bytes(message.sealed, place("inbox", message.source, message.message_id))
    try:
        record = msgspec.json.decode(plain, type=_Sealed)
        said = Outcome(
            key=record.key,
            verdict=Verdict(record.verdict),
            provider_id=record.provider_id,
            code=record.code,
            detail=record.detail,
            amount=_amount(record),
            occurred_at=_moment(record.occurred_at),
            confirmation=_way(record),
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise Broken("notice-malformed", f"A notice cannot be read: {error}") from None
    notice = Notice(record.event_id, said, record.batch_key, frozenset(record.but_not))
    return Opened(record.account, notice)


def _amount(record: _Sealed) -> Money | None:
    if record.amount is None or record.currency is None:
        return None
    return Money.parse(record.amount, record.currency)


def _way(record: _Sealed) -> Confirmation | None:
    until = _moment(record.expires_at)
    if record.package is None or until is None:
        return None
    return Confirmation(record.package, until, record.public)


def _moment(written: str | None) -> datetime | None:
    return parse_rfc3339(written) if written else None
