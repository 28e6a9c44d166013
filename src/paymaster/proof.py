"""The proof of everything, cell by cell: the books and each package's own projections.

A proof that is kept (`prove_kept`) remembers how far the postings were found sound, so that the
next one reads only what came later. All else is read anew each time: every account's row, hold,
reward, withdrawal and statement line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from paymaster.db.cells import Cell, Databases
from paymaster.db.pool import CellDb
from paymaster.db.snapshots import OneSnapshot, Pieces, Snapshots
from paymaster.db.tx import Actor, CellRead
from paymaster.earn import proof as earn_proof
from paymaster.ledger import proof_store
from paymaster.ledger.proof import Difference, Told, prove_books, silent
from paymaster.ledger.proof_store import Checkpoint
from paymaster.payin import proof as payin_proof
from paymaster.reconcile import proof as reconcile_proof
from paymaster.withdraw import proof as withdraw_proof

PROOFS: tuple[Callable[[Snapshots, Told], Awaitable[list[Difference]]], ...] = (
    earn_proof.prove_in,
    withdraw_proof.prove_in,
    payin_proof.prove_in,
    reconcile_proof.prove_in,
)
"""What is proven in every cell beside the books."""


@dataclass(frozen=True, slots=True)
class CellProof:
    """What was proven of one cell: its order of commits up to `as_of_seq`.

    The postings behind `since_seq` were read; up to there an earlier proof had read them (0: this
    one read all). `at_seq` is the sum for a later one to go on from.
    """

    cell: int
    as_of_seq: int
    differences: Sequence[Difference]
    since_seq: int = 0
    postings: int = 0
    accounts: int = 0
    at_seq: int = 0

    def wire(self) -> dict[str, object]:
        """For JSON."""
        return {
            "cell": self.cell,
            "as_of_seq": self.as_of_seq,
            "since_seq": self.since_seq,
            "postings": self.postings,
            "accounts": self.accounts,
            "differences": [
                {"check": d.check, "subject": d.subject, "stored": d.stored, "derived": d.derived}
                for d in self.differences
            ],
        }


async def prove_in(
    snapshots: Snapshots, told: Told = silent, since: Checkpoint | None = None
) -> CellProof:
    """Every proof of one cell."""
    books = await prove_books(snapshots, told, since)
    differences = list(books.differences)
    for proof in PROOFS:
        differences += await proof(snapshots, told)
    return CellProof(
        snapshots.cell,
        books.seq,
        differences,
        books.since,
        books.postings,
        books.accounts,
        books.at_seq,
    )


async def prove_cell(tx: CellRead) -> CellProof:
    """Every proof on the snapshot of `tx`."""
    return await prove_in(OneSnapshot(tx))


async def prove_kept(
    db: CellDb, actor: Actor, trace_id: str, *, full: bool = False, told: Told = silent
) -> CellProof:
    """Every proof of one cell, going on from the last one unless `full`.

    Remembers how far it came when nothing was found.
    """
    since = None if full else await db.read(proof_store.last)
    proof = await prove_in(Pieces(db), told, since)
    if not proof.differences and proof.as_of_seq > proof.since_seq:
        await db.run(
            actor,
            trace_id,
            lambda tx: proof_store.add(tx, proof.as_of_seq, proof.at_seq, proof.postings),
        )
    return proof


async def prove_cells(dbs: Databases, cells: Sequence[Cell]) -> list[CellProof]:
    """Every proof of every cell from the beginning, one after the other, in short snapshots."""
    return [await prove_in(Pieces(dbs.cell(cell.number))) for cell in cells]
