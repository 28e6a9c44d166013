"""The proof of everything, cell by cell: the books and each package's own projections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from paymaster.db.cells import Cell, Databases
from paymaster.db.tx import CellRead
from paymaster.earn import proof as earn_proof
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger.proof import Difference
from paymaster.reconcile import proof as reconcile_proof
from paymaster.withdraw import proof as withdraw_proof

PROOFS: tuple[Callable[[CellRead], Awaitable[list[Difference]]], ...] = (
    ledger_proof.prove,
    earn_proof.prove,
    withdraw_proof.prove,
    reconcile_proof.prove,
)
"""What is proven in every cell."""


@dataclass(frozen=True, slots=True)
class CellProof:
    """What was proven of one cell, up to which place in its order of commits."""

    cell: int
    as_of_seq: int
    differences: Sequence[Difference]

    def wire(self) -> dict[str, object]:
        """For JSON."""
        return {
            "cell": self.cell,
            "as_of_seq": self.as_of_seq,
            "differences": [
                {"check": d.check, "subject": d.subject, "stored": d.stored, "derived": d.derived}
                for d in self.differences
            ],
        }


async def prove_cell(tx: CellRead) -> CellProof:
    """Every proof on the snapshot of `tx`."""
    seq = int(await tx.value("SELECT seq FROM head WHERE id = 1") or 0)
    differences = [d for proof in PROOFS for d in await proof(tx)]
    return CellProof(tx.cell, seq, differences)


async def prove_cells(dbs: Databases, cells: Sequence[Cell]) -> list[CellProof]:
    """Every proof of every cell, one after the other."""
    return [await dbs.cell(cell.number).read(prove_cell) for cell in cells]
