"""What subscribers and operators are told of an attempt."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from paymaster.db.outbox_lines import Line
from paymaster.db.tx import CellTx
from paymaster.dispatch.store import AttemptRow
from paymaster.kernel.ids import text_id
from paymaster.rails.base import Outcome, Verdict


class _Moved(msgspec.Struct, gc=False):
    id: str
    subject: str
    state: str
    previous_state: str
    code: str | None
    provider_id: str | None
    evidence: str


class _Contradicted(msgspec.Struct, gc=False):
    id: str
    subject: str
    state: str
    verdict: str
    slug: str | None
    evidence: str


_ENCODER = msgspec.json.Encoder()


def returned_too(outcome: Outcome) -> Outcome:
    """What is to be said of a payment that came back, after somebody said that it was paid."""
    if outcome.verdict is Verdict.RETURNED:
        return outcome
    return replace(outcome, verdict=Verdict.RETURNED, code=None, detail="Payment was returned.")


def moved_on(tx: CellTx, row: AttemptRow, outcome: Outcome, previous: str, evidence: str) -> Line:
    """The attempt is in another state; `row` as it is now."""
    subject = _subject(tx, row)
    payload = _Moved(
        text_id("at", tx.cell, row.id),
        subject,
        row.state,
        previous,
        outcome.code,
        outcome.provider_id,
        evidence,
    )
    return Line(f"attempt.{row.state}", subject, _ENCODER.encode(payload).decode())


def contradicted(
    tx: CellTx, row: AttemptRow, outcome: Outcome, slug: str | None, evidence: str
) -> Line:
    """The provider says what cannot be: a person has to look."""
    subject = _subject(tx, row)
    payload = _Contradicted(
        text_id("at", tx.cell, row.id), subject, row.state, outcome.verdict.value, slug, evidence
    )
    return Line("attempt.contradicted", subject, _ENCODER.encode(payload).decode())


def _subject(tx: CellTx, row: AttemptRow) -> str:
    if row.withdrawal_id is not None:
        return text_id("wd", tx.cell, row.withdrawal_id)
    return text_id("tr", tx.cell, row.transfer_id or 0)
