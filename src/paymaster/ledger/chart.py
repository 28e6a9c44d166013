"""The chart of accounts, as data.

A posting moves money from a source to a destination account; an account's balance is what came in
minus what went out. Liabilities (what we owe) are positive and may not fall below their floor.
Assets (money at a bank or provider) are negative in the books and shown negated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Kind:
    """`owner` says whose id `owner_id` is. `shown` is the sign under which people see it."""

    name: str
    owner: str
    floor: int | None
    ceiling: int | None
    shown: int
    meaning: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("available", "user", 0, None, 1, "what the user may withdraw"),
        Kind("vesting", "user", 0, None, 1, "earned, not yet matured"),
        Kind("reserve", "user", 0, None, 1, "kept aside for a time after it matured"),
        Kind("held", "user", 0, None, 1, "set aside for a withdrawal that is under way"),
        Kind("debt", "user", None, 0, -1, "what the user owes after a late reversal"),
        Kind("budget", "campaign", 0, None, 1, "a sponsor's money for one campaign"),
        Kind("commission", "house", None, None, 1, "our share of rewards"),
        Kind("fee_revenue", "house", None, None, 1, "withdrawal fees that users paid"),
        Kind("fx", "house", None, None, 1, "our position: taken in and given out in exchange"),
        Kind(
            "clearing",
            "rail account",
            None,
            None,
            1,
            "paid, not on a statement (or the reverse)",
        ),
        Kind("cash", "rail account", None, None, -1, "our money at a bank or provider"),
        Kind("transit", "house", None, None, -1, "on the way between two of our own accounts"),
        Kind("incoming", "rail account", None, None, -1, "paid to us, not yet on a statement"),
        Kind("refunds", "rail account", 0, None, 1, "set aside to be given back to its payer"),
        Kind("rail_fees", "rail account", None, None, -1, "what the rail charged us"),
        Kind("suspense", "rail account", None, None, 1, "on a statement, not yet explained"),
        Kind("intercell", "cell", None, None, 1, "between this cell and another one"),
        Kind("equity", "house", None, None, 1, "the owner's money: opening balances"),
        Kind("loss", "house", None, None, -1, "written off"),
    )
}

HOUSE = 0
"""`owner_id` of accounts of the house."""


class Account(NamedTuple):
    """Names an account: kind, owner, asset (currency)."""

    kind: str
    owner_id: int
    asset: str


def reference() -> str:
    """The table of docs/reference/chart.md."""
    rows = ["| account | owner | least | most | meaning |", "|---|---|---|---|---|"]
    for kind in KINDS.values():
        least = "" if kind.floor is None else str(kind.floor)
        most = "" if kind.ceiling is None else str(kind.ceiling)
        rows.append(f"| `{kind.name}` | {kind.owner} | {least} | {most} | {kind.meaning} |")
    return "\n".join(rows) + "\n"
