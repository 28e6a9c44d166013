"""What a statement says about people: the remittance text and the other party's name, sealed.

Kept only where a person may need it to explain a line. Lines of our own payments go without: the
payment itself knows its payee.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from paymaster.kernel.ids import parse_reference
from paymaster.rails.base import LineKind, StatementLine
from paymaster.reconcile.store import LineRow
from paymaster.secrets.sealing import Sealer, place

_MAX_TEXT = 1_000
_OURS = frozenset({
    LineKind.PAYOUT, LineKind.RETURN, LineKind.SET_APART, LineKind.GIVEN_BACK,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Note:
    """The texts of a line."""

    remittance: str | None = field(default=None, repr=False)
    counterparty: str | None = field(default=None, repr=False)


def seal_note(
    sealer: Sealer, rail_account_id: int, line_id: str, line: StatementLine
) -> bytes | None:
    """The sealed texts of a line; None when there are none or they are not needed."""
    if line.kind in _OURS and line.reference and parse_reference(line.reference):
        return None
    if not line.remittance and not line.counterparty:
        return None
    texts = {
        "remittance": (line.remittance or "")[:_MAX_TEXT] or None,
        "counterparty": (line.counterparty or "")[:_MAX_TEXT] or None,
    }
    return sealer.seal_bytes(
        json.dumps(texts).encode(), place("statement_line", rail_account_id, line_id)
    )


def open_note(sealer: Sealer, line: LineRow) -> Note:
    """The texts of a stored line. Raises Broken `kek-unknown` or `sealed-damaged`."""
    return read_note(sealer, line.rail_account_id, line.line_id, line.sealed)


def read_note(sealer: Sealer, rail_account_id: int, line_id: str, sealed: bytes | None) -> Note:
    """The texts that were sealed for a line; empty when there are none."""
    if sealed is None:
        return Note()
    opened = sealer.open_bytes(sealed, place("statement_line", rail_account_id, line_id))
    texts = json.loads(opened)
    return Note(texts["remittance"], texts["counterparty"])
