"""What the bank tells at the end of the day, and what it tells earlier when asked.

A statement is written once, when its day is closed; asked for again, the same bytes come back.
"""

from datetime import date

from paymaster_sandbox.bank import camt
from paymaster_sandbox.bank.folders import Folders
from paymaster_sandbox.chassis import faults
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import business_date, stamp
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS bank_statement (
    iban TEXT NOT NULL, date TEXT NOT NULL, number INTEGER NOT NULL, closing INTEGER NOT NULL,
    name TEXT NOT NULL, PRIMARY KEY (iban, date)
) WITHOUT ROWID;
"""


class Reports:
    """Statements and notices of every account."""

    def __init__(self, chassis: Chassis, schedule: Schedule, folders: Folders) -> None:
        self._chassis = chassis
        self._schedule = schedule
        self._folders = folders
        schedule.handle("bank.notice", self._notice_due)

    def close(self, tx: Tx, day: date) -> None:
        """Write the camt.053 of every account for a day that ends now."""
        accounts = tx.all(
            "SELECT iban, currency, holder, opening FROM bank_account WHERE opened_on <= ?"
            " ORDER BY iban",
            day.isoformat(),
        )
        for iban, currency, holder, opening in accounts:
            self._state(tx, day, iban, currency, holder, opening)

    def statements(self, tx: Tx, day: date) -> list[str]:
        """The names of a closed day's statements."""
        rows = tx.all(
            "SELECT name FROM bank_statement WHERE date = ? ORDER BY iban", day.isoformat()
        )
        return [name for (name,) in rows]

    def issue_again(self, tx: Tx, day: date) -> None:
        """Put a closed day's statements out once more."""
        for name in self.statements(tx, day):
            self._folders.publish_again(tx, name)

    def returned(self, tx: Tx) -> None:
        """A payment came back: announce it at once if the knob says so."""
        if faults.setting(tx, "camt054"):
            self._schedule.put(tx, "bank.notice", "")

    def notice_returns(self, tx: Tx) -> list[str]:
        """Write a camt.054 per account with the returns not yet told of; the files' names."""
        accounts = tx.all(
            "SELECT DISTINCT a.iban, a.currency, a.holder FROM bank_entry e"
            " JOIN bank_account a ON a.iban = e.iban WHERE e.kind = 'return' AND e.noticed = 0"
            " ORDER BY a.iban"
        )
        return [self._notice(tx, *account) for account in accounts]

    def _notice_due(self, tx: Tx, _subject: str) -> None:
        self.notice_returns(tx)

    def _state(
        self, tx: Tx, day: date, iban: str, currency: str, holder: str, opening: int
    ) -> None:
        last = tx.one(
            "SELECT number, closing FROM bank_statement WHERE iban = ? ORDER BY date DESC LIMIT 1",
            iban,
        )
        number, opening = (1, opening) if last is None else (last[0] + 1, last[1])
        booked = camt.entries(tx, "WHERE e.iban = ? AND e.booked_on = ?", iban, day.isoformat())
        name = f"camt053_{iban}_{day:%Y%m%d}.xml"
        paper = self._paper(tx, "053", iban, currency, holder, day)
        body = camt.write_statement(paper, number, opening, booked)
        closing = opening + sum(entry.amount for entry in booked)
        tx.run(
            "INSERT INTO bank_statement (iban, date, number, closing, name)"
            " VALUES (?, ?, ?, ?, ?)",
            iban, day.isoformat(), number, closing, name,
        )  # fmt: skip
        self._folders.publish(tx, name, body, 0)

    def _notice(self, tx: Tx, iban: str, currency: str, holder: str) -> str:
        fresh = "WHERE e.iban = ? AND e.kind = 'return' AND e.noticed = 0"
        booked = camt.entries(tx, fresh, iban)
        day = business_date(tx)
        paper = self._paper(tx, "054", iban, currency, holder, day)
        name = f"camt054_{iban}_{day:%Y%m%d}_{paper.message_id[-6:]}.xml"
        self._folders.publish(tx, name, camt.write_notice(paper, booked), 0)
        tx.run(
            "UPDATE bank_entry SET noticed = 1 WHERE iban = ? AND kind = 'return' AND noticed = 0",
            iban,
        )
        return name

    def _paper(
        self, tx: Tx, kind: str, iban: str, currency: str, holder: str, day: date
    ) -> camt.Paper:
        number = self._chassis.seed.count(tx, f"camt{kind}")
        return camt.Paper(
            message_id=f"SB{kind}-{number:010}",
            created=stamp(tx.now),
            iban=iban,
            currency=currency,
            holder=holder,
            date=day.isoformat(),
        )
