"""The figures of an environment: each cell from one snapshot, the treasury last.

Last, because a payment that is on a statement is taken out of clearing in its own cell first and
off the account in the treasury afterwards: meanwhile its line counts as unanswered there. So what
an account has is never shown too high, at most too low for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellRead
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.funding import figures, store
from paymaster.funding.figures import OF_USERS, CellFigures, Float, Position
from paymaster.ledger.chart import KINDS

_SYSTEM = [name for name, kind in KINDS.items() if kind.owner != "user"]
_LOOKED_AT = [*_SYSTEM, "debt"]
_BY_ACCOUNT = ["cash", "clearing", "incoming", "refunds"]


@dataclass(frozen=True, slots=True)
class Picture:
    """How an environment stands. `seqs` says up to which commit each cell was looked at."""

    positions: dict[str, Position]
    floats: dict[int, Float]
    accounts: dict[int, PayoutAccount]
    seqs: dict[int, int]


async def look(dbs: Databases, environment_id: int) -> Picture:
    """How an environment stands now; reads no account of a user who owes nothing."""
    known = await accounts.load(dbs, environment_id)
    cells = await all_figures(dbs, environment_id)
    assets = {number: account.rail.currency for number, account in known.items()}
    return Picture(
        figures.positions(cells),
        figures.floats(cells, assets),
        known,
        {one.cell: one.seq for one in cells},
    )


async def all_figures(dbs: Databases, environment_id: int) -> list[CellFigures]:
    """Of every cell, the treasury last."""
    return [await cell.read(_figures) for cell in in_order(dbs, environment_id)]


def in_order(dbs: Databases, environment_id: int) -> list[CellDb]:
    """The cells of an environment as they must be read: the treasury last."""
    rows = sorted(dbs.cells(environment_id), key=lambda cell: cell.treasury)
    return [dbs.cell(cell.number) for cell in rows]


async def split(dbs: Databases, environment_id: int) -> dict[tuple[str, str], int]:
    """By currency and kind, what users have: reads every account of every user."""
    found: dict[tuple[str, str], int] = {}
    kinds = sorted(OF_USERS - {"debt"})
    for cell in dbs.cells(environment_id):
        for key, amount in (
            await dbs.cell(cell.number).read(lambda tx: store.split(tx, kinds))
        ).items():
            found[key] = found.get(key, 0) + amount
    return found


async def _figures(tx: CellRead) -> CellFigures:
    return CellFigures(
        tx.cell,
        await store.head(tx),
        tuple(await store.sums(tx, _LOOKED_AT, _BY_ACCOUNT)),
        tuple(await store.under_way(tx)),
        tuple(await store.queued(tx)),
        tuple(await store.asked(tx)),
        await store.awaiting(tx),
    )
