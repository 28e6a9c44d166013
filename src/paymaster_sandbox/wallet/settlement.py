"""The provider's daily settlement files, frozen with the day, with planted differences."""

import csv
import hashlib
import io
from dataclasses import dataclass, replace
from datetime import date

from paymaster_sandbox.chassis import faults
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import stamp
from paymaster_sandbox.chassis.money import exponent, format_minor
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS wallet_settlement (
    date TEXT NOT NULL, currency TEXT NOT NULL, body BLOB NOT NULL, sha256 TEXT NOT NULL,
    lines INTEGER NOT NULL, closing INTEGER NOT NULL, PRIMARY KEY (date, currency)
) WITHOUT ROWID;
"""
_HEADER = ("line", "kind", "id", "reference", "amount", "fee", "currency", "booked_at")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file. `amount` is signed, `fee` is what was taken on top."""

    line: str
    kind: str
    subject: str
    reference: str
    amount: int
    fee: int
    booked_at: str


class Settlement:
    """Freezes days and gives their files out."""

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis

    def close(self, tx: Tx, day: date) -> None:
        """Freeze a day of every currency."""
        merchants = tx.all(
            "SELECT currency, opening FROM wallet_merchant WHERE opened_on <= ? ORDER BY currency",
            day.isoformat(),
        )
        for currency, opening in merchants:
            self._freeze(tx, day, currency, opening)

    def listed(self, tx: Tx, day: date | None = None) -> list[dict[str, object]]:
        """The closed days, or one of them."""
        rows = tx.all(
            "SELECT date, currency, sha256, lines FROM wallet_settlement"
            " WHERE ?1 IS NULL OR date = ?1 ORDER BY date, currency",
            None if day is None else day.isoformat(),
        )
        names = ("date", "currency", "sha256", "lines")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def file(self, tx: Tx, day: str, currency: str) -> bytes | None:
        """The bytes of a closed day, the same at every fetch."""
        row = tx.one(
            "SELECT body FROM wallet_settlement WHERE date = ? AND currency = ?", day, currency
        )
        return None if row is None else row[0]

    def _freeze(self, tx: Tx, day: date, currency: str, opening: int) -> None:
        last = tx.one(
            "SELECT closing FROM wallet_settlement WHERE currency = ? ORDER BY date DESC LIMIT 1",
            currency,
        )
        opening = opening if last is None else last[0]
        true = self._lines(tx, day, currency)
        closing = opening + sum(line.amount - line.fee for line in true)
        shown = closing - shortfall(tx, currency)
        first = self._balance(day, currency, "opening", opening)
        final = self._balance(day, currency, "closing", shown)
        body = _write([first, *self._distort(tx, true, currency), final], currency)
        tx.run(
            "INSERT INTO wallet_settlement (date, currency, body, sha256, lines, closing)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            day.isoformat(), currency, body, hashlib.sha256(body).hexdigest(),
            body.count(b"\n") - 1, closing,
        )  # fmt: skip

    def _lines(self, tx: Tx, day: date, currency: str) -> list[Line]:
        rows = tx.all(
            "SELECT seq, kind, subject, reference, amount, fee, booked FROM wallet_line"
            " WHERE currency = ? AND date = ? ORDER BY seq",
            currency, day.isoformat(),
        )  # fmt: skip
        return [
            Line(f"SL{day:%Y%m%d}{seq:010}", kind, subject, reference, amount, fee, stamp(booked))
            for seq, kind, subject, reference, amount, fee, booked in rows
        ]

    def _distort(self, tx: Tx, true: list[Line], currency: str) -> list[Line]:
        """Leave out, change and repeat payout lines as the fault knobs say."""
        lines = list(true)
        payouts = [line for line in true if line.kind == "payout"]
        while payouts and faults.strikes(tx, "settlement_omit"):
            lines.remove(self._draw(tx, payouts))
        while payouts and faults.strikes(tx, "settlement_alter"):
            line = self._draw(tx, payouts)
            change = 10 ** exponent(currency)
            lines[lines.index(line)] = replace(line, amount=line.amount - change)
        while payouts and faults.strikes(tx, "settlement_duplicate"):
            line = self._draw(tx, payouts)
            lines.append(replace(line, line=f"{line.line}R"))
        return lines

    def _draw(self, tx: Tx, payouts: list[Line]) -> Line:
        return payouts.pop(self._chassis.seed.below(tx, "settlement", len(payouts)))

    def _balance(self, day: date, currency: str, kind: str, amount: int) -> Line:
        at = f"{day}T00:00:00.000Z" if kind == "opening" else f"{day}T23:59:59.999Z"
        return Line(f"SL{day:%Y%m%d}{currency}{kind.upper()}", kind, "", "", amount, 0, at)


def shortfall(tx: Tx, currency: str) -> int:
    """How much less than the truth the provider shows: one unit of the currency, or nothing."""
    return 10 ** exponent(currency) if faults.setting(tx, "balance_short") else 0


def _write(lines: list[Line], currency: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for line in lines:
        writer.writerow(
            (
                line.line, line.kind, line.subject, line.reference,
                format_minor(line.amount, currency), format_minor(line.fee, currency), currency,
                line.booked_at,
            )
        )  # fmt: skip
    return text.getvalue().encode()
