"""The bank's own books: accounts, payments, booked entries.

A payment file is executed in one transaction together with its answer, keyed by the name under
which the file was claimed. A crash at any point therefore executes it exactly once.
"""

from dataclasses import dataclass
from typing import Protocol

from paymaster_sandbox.bank.pain001 import Transfer
from paymaster_sandbox.chassis import ledger
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import business_date
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS bank_account (
    iban TEXT PRIMARY KEY, currency TEXT NOT NULL, holder TEXT NOT NULL,
    opening INTEGER NOT NULL, opened_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bank_payment (
    id INTEGER PRIMARY KEY, iban TEXT NOT NULL, file TEXT NOT NULL, message_id TEXT NOT NULL,
    block_id TEXT NOT NULL, instruction_id TEXT, end_to_end_id TEXT NOT NULL,
    creditor_iban TEXT NOT NULL, creditor_name TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, remittance TEXT NOT NULL, status TEXT NOT NULL, code TEXT,
    treasury INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS bank_entry (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, reference TEXT NOT NULL UNIQUE, iban TEXT NOT NULL,
    kind TEXT NOT NULL, amount INTEGER NOT NULL, booked_on TEXT NOT NULL, payment INTEGER,
    end_to_end_id TEXT, party_name TEXT, party_iban TEXT, remittance TEXT, code TEXT,
    noticed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS bank_entry_day ON bank_entry (iban, booked_on);
CREATE TABLE IF NOT EXISTS bank_incoming (id TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
"""


class Wallets(Protocol):
    """The wallet provider as the bank sees it: an account holder whose money arrives."""

    def is_treasury(self, tx: Tx, iban: str, currency: str) -> bool:
        """Whether the IBAN is where merchants top up in this currency."""
        ...

    def top_up(self, tx: Tx, currency: str, amount: int, reference: str) -> None:
        """Credit the merchant's float."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """A customer's account. `balance` is in minor units."""

    iban: str
    currency: str
    holder: str
    balance: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in which file a transfer stands."""

    file: str
    message_id: str
    block_id: str


class ConflictError(Exception):
    """The same id was used before for something else."""


def ledger_name(iban: str) -> str:
    """The account's name in the double-entry books."""
    return f"bank/{iban}"


class BankBooks:
    """Every change to the bank's books."""

    def __init__(self, chassis: Chassis, wallets: Wallets) -> None:
        self._chassis = chassis
        self._wallets = wallets

    def open_account(self, tx: Tx, iban: str, currency: str, opening: int, holder: str) -> bool:
        """Open a customer's account; False if it exists. ConflictError on another currency."""
        known = self.account(tx, iban)
        if known is not None:
            if known.currency != currency:
                raise ConflictError(f"{iban} exists in {known.currency}")
            return False
        tx.run(
            "INSERT INTO bank_account (iban, currency, holder, opening, opened_on)"
            " VALUES (?, ?, ?, ?, ?)",
            iban, currency, holder, opening, business_date(tx).isoformat(),
        )  # fmt: skip
        if opening:
            self._move(tx, iban, opening, currency, "opening", iban)
        return True

    def account(self, tx: Tx, iban: str) -> Account | None:
        """A customer's account, or None if the IBAN is not ours."""
        row = tx.one("SELECT iban, currency, holder FROM bank_account WHERE iban = ?", iban)
        if row is None:
            return None
        return Account(row[0], row[1], row[2], ledger.balance(tx, ledger_name(iban)))

    def pay(self, tx: Tx, account: Account, transfer: Transfer, origin: Origin) -> int:
        """Execute one transfer that was found in order and funded; the payment's number."""
        treasury = self._wallets.is_treasury(tx, transfer.creditor_iban, transfer.currency)
        payment = self._record(tx, account.iban, transfer, origin, None, treasury=treasury)
        self._move(tx, account.iban, -transfer.amount, account.currency, "payment", str(payment))
        self._enter(
            tx, account.iban, "payment", -transfer.amount, payment=payment,
            end_to_end_id=transfer.end_to_end_id, party_name=transfer.creditor_name,
            party_iban=transfer.creditor_iban, remittance=transfer.remittance,
        )  # fmt: skip
        if treasury:
            self._wallets.top_up(tx, account.currency, transfer.amount, transfer.end_to_end_id)
        return payment

    def refuse(self, tx: Tx, iban: str, transfer: Transfer, origin: Origin, code: str) -> None:
        """Keep a record of a transfer that was not executed."""
        self._record(tx, iban, transfer, origin, code, treasury=False)

    def give_back(self, tx: Tx, payment: int, code: str) -> bool:
        """The other bank returned a payment: credit it. False if it was returned already."""
        row = tx.one(
            "SELECT iban, amount, currency, end_to_end_id, creditor_name, creditor_iban,"
            " remittance FROM bank_payment WHERE id = ? AND status = 'booked'",
            payment,
        )
        if row is None:
            return False
        iban, amount, currency, end_to_end_id, name, creditor, remittance = row
        tx.run("UPDATE bank_payment SET status = 'returned', code = ? WHERE id = ?", code, payment)
        self._move(tx, iban, amount, currency, "return", str(payment))
        self._enter(
            tx, iban, "return", amount, payment=payment, end_to_end_id=end_to_end_id,
            party_name=name, party_iban=creditor, remittance=remittance, code=code,
        )  # fmt: skip
        return True

    def receive(
        self, tx: Tx, account: Account, amount: int, name: str, remittance: str, key: str
    ) -> bool:
        """Somebody pays in; False if `key` was received before. ConflictError if not equal."""
        facts = f"{account.iban}|{amount}|{name}|{remittance}"
        known = tx.one("SELECT facts FROM bank_incoming WHERE id = ?", key)
        if known is not None:
            if known[0] != facts:
                raise ConflictError(f"incoming payment {key} was different")
            return False
        tx.run("INSERT INTO bank_incoming (id, facts) VALUES (?, ?)", key, facts)
        self._move(tx, account.iban, amount, account.currency, "incoming", key)
        self._enter(
            tx, account.iban, "incoming", amount, party_name=name, remittance=remittance,
            end_to_end_id="NOTPROVIDED",
        )  # fmt: skip
        return True

    def _record(
        self, tx: Tx, iban: str, transfer: Transfer, origin: Origin, code: str | None, *,
        treasury: bool,
    ) -> int:  # fmt: skip
        return tx.insert(
            "INSERT INTO bank_payment (iban, file, message_id, block_id, instruction_id,"
            " end_to_end_id, creditor_iban, creditor_name, amount, currency, remittance, status,"
            " code, treasury) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            iban, origin.file, origin.message_id, origin.block_id, transfer.instruction_id,
            transfer.end_to_end_id, transfer.creditor_iban, transfer.creditor_name,
            transfer.amount, transfer.currency, transfer.remittance,
            "booked" if code is None else "rejected", code, treasury,
        )  # fmt: skip

    def _move(
        self, tx: Tx, iban: str, amount: int, currency: str, reason: str, subject: str
    ) -> None:
        world, own = f"bank/world/{currency}", ledger_name(iban)
        source, target = (world, own) if amount > 0 else (own, world)
        ledger.move(tx, source, target, abs(amount), currency, reason=reason, subject=subject)

    def _enter(
        self, tx: Tx, iban: str, kind: str, amount: int, *, remittance: str,
        party_name: str, end_to_end_id: str, payment: int | None = None,
        party_iban: str | None = None, code: str | None = None,
    ) -> None:  # fmt: skip
        booked_on = business_date(tx)
        number = self._chassis.seed.count(tx, "entry")
        tx.run(
            "INSERT INTO bank_entry (reference, iban, kind, amount, booked_on, payment,"
            " end_to_end_id, party_name, party_iban, remittance, code)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            f"SB{booked_on:%Y%m%d}{number:010}", iban, kind, amount, booked_on.isoformat(),
            payment, end_to_end_id, party_name, party_iban, remittance or None, code,
        )  # fmt: skip
