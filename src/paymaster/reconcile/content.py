"""A statement's lines as they are kept: their names, what of them is compared, and the digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import date

from paymaster.rails.base import Statement, StatementLine
from paymaster.reconcile.sealed import seal_note
from paymaster.reconcile.store import NewLine
from paymaster.secrets.sealing import Sealer

CHUNK = 5_000
"""Lines in one statement of SQL."""
_MAX_NAME, _MAX_REFERENCE, _MAX_CODE = 200, 140, 35

Named = tuple[str, StatementLine]


def chunks(statement: Statement) -> Iterator[list[Named]]:
    """The lines with their names, in pieces. A name that comes again is told apart by a count."""
    seen: dict[str, int] = {}
    piece: list[Named] = []
    for line in statement.lines:
        name = line.line_id[:_MAX_NAME]
        seen[name] = seen.get(name, 0) + 1
        piece.append((name if seen[name] == 1 else f"{name}#{seen[name]}", line))
        if len(piece) == CHUNK:
            yield piece
            piece = []
    if piece:
        yield piece


def content(line: StatementLine) -> tuple[str, int, int, date, str | None, str | None]:
    """Kind, amount, fee, day, reference and code as they stand in the table."""
    return (
        line.kind.value,
        line.amount.minor,
        line.fee.minor,
        line.booked_on,
        (line.reference or "")[:_MAX_REFERENCE] or None,
        (line.code or "")[:_MAX_CODE] or None,
    )


def rows(sealer: Sealer, rail_account_id: int, named: Sequence[Named]) -> list[NewLine]:
    """Rows to insert, with what names a person sealed."""
    return [
        NewLine(name, *content(line), seal_note(sealer, rail_account_id, name, line))
        for name, line in named
    ]


def digest(statement: Statement) -> bytes:
    """Of what a statement says; its own name is not part of it."""
    made = hashlib.sha256()
    head = (statement.day, statement.opening, statement.closing)
    made.update("\x1f".join(map(str, head)).encode())
    for piece in chunks(statement):
        for name, line in piece:
            made.update("\x1f".join(map(str, (name, *content(line)))).encode())
            made.update(b"\x1e")
    return made.digest()
