"""The proof that an order pays nobody and never will: without it no other order is made.

Every order that dies leaves one row behind, in the transaction in which it dies and in the hash
chain. A further order for the same withdrawal carries the number of the one before it, and the
database takes it only where that one's proof is: what this module or any other forgets to look at
is refused there.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from paymaster.db.tx import CellRead, CellTx
from paymaster.rails.base import Outcome

NEVER, ABSENT, BORNE_OUT = "send:never", "query:absent", "query:no-and-absent"
"""Evidence of a call that sent nothing; of a provider that does not know the payment; and of one
that does not know it after it had said no to it."""

AGAIN = "again-by-hand"
"""The code of an order that a person knows to be dead, and wants to be followed by another."""


class ProofKind(StrEnum):
    """How it is known that an order pays nobody."""

    NEVER_SENT = "never_sent"
    """Nothing left this machine, or it was turned away unread; it is not sent any more."""
    REFUSED = "refused"
    """The provider's definite no, in its answer to the order or to a question."""
    NOT_FOUND = "not_found"
    """The provider does not know it, asked later than its stated lag; it is not sent any more."""
    BY_HAND = "by_hand"
    """A person found out."""
    REPORT = "report"
    """The provider's no in a message, a report or a statement."""


class Proof(NamedTuple):
    """A proof to write. `evidence` says where it comes from, `code` is the provider's own."""

    attempt_id: int
    kind: ProofKind
    code: str | None
    evidence: str


def of(attempt_id: int, outcome: Outcome, evidence: str) -> Proof:
    """The proof that an answer is which says that an order is dead."""
    named = ", ".join(part for part in (evidence, outcome.provider_id) if part)
    return Proof(attempt_id, kind_of(evidence), outcome.code, named)


def kind_of(evidence: str) -> ProofKind:
    """What a piece of evidence proves of a rejected order."""
    if evidence == NEVER:
        return ProofKind.NEVER_SENT
    if evidence == ABSENT:
        return ProofKind.NOT_FOUND
    source = evidence.partition(":")[0]
    if source in {"send", "query", "cancel"}:
        return ProofKind.REFUSED
    return ProofKind.BY_HAND if source == "person" else ProofKind.REPORT


async def write(tx: CellTx, proofs: Sequence[Proof]) -> None:
    """Keep proofs of orders that are rejected now; one that has its proof keeps it.

    The order is read again here: of one that is not dead no proof is written.
    """
    if not proofs:
        return
    first = tx.append(len(proofs))
    await tx.execute(
        """
        INSERT INTO attempt_proof (attempt_id, withdrawal_id, number, rail_account_id, kind, code,
            evidence, proven_at, commit_id, ordinal)
        SELECT a.id, a.withdrawal_id, a.number, a.rail_account_id, n.kind, n.code, n.evidence,
            %(now)s, %(commit)s, n.ordinal
        FROM unnest(%(ids)s::bigint[], %(kinds)s::text[], %(codes)s::text[],
            %(evidence)s::text[], %(ordinals)s::int[]) AS n (id, kind, code, evidence, ordinal)
            JOIN attempt a ON a.id = n.id AND a.state = 'rejected'
        ON CONFLICT (attempt_id) DO NOTHING
        """,
        {
            "now": tx.now,
            "commit": tx.commit_id,
            "ids": [one.attempt_id for one in proofs],
            "kinds": [one.kind.value for one in proofs],
            "codes": [one.code for one in proofs],
            "evidence": [one.evidence for one in proofs],
            "ordinals": list(range(first, first + len(proofs))),
        },
    )


class Earlier(NamedTuple):
    """The orders of a withdrawal so far: how many, at which accounts they died, and the last."""

    number: int
    accounts: frozenset[int]
    proven: bool
    last_kind: str | None
    last_code: str | None


async def earlier(tx: CellRead, withdrawal_ids: Sequence[int]) -> dict[int, Earlier]:
    """What was ordered before, by withdrawal; those without any order are missing."""
    if not withdrawal_ids:
        return {}
    rows = await tx.tuples(
        """
        SELECT a.withdrawal_id, max(a.number), array_agg(DISTINCT a.rail_account_id),
            bool_and(p.attempt_id IS NOT NULL),
            (array_agg(p.kind ORDER BY a.number DESC))[1],
            (array_agg(p.code ORDER BY a.number DESC))[1]
        FROM attempt a LEFT JOIN attempt_proof p ON p.attempt_id = a.id
        WHERE a.withdrawal_id = ANY(%s) GROUP BY a.withdrawal_id
        """,
        (list(withdrawal_ids),),
    )
    return {row[0]: Earlier(row[1], frozenset(row[2]), row[3], row[4], row[5]) for row in rows}


async def write_late(tx: CellTx, withdrawal_ids: Sequence[int]) -> None:
    """Keep the proofs of orders that died before proofs were kept: their state says so alone.

    Only of orders that are older than the table; a younger one without its proof is a fault.
    """
    rows = await tx.tuples(
        """
        SELECT a.id, a.code FROM attempt a
        WHERE a.withdrawal_id = ANY(%s) AND a.state = 'rejected'
            AND a.created_at < (SELECT applied_at FROM schema_version WHERE version = 33)
            AND NOT EXISTS (SELECT FROM attempt_proof p WHERE p.attempt_id = a.id)
        ORDER BY a.id
        """,
        (list(withdrawal_ids),),
    )
    await write(tx, [Proof(row[0], ProofKind.REFUSED, row[1], "state") for row in rows])
