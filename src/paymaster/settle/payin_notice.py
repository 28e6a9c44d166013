"""An authenticated message about a charge or a refund, as it lies in the inbox of its cell.

As `notice` for payouts: what the provider wrote is kept sealed, as evidence; beside it, in the
clear, only ids.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from paymaster.db.cells import Databases
from paymaster.db.inbox import Due, Incoming
from paymaster.kernel.clock import parse_rfc3339, rfc3339
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import parse_reference
from paymaster.kernel.money import Money
from paymaster.rails.payin import (
    ChargeOutcome,
    ChargeVerdict,
    PayInNotice,
    RefundOutcome,
    RefundVerdict,
)
from paymaster.secrets.sealing import Sealer, place
from paymaster.settle.notice import Evidence, message_id

TOPIC: Final = "payin"
"""Messages that are to be applied."""

UNMATCHED: Final = "payin.unmatched"
"""Messages about a reference that no cell of the environment can have; kept in the treasury."""


class _Sealed(msgspec.Struct):
    """The form under the seal. Amounts as decimal strings, times as RFC 3339."""

    account: int
    event_id: str
    key: str
    about: str
    verdict: str
    provider_id: str | None = None
    code: str | None = None
    detail: str | None = None
    amount: str | None = None
    currency: str | None = None
    occurred_at: str | None = None
    headers: dict[str, str] = {}
    body: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """A message taken out of an inbox: which rail account said it, and what."""

    rail_account_id: int
    about: ChargeOutcome | RefundOutcome


def by_cell(
    dbs: Databases, environment_id: int, notices: Iterable[PayInNotice]
) -> tuple[dict[int, list[PayInNotice]], list[PayInNotice]]:
    """Messages by the cell that their reference names, and those that name none of ours."""
    cells = {cell.number for cell in dbs.cells(environment_id)}
    found: dict[int, list[PayInNotice]] = {}
    foreign: list[PayInNotice] = []
    for notice in notices:
        ref = parse_reference(notice.about.key)
        if ref is not None and ref.cell in cells:
            found.setdefault(ref.cell, []).append(notice)
        else:
            foreign.append(notice)
    return found, foreign


def pack(
    sealer: Sealer,
    source: str,
    rail_account_id: int,
    notices: Sequence[PayInNotice],
    evidence: Evidence,
    trace_id: str,
    *,
    topic: str = TOPIC,
) -> list[Incoming]:
    """The messages to keep."""
    kept: list[Incoming] = []
    for notice in notices:
        said, kind = notice.about, "refund"
        if isinstance(said, ChargeOutcome):
            kind = "charge"
        record = _Sealed(
            account=rail_account_id,
            event_id=notice.event_id,
            key=said.key,
            about=kind,
            verdict=said.verdict.value,
            provider_id=said.provider_id,
            code=said.code,
            detail=said.detail,
            amount=said.amount.text() if said.amount is not None else None,
            currency=said.amount.currency if said.amount is not None else None,
            occurred_at=rfc3339(said.occurred_at) if said.occurred_at else None,
            headers=dict(evidence.headers),
            body=base64.b64encode(evidence.body).decode(),
        )
        name = message_id(notice.event_id)
        sealed = sealer.seal_bytes(msgspec.json.encode(record), place("inbox", source, name))
        payload = {
            "rail_account": rail_account_id,
            "about": kind,
            "key": said.key if parse_reference(said.key) else None,
            "verdict": said.verdict.value,
        }
        kept.append(Incoming(source, name, topic, payload, sealed, trace_id))
    return kept


def unpack(sealer: Sealer, message: Due) -> Opened:
    """What a message says. Raises Broken `sealed-damaged` or `notice-malformed`."""
    if message.sealed is None:
        raise Broken("notice-malformed", "A notice has no sealed part.")
    plain = sealer.open_bytes(message.sealed, place("inbox", message.source, message.message_id))
    try:
        record = msgspec.json.decode(plain, type=_Sealed)
        return Opened(record.account, _said(record))
    except (msgspec.DecodeError, ValueError) as error:
        raise Broken("notice-malformed", f"A notice cannot be read: {error}") from None


def _said(record: _Sealed) -> ChargeOutcome | RefundOutcome:
    amount = None
    if record.amount is not None and record.currency is not None:
        amount = Money.parse(record.amount, record.currency)
    at = parse_rfc3339(record.occurred_at) if record.occurred_at else None
    if record.about == "charge":
        return ChargeOutcome(
            record.key,
            ChargeVerdict(record.verdict),
            record.provider_id,
            amount,
            record.code,
            record.detail,
            at,
        )
    return RefundOutcome(
        record.key,
        RefundVerdict(record.verdict),
        record.provider_id,
        amount,
        record.code,
        record.detail,
        at,
    )
