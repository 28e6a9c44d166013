"""Double entry: every movement takes from one account what it gives to another."""

from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS ledger_account (
    name TEXT PRIMARY KEY, currency TEXT NOT NULL, balance INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_move (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, target TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0), currency TEXT NOT NULL,
    reason TEXT NOT NULL, subject TEXT NOT NULL, at INTEGER NOT NULL
);
"""


class CurrencyMismatchError(Exception):
    """The account keeps another currency."""


def move(
    tx: Tx, source: str, target: str, amount: int, currency: str, *, reason: str, subject: str
) -> None:
    """Move minor units from one account to another; accounts appear when first named.

    Raises:
        CurrencyMismatchError: one of the accounts keeps another currency.
    """
    tx.run(
        "INSERT INTO ledger_move (source, target, amount, currency, reason, subject, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        source, target, amount, currency, reason, subject, tx.now,
    )  # fmt: skip
    for name, change in ((source, -amount), (target, amount)):
        changed = tx.run(
            "INSERT INTO ledger_account (name, currency, balance) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET balance = balance + excluded.balance"
            " WHERE currency = excluded.currency",
            name, currency, change,
        )  # fmt: skip
        if changed != 1:
            raise CurrencyMismatchError(f"{name} does not keep {currency}")


def balance(tx: Tx, name: str) -> int:
    """Minor units on the account; zero if it was never used."""
    row = tx.one("SELECT balance FROM ledger_account WHERE name = ?", name)
    return 0 if row is None else int(row[0])


def proven(tx: Tx) -> bool:
    """Whether every balance is the sum of its movements and each currency sums to zero."""
    wrong = tx.one(
        "SELECT 1 FROM ledger_account a WHERE balance <>"
        " (SELECT coalesce(sum(amount), 0) FROM ledger_move WHERE target = a.name)"
        " - (SELECT coalesce(sum(amount), 0) FROM ledger_move WHERE source = a.name)"
    )
    skewed = tx.one("SELECT 1 FROM ledger_account GROUP BY currency HAVING sum(balance) <> 0")
    return wrong is None and skewed is None
