"""An authenticated message about a charge or a refund, as it lies in the inbox of its cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from paymaster.db.inbox import Due, Incoming
from paymaster.kernel.ids import parse_reference
from paymaster.rails.payin import (
    ChargeOutcome,
    ChargeVerdict,
    PayInNotice,
    RefundOutcome,
    RefundVerdict,
)
from paymaster.secrets.sealing import Sealer
from paymaster.settle import envelope
from paymaster.settle.envelope import Evidence, Said

TOPIC: Final = "payin"
"""Messages that are to be applied."""

_CHARGE, _REFUND = "charge", "refund"


class _Sealed(Said, kw_only=True):
    """The form under the seal; `about` is a charge or a refund."""

    about: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A message taken out of an inbox: which rail account said it, and what."""

    rail_account_id: int
    about: ChargeOutcome | RefundOutcome


def pack(
    sealer: Sealer,
    source: str,
    rail_account_id: int,
    notice: PayInNotice,
    evidence: Evidence,
    trace_id: str,
) -> Incoming:
    """The message to keep."""
    said = notice.about
    kind = _CHARGE if isinstance(said, ChargeOutcome) else _REFUND
    record = _Sealed(**envelope.said(rail_account_id, notice.event_id, said, evidence), about=kind)
    payload = {
        "rail_account": rail_account_id,
        "about": kind,
        "key": said.key if parse_reference(said.key) else None,
        "verdict": said.verdict.value,
    }
    return envelope.close(sealer, source, TOPIC, record, payload, trace_id)


def unpack(sealer: Sealer, message: Due) -> Opened:
    """What a message says. Raises Broken `sealed-damaged` or `notice-malformed`."""
    return envelope.read(
        sealer, message, _Sealed, lambda record: Opened(record.account, _said(record))
    )


def _said(record: _Sealed) -> ChargeOutcome | RefundOutcome:
    key, number, code, detail = record.key, record.provider_id, record.code, record.detail
    money, at = record.money, record.at
    if record.about == _CHARGE:
        return ChargeOutcome(key, ChargeVerdict(record.verdict), number, money, code, detail, at)
    return RefundOutcome(key, RefundVerdict(record.verdict), number, money, code, detail, at)
