"""Fingerprints of destinations under a new fingerprint key.

A look-up asks for a destination under every version of the key, so nothing has to be done at once.
The sweep opens each destination, makes its fingerprint under the newest version and puts that in
the place of the old one, first in the directory and then in the cell: between the two both are
there. Destinations of erased users cannot be opened; they keep what they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx, ControlTx
from paymaster.kernel.ids import new_trace_id
from paymaster.people import store
from paymaster.people.destinations import REGISTRY, open_payees
from paymaster.rails.destinations import check
from paymaster.secrets.sealing import Sealer

NAME = "destination.fingerprint"
"""What it is called in the table `rewrap`."""


@dataclass(frozen=True, slots=True)
class Swept:
    """How many destinations got a new fingerprint, and the last one looked at; None at the end."""

    changed: int
    last: int | None


@dataclass(frozen=True, slots=True)
class _Due:
    destination_id: int
    user_id: int
    old: bytes
    new: bytes


async def sweep(
    dbs: Databases, cell: CellDb, sealer: Sealer, actor: Actor, after: int, limit: int
) -> Swept:
    """The next `limit` destinations of a cell after an id. Harmless to repeat."""

    async def look(tx: CellRead) -> tuple[list[_Due], int | None]:
        rows = await store.stored_fingerprints(tx, after, limit)
        opened = await open_payees(tx, sealer, [row[0] for row in rows])
        due: list[_Due] = []
        for destination_id, user_id, old in rows:
            payee = opened.get(destination_id)
            if payee is None:
                continue
            source = check(payee.kind, payee.details).fingerprint_source
            new = sealer.fingerprint(payee.kind, source)
            if new != old:
                due.append(_Due(destination_id, user_id, old, new))
        return due, rows[-1][0] if rows else None

    due, last = await cell.read(look)
    if not due:
        return Swept(0, last)
    environment = dbs.environment_of(cell.number)
    trace_id = new_trace_id()

    async def register(tx: ControlTx) -> None:
        for one in due:
            await store.register_fingerprints(
                tx, environment.id, REGISTRY, [one.new], cell.number, one.user_id
            )

    await dbs.control.run(actor, trace_id, register)
    changed = await cell.run(actor, trace_id, lambda tx: _replace(tx, due))
    return Swept(changed, last)


async def _replace(tx: CellTx, due: Sequence[_Due]) -> int:
    return await store.replace_fingerprints(
        tx,
        [one.destination_id for one in due],
        [one.old for one in due],
        [one.new for one in due],
    )
