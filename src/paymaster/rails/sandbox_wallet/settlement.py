"""The provider's settlement file of a day: a CSV that must be whole, line by line.

Whether its lines add up to its balances is for reconciliation (`Statement.difference`): a provider
that forgot a line still says the truth about the others.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from datetime import date

from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.errors import PaymasterError, Refusal
from paymaster.kernel.money import Money
from paymaster.rails.base import (
    LineKind,
    Notice,
    Outcome,
    RailAccount,
    Statement,
    StatementLine,
    Verdict,
)
from paymaster.rails.transport import MAX_FILE_BYTES, malformed

HEADER = ("line", "kind", "id", "reference", "amount", "fee", "currency", "booked_at")
_KINDS: dict[str, LineKind] = {
    "payout": LineKind.PAYOUT,
    "return": LineKind.RETURN,
    "topup": LineKind.TOPUP,
    "adjustment": LineKind.OTHER,
}
_NAME = re.compile(r"sandpay-(\d{4}-\d{2}-\d{2})-([A-Z]{3})-([0-9a-f]{16})\.csv\Z", re.ASCII)

Row = dict[str, str]


def file_name(day: str, currency: str, digest: str) -> str:
    """Ours, for a settlement: other content of the same day is another file."""
    return f"sandpay-{day}-{currency}-{digest[:16]}.csv"


def read(account: RailAccount, name: str, body: bytes) -> tuple[list[Notice], list[Statement]]:
    """Notices and the statement. Raises Refusal `statement-malformed` or `statement-foreign`."""
    match = _NAME.match(name)
    try:
        day = date.fromisoformat(match.group(1)) if match else None
    except ValueError:
        day = None
    if match is None or day is None:
        raise malformed(f"{name[:80]} is not the name of a settlement.")
    rows = _rows(body)
    if {row["currency"] for row in rows} | {match.group(2)} != {account.currency}:
        raise Refusal("statement-foreign", f"The settlement is not in {account.currency} alone.")
    if [row["kind"] for row in rows].count("opening") != 1 or rows[0]["kind"] != "opening":
        raise malformed("The settlement does not begin with its one opening balance.")
    if [row["kind"] for row in rows].count("closing") != 1 or rows[-1]["kind"] != "closing":
        raise malformed("The settlement does not end with its one closing balance.")
    if len({row["line"] for row in rows}) != len(rows):
        raise malformed("Two lines of the settlement have the same id.")
    opening, closing = _money(rows[0], "amount"), _money(rows[-1], "amount")
    lines = tuple(_line(row) for row in rows[1:-1])
    statement = Statement(
        statement_id=name.removesuffix(".csv"),
        account=account.settings.get("merchant", account.name),
        day=day,
        opening=opening,
        closing=closing,
        lines=lines,
    )
    return list(_notices(lines, rows[1:-1])), [statement]


def _rows(body: bytes) -> list[Row]:
    if len(body) > MAX_FILE_BYTES:
        raise malformed(f"The settlement is larger than {MAX_FILE_BYTES} bytes.")
    if not body.endswith(b"\n"):
        raise malformed("The settlement is cut off: its last line has no end.")
    try:
        written = body.decode("utf-8")
        table = list(csv.reader(written.splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise malformed(f"The settlement is not CSV: {error}") from None
    if not table or tuple(table[0]) != HEADER:
        raise malformed(f"The columns are not {', '.join(HEADER)}.")
    if len(table) < 3 or any(len(row) != len(HEADER) for row in table):
        raise malformed("A line has too many or too few fields, or there are no lines.")
    return [dict(zip(HEADER, row, strict=True)) for row in table[1:]]


def _money(row: Row, column: str) -> Money:
    try:
        return Money.parse(row[column], row["currency"])
    except PaymasterError as error:
        raise malformed(f"Line {row['line']}: {error.detail}") from None


def _line(row: Row) -> StatementLine:
    kind = _KINDS.get(row["kind"])
    if kind is None or not row["line"]:
        raise malformed(f"Line {row['line']} is of an unknown kind, {row['kind'][:20]!r}.")
    try:
        booked_on = parse_rfc3339(row["booked_at"]).date()
    except ValueError:
        raise malformed(f"Line {row['line']} has no time of booking.") from None
    amount, fee = _money(row, "amount"), _money(row, "fee")
    goes_out = kind is LineKind.PAYOUT
    if fee.minor < 0 or (kind is not LineKind.OTHER and goes_out != (amount.minor < 0)):
        raise malformed(f"Line {row['line']}: a {row['kind']} cannot have this sign.")
    return StatementLine(
        line_id=row["line"],
        kind=kind,
        amount=amount,
        fee=fee,
        booked_on=booked_on,
        reference=row["reference"] or None,
    )


def _notices(lines: Sequence[StatementLine], rows: Sequence[Row]) -> Iterable[Notice]:
    """A settlement is proof: what it lists was paid, or came back."""
    verdicts = {LineKind.PAYOUT: Verdict.PAID, LineKind.RETURN: Verdict.RETURNED}
    for line, row in zip(lines, rows, strict=True):
        verdict = verdicts.get(line.kind)
        if verdict is None or line.reference is None:
            continue
        yield Notice(
            event_id=f"settlement/{line.line_id}",
            outcome=Outcome(
                key=line.reference,
                verdict=verdict,
                provider_id=row["id"] or None,
                amount=Money(abs(line.amount.minor), line.amount.currency),
            ),
        )
