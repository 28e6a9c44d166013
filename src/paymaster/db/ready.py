"""Whether the database side can do work: what `/readyz` of every process asks."""

from __future__ import annotations

from paymaster.db import partitions
from paymaster.db.cells import Databases
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import PaymasterError


async def faults(dbs: Databases) -> list[str]:
    """What stands in the way; empty when ready.

    Every server answers, and every cell has partitions for at least a month ahead.
    """
    found: list[str] = []
    try:
        for cell in dbs.cells():
            names = await dbs.cell(cell.number).read(partition_names)
            if partitions.months_ahead(names, dbs.cell(cell.number).clock.now()) < 1:
                found.append(f"cell {cell.number}: no partitions ahead, run `paymaster upgrade`")
    except PaymasterError as error:
        found.append(error.slug)
    return found


async def partition_names(tx: CellRead) -> list[str]:
    """The partitions of the cell."""
    rows = await tx.tuples(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relispartition AND n.nspname = current_schema()"
    )
    return [row[0] for row in rows]
