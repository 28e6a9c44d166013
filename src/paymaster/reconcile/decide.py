"""What a statement line is: a pure decision, the same whenever it is made again.

In this order: a side of one of our own transfers, a fee, a payment, return or charge with our
reference, a sponsor's payment, and otherwise a doubt. A reference decides before a text does; the
sign of the amount must fit in every case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from paymaster.kernel.ids import parse_reference
from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.catalogue import Catalogue
from paymaster.reconcile.store import LineRow


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A treasury transfer by the key of one of its attempts."""

    key: str
    transfer_id: int
    attempt_id: int
    from_account_id: int
    to_account_id: int
    amount: int
    asset: str


class Side(StrEnum):
    """Which booking of a transfer a line is."""

    OUT = "out"
    """It left the paying account."""
    IN = "in"
    """It arrived at the receiving account."""
    BACK = "back"
    """It came back to the paying account."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A payment, a return, or a payment to us, with our reference: its cell knows.

    `apart` and `back` are lines that only say where the money is, and nothing about its payee.
    """

    cell: int
    key: str
    kind: Literal["payout", "return", "apart", "back", "incoming"]


@dataclass(frozen=True, slots=True)
class Fund:
    """A sponsor's payment for a campaign."""

    campaign_id: int


@dataclass(frozen=True, slots=True)
class Fee:
    """What the rail charged or gave back, or a line that moves nothing."""


@dataclass(frozen=True, slots=True)
class Own:
    """The owner's money, put onto the account or taken off it."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A side of a treasury transfer."""

    row: TransferRow
    side: Side


@dataclass(frozen=True, slots=True)
class Doubt:
    """Nothing that can be posted as such: `expected` is minor units where there are figures."""

    kind: Kind
    detail: str
    expected: int | None = None


Decision = Ask | Fund | Fee | Own | Transfer | Doubt

_OUT = frozenset({LineKind.PAYOUT, LineKind.INCOMING, LineKind.OTHER})
"""Money that leaves: of what had come in, what is given back to its payer."""
_IN = frozenset({LineKind.INCOMING, LineKind.TOPUP, LineKind.OTHER})


def decide(
    line: LineRow,
    remittance: str | None,
    catalogue: Catalogue,
    cells: frozenset[int],
    transfers: Mapping[str, TransferRow],
) -> Decision:
    """Decide. `cells` are the numbers of the environment; `transfers` are by attempt key."""
    transfer = transfers.get(line.reference or "")
    if transfer is not None and line.amount:
        return _transfer(line, transfer)
    if line.amount == 0 or line.kind == LineKind.FEE:
        return Fee()
    ref = parse_reference(line.reference) if line.reference else None
    if ref is not None and line.reference and ref.cell in cells:
        if line.amount < 0 and line.kind in _OUT:
            return Ask(ref.cell, line.reference, "payout")
        if line.amount > 0 and line.kind == LineKind.RETURN:
            return Ask(ref.cell, line.reference, "return")
        if line.amount < 0 and line.kind == LineKind.SET_APART:
            return Ask(ref.cell, line.reference, "apart")
        if line.amount > 0 and line.kind == LineKind.GIVEN_BACK:
            return Ask(ref.cell, line.reference, "back")
        names_campaign = bool(catalogue.find(line.reference))
        if line.amount > 0 and line.kind == LineKind.INCOMING and not names_campaign:
            return Ask(ref.cell, line.reference, "incoming")
    if line.kind == LineKind.OWN:
        return Own()
    if line.amount > 0 and line.kind in _IN:
        return _incoming(line, remittance, catalogue)
    return Doubt(
        Kind.UNKNOWN_LINE, f"A line of kind {line.kind} that no payment or fee of ours explains."
    )


def _transfer(line: LineRow, row: TransferRow) -> Decision:
    expected = Money(row.amount, row.asset)
    sides = {
        (row.from_account_id, -row.amount): Side.OUT,
        (row.to_account_id, row.amount): Side.IN,
        (row.from_account_id, row.amount): Side.BACK,
    }
    side = sides.get((line.rail_account_id, line.amount))
    if side is None or line.asset != row.asset:
        return Doubt(
            Kind.TRANSFER_DIFFERS,
            f"The line of {line.money} names a transfer of {expected} but is no side of it.",
            row.amount,
        )
    return Transfer(row, side)


def _incoming(line: LineRow, remittance: str | None, catalogue: Catalogue) -> Decision:
    found = catalogue.find(line.reference, remittance)
    if not found:
        return Doubt(Kind.UNKNOWN_LINE, "Money came in that names no campaign and no payment.")
    if len(found) > 1:
        return Doubt(Kind.FUNDING_AMBIGUOUS, f"The payment names {len(found)} campaigns.")
    funding = next(iter(found))
    if funding.currency != line.asset:
        return Doubt(
            Kind.FUNDING_CURRENCY,
            f"The payment is in {line.asset}, the campaign's budget in {funding.currency}.",
        )
    return Fund(funding.campaign_id)
