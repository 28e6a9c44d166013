"""What is owed and what is there: sums over cells. All amounts are minor units of one currency.

In each cell the accounts of a currency sum to zero. So what users have is the negative of all other
accounts, which are few: nothing here looks at users, except at those who owe us.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from paymaster.ledger.chart import KINDS

OF_USERS = frozenset(name for name, kind in KINDS.items() if kind.owner == "user")
OURS = ("commission", "fee_revenue")
"""What of the money on our accounts is our own."""


@dataclass(frozen=True, slots=True)
class Sum:
    """The accounts of a kind in a cell; `owner_id` is 0 where the kind is not by rail account."""

    kind: str
    owner_id: int
    asset: str
    balance: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Payments of an account that have not reached the books as paid. `since` is the oldest."""

    rail_account_id: int
    asset: str
    amount: int
    payments: int
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class CellFigures:
    """One cell, from one snapshot: at `seq` of its order of commits."""

    cell: int
    seq: int
    sums: tuple[Sum, ...] = ()
    under_way: tuple[Flow, ...] = ()
    queued: tuple[Flow, ...] = ()
    asked: tuple[Flow, ...] = ()
    awaiting: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Position:
    """A currency. All as people see them: what there is and what is owed are positive.

    `settled` is on statements. `incoming` was paid to us and is on none yet (below zero: more was
    given back); until it is on one it covers nothing. `refunding` is set aside for payers.
    `leaving` was paid and is on no statement yet, `transit` is between two of
    our accounts, `between_cells` between two cells. `receivable` are rewards that wait for their
    sponsor's money, `debts` what users owe us: neither is there. `owed` is what users have:
    available, vesting, in reserve, held.
    """

    asset: str
    settled: int = 0
    incoming: int = 0
    refunding: int = 0
    leaving: int = 0
    transit: int = 0
    between_cells: int = 0
    owed: int = 0
    debts: int = 0
    receivable: int = 0
    budgets: int = 0
    commission: int = 0
    fees: int = 0
    suspense: int = 0
    equity: int = 0
    fx: int = 0
    rail_fees: int = 0
    losses: int = 0
    other: int = 0

    @property
    def ours(self) -> int:
        """Of what is settled, what is our own income."""
        return max(0, self.commission + self.fees)

    @property
    def cover(self) -> int:
        """What is there for users and sponsors: settled, less what has left, less ours."""
        gone = self.leaving + self.refunding + max(0, -self.incoming)
        return self.settled - gone - self.between_cells - self.ours

    @property
    def missing(self) -> int:
        """By how much users are owed more than there is; 0 when it is there."""
        return max(0, self.owed - self.cover)


@dataclass(frozen=True, slots=True)
class Float:
    """An account that pays, in its currency. `free` is what may still leave."""

    rail_account_id: int
    asset: str
    settled: int = 0
    leaving: int = 0
    under_way: int = 0
    unanswered: int = 0
    queued: int = 0
    queued_payments: int = 0
    queued_since: datetime | None = None

    @property
    def free(self) -> int:
        """Settled, less what was paid, is being paid, or is on a statement that is being read."""
        return self.settled - self.leaving - self.under_way - self.unanswered


_SHOWN = {
    "cash": ("settled", -1),
    "incoming": ("incoming", -1),
    "refunds": ("refunding", 1),
    "clearing": ("leaving", 1),
    "transit": ("transit", -1),
    "intercell": ("between_cells", 1),
    "budget": ("budgets", 1),
    "commission": ("commission", 1),
    "fee_revenue": ("fees", 1),
    "suspense": ("suspense", 1),
    "equity": ("equity", 1),
    "fx": ("fx", 1),
    "rail_fees": ("rail_fees", -1),
    "loss": ("losses", -1),
}
"""Where a kind is shown, and under which sign."""


def positions(cells: Iterable[CellFigures]) -> dict[str, Position]:
    """By currency, summed over cells."""
    found: dict[str, dict[str, int]] = {}
    for cell in cells:
        for one in cell.sums:
            at = found.setdefault(one.asset, {})
            if one.kind == "debt":
                at["debts"] = at.get("debts", 0) - one.balance
                at["owed"] = at.get("owed", 0) - one.balance
                continue
            name, sign = _SHOWN.get(one.kind, ("other", 1))
            at[name] = at.get(name, 0) + sign * one.balance
            at["owed"] = at.get("owed", 0) - one.balance
        for asset, amount in cell.awaiting.items():
            at = found.setdefault(asset, {})
            at["receivable"] = at.get("receivable", 0) + amount
    return {asset: Position(asset, **found[asset]) for asset in sorted(found)}


def floats(cells: Iterable[CellFigures], assets: Mapping[int, str]) -> dict[int, Float]:
    """By rail account; `assets` has the currency of each."""
    found = {number: Float(number, asset) for number, asset in assets.items()}

    def add(number: int, asset: str, **more: int) -> None:
        one = found.get(number)
        if one is not None and one.asset == asset:
            added = {name: getattr(one, name) + value for name, value in more.items()}
            found[number] = replace(one, **added)

    for cell in cells:
        for one in cell.sums:
            if one.kind == "cash":
                add(one.owner_id, one.asset, settled=-one.balance)
            elif one.kind in {"clearing", "refunds"}:
                add(one.owner_id, one.asset, leaving=one.balance)
            elif one.kind == "incoming":
                # What was paid to us is not there yet; what more was given back is gone.
                add(one.owner_id, one.asset, leaving=max(0, one.balance))
        for flow in cell.under_way:
            add(flow.rail_account_id, flow.asset, under_way=flow.amount)
        for flow in cell.asked:
            add(flow.rail_account_id, flow.asset, unanswered=flow.amount)
        for flow in cell.queued:
            number, asset = flow.rail_account_id, flow.asset
            add(number, asset, queued=flow.amount, queued_payments=flow.payments)
            since = found[number].queued_since if number in found else None
            if number in found and flow.since is not None and (since is None or flow.since < since):
                found[number] = replace(found[number], queued_since=flow.since)
    return found
