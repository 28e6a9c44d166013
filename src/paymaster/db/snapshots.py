"""Looking at a whole cell without holding on to one old snapshot.

A long snapshot keeps PostgreSQL from pruning the rows that every posting updates. So whoever reads
everything reads it in pieces, each on a snapshot of its own (`Pieces`), or, in a test or a small
cell, all on one (`OneSnapshot`): the reader's code is the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import LiteralString, Protocol, TypeVar

from paymaster.db.pool import CellDb
from paymaster.db.tx import CellRead

T = TypeVar("T")

WORK_MEMORY = "16MB"
"""What one sort or hash of the server may take before it goes to disk."""

_SETTINGS: LiteralString = """
    SELECT set_config('work_mem', %s, true), set_config('jit', 'off', true),
        set_config('max_parallel_workers_per_gather', '0', true),
        set_config('plan_cache_mode', 'force_custom_plan', true)
"""


class Snapshots(Protocol):
    """Gives snapshots of one cell, each at least as new as the one before."""

    @property
    def cell(self) -> int:
        """The cell's number."""
        ...

    async def read(self, work: Callable[[CellRead], Awaitable[T]]) -> T:
        """Run `work` on a snapshot."""
        ...


class Pieces:
    """A new snapshot for each piece of work."""

    def __init__(self, db: CellDb) -> None:
        self._db = db

    @property
    def cell(self) -> int:
        """The cell's number."""
        return self._db.number

    async def read(self, work: Callable[[CellRead], Awaitable[T]]) -> T:
        """Run `work` on a new snapshot, with bounded memory and no helpers on the server."""

        async def bounded(tx: CellRead) -> T:
            await tx.tuples(_SETTINGS, (WORK_MEMORY,))
            return await work(tx)

        return await self._db.read(bounded)


class OneSnapshot:
    """The same snapshot for everything: that of the transaction."""

    def __init__(self, tx: CellRead) -> None:
        self._tx = tx

    @property
    def cell(self) -> int:
        """The cell's number."""
        return self._tx.cell

    async def read(self, work: Callable[[CellRead], Awaitable[T]]) -> T:
        """Run `work` on the snapshot."""
        return await work(self._tx)
