"""An authenticated message about a payment, as it lies in the inbox of the payment's cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from paymaster.db.inbox import Due, Incoming
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.ids import parse_reference
from paymaster.rails.base import Confirmation, Notice, Outcome, Verdict
from paymaster.secrets.sealing import Sealer
from paymaster.settle import envelope
from paymaster.settle.envelope import Evidence, Said

TOPIC: Final = "notice"
"""Messages that are to be applied."""


class _Sealed(Said, kw_only=True):
    """The form under the seal."""

    batch_key: str | None = None
    but_not: list[str] = msgspec.field(default_factory=list[str])
    package: str | None = None
    expires_at: str | None = None
    public: dict[str, str] = msgspec.field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Opened:
    """A notice taken out of an inbox: which rail account said it, and what."""

    rail_account_id: int
    notice: Notice


def about(notice: Notice) -> str:
    """The reference that it names: an order's, or a payment's."""
    return notice.batch_key or notice.outcome.key


def pack(
    sealer: Sealer,
    source: str,
    rail_account_id: int,
    notice: Notice,
    evidence: Evidence | None,
    trace_id: str,
) -> Incoming:
    """The message to keep."""
    said, way = notice.outcome, notice.outcome.confirmation
    record = _Sealed(
        **envelope.said(rail_account_id, notice.event_id, said, evidence),
        batch_key=notice.batch_key,
        but_not=sorted(notice.but_not),
        package=way.package if way else None,
        expires_at=rfc3339(way.expires_at) if way else None,
        public=dict(way.public) if way else {},
    )
    payload = {
        "rail_account": rail_account_id,
        "key": said.key if parse_reference(said.key) else None,
        "verdict": said.verdict.value,
        "code": said.code,
        "batch_key": notice.batch_key,
    }
    return envelope.close(sealer, source, TOPIC, record, payload, trace_id)


def unpack(sealer: Sealer, message: Due) -> Opened:
    """The notice in a message. Raises Broken `sealed-damaged` or `notice-malformed`."""
    return envelope.read(sealer, message, _Sealed, _opened)


def _opened(record: _Sealed) -> Opened:
    said = Outcome(
        key=record.key,
        verdict=Verdict(record.verdict),
        provider_id=record.provider_id,
        code=record.code,
        detail=record.detail,
        amount=record.money,
        occurred_at=record.at,
        confirmation=_way(record),
    )
    notice = Notice(record.event_id, said, record.batch_key, frozenset(record.but_not))
    return Opened(record.account, notice)


def _way(record: _Sealed) -> Confirmation | None:
    until = envelope.moment(record.expires_at)
    if record.package is None or until is None:
        return None
    return Confirmation(record.package, until, record.public)
