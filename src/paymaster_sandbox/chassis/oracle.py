"""What is fated for a payee: closed accounts, refusals, money that comes back."""

from dataclasses import dataclass

from paymaster_sandbox.chassis import magic
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS oracle (
    payee TEXT NOT NULL, outcome TEXT NOT NULL, code TEXT, after INTEGER NOT NULL,
    uses INTEGER, asked_uses INTEGER, PRIMARY KEY (payee, outcome)
) WITHOUT ROWID;
"""

OUTCOMES = ("closed", "reject", "fail", "return", "slow")


@dataclass(frozen=True, slots=True)
class Fate:
    """One thing that will happen to a payment to this payee. `after` is in microseconds."""

    outcome: str
    code: str | None
    after: int


def foretell(tx: Tx, payee: str, fate: Fate, uses: int | None) -> bool:
    """Write a fate down; None uses means always. False, and no change, if it says the same."""
    same = tx.one(
        "SELECT 1 FROM oracle WHERE payee = ? AND outcome = ? AND code IS ? AND after = ?"
        " AND asked_uses IS ?",
        payee, fate.outcome, fate.code, fate.after, uses,
    )  # fmt: skip
    if same is not None:
        return False
    tx.run(
        "INSERT OR REPLACE INTO oracle (payee, outcome, code, after, uses, asked_uses)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        payee, fate.outcome, fate.code, fate.after, uses, uses,
    )  # fmt: skip
    return True


def ask(tx: Tx, payee: str) -> dict[str, Fate]:
    """Every fate of the payee that still has uses, by outcome; by its name where nobody said."""
    rows = tx.all(
        "SELECT outcome, code, after FROM oracle WHERE payee = ? AND (uses IS NULL OR uses > 0)",
        payee,
    )
    named = magic.fate(payee)
    if not rows and named is not None:
        return {named[0]: Fate(*named)}
    return {outcome: Fate(outcome, code, after) for outcome, code, after in rows}


def fulfil(tx: Tx, payee: str, outcome: str) -> None:
    """Use up one use of a fate."""
    tx.run("UPDATE oracle SET uses = uses - 1 WHERE payee = ? AND outcome = ?", payee, outcome)
