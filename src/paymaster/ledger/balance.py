"""Balances, read from the account rows by key: no cache stands between a write and a read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paymaster.db.tx import CellRead, ReadTx
from paymaster.kernel.money import Money
from paymaster.ledger import store
from paymaster.ledger.chart import Account


@dataclass(frozen=True, slots=True)
class Balance:
    """A user's money in one currency. `debt` is shown apart; `available` never is negative."""

    currency: str
    available: Money
    vesting: Money
    held: Money
    debt: Money
    as_of_seq: int
    reserve_minor: int = 0

    @property
    def reserve(self) -> Money:
        """What matured and stays aside until its date."""
        return Money(self.reserve_minor, self.currency)

    @property
    def withdrawable(self) -> Money:
        """What may be withdrawn: nothing while something is owed."""
        return Money.zero(self.currency) if self.debt else self.available


async def balances(tx: CellRead, user_id: int) -> list[Balance]:
    """All currencies of a user, from the snapshot of `tx`."""
    rows = await tx.tuples(
        "SELECT asset, kind, balance, (SELECT seq FROM head WHERE id = 1) FROM account"
        " WHERE owner_id = %s AND kind IN ('available', 'vesting', 'held', 'reserve', 'debt')"
        " ORDER BY asset",
        (user_id,),
    )
    seq = int(rows[0][3] or 0) if rows else 0
    found: dict[str, dict[str, int]] = {}
    for asset, kind, balance, _ in rows:
        found.setdefault(asset, {})[kind] = balance
    return [
        Balance(
            asset,
            Money(kinds.get("available", 0), asset),
            Money(kinds.get("vesting", 0), asset),
            Money(kinds.get("held", 0), asset),
            Money(-kinds.get("debt", 0), asset),
            seq,
            kinds.get("reserve", 0),
        )
        for asset, kinds in found.items()
    ]


async def account_balance(tx: ReadTx, account: Account) -> int:
    """What came in minus what went out, in minor units; 0 for an account not opened yet."""
    row = await store.find_account(tx, account)
    return row.balance if row else 0


async def owing(tx: ReadTx, user_ids: Sequence[int], asset: str) -> frozenset[int]:
    """Those of the users who owe something in this currency."""
    rows = await tx.tuples(
        "SELECT owner_id FROM account WHERE kind = 'debt' AND asset = %s AND balance < 0"
        " AND owner_id = ANY(%s)",
        (asset, list(user_ids)),
    )
    return frozenset(row[0] for row in rows)


@dataclass(frozen=True, slots=True)
class Held:
    """Money set aside: how much is left of it, why, and for what (a text id)."""

    amount: Money
    reason: str
    subject: str


async def holds(tx: ReadTx, user_id: int) -> list[Held]:
    """A user's open holds, oldest first."""
    rows = await tx.tuples(
        "SELECT h.remaining, a.asset, h.reason, h.subject FROM account a"
        " JOIN hold h ON h.held_id = a.id AND h.state = 'open'"
        " WHERE a.kind = 'held' AND a.owner_id = %s ORDER BY h.id",
        (user_id,),
    )
    return [Held(Money(left, asset), reason, subject) for left, asset, reason, subject in rows]


async def of_kind(tx: ReadTx, kind: str) -> list[tuple[int, Money]]:
    """Every account of a kind as `(owner, what came in minus what went out)`."""
    rows = await tx.tuples(
        "SELECT owner_id, asset, balance FROM account WHERE kind = %s ORDER BY owner_id, asset",
        (kind,),
    )
    return [(owner, Money(balance, asset)) for owner, asset, balance in rows]
