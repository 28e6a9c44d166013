"""Moves against the machines in the code: what may be done, and what was done.

The database compares moves with `legal_move` only where a foreign key is worth its price, and
whoever can write as the owner could extend that table. The proof asks the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, LiteralString

from paymaster.db.snapshots import Snapshots
from paymaster.kernel.machine import Machine
from paymaster.ledger.proof_pages import MOST, Difference, differences

_MACHINES: LiteralString = (
    "unnest(%(machines)s::text[], %(sources)s::text[], %(events)s::text[], %(targets)s::text[])"
    " AS l (machine, source, event, target)"
)
_SAME: LiteralString = (
    "l.machine = m.machine AND l.source = m.source AND l.event = m.event AND l.target = m.target"
)
LEGAL: LiteralString = f"EXISTS (SELECT FROM {_MACHINES} WHERE {_SAME})"
"""Whether row `m` of a table of moves is a move of the machines in `parameters`."""

_TABLE: LiteralString = f"""
    SELECT m.machine || ' ' || m.source, m.event || ' -> ' || m.target, 'no such move'
    FROM legal_move m WHERE NOT {LEGAL}
    UNION ALL
    SELECT l.machine || ' ' || l.source, 'no such move', l.event || ' -> ' || l.target
    FROM {_MACHINES} WHERE NOT EXISTS (SELECT FROM legal_move m WHERE {_SAME})
"""


def parameters(*machines: Machine) -> dict[str, Any]:
    """The moves of `machines`, for statements with `LEGAL`."""
    rows = sorted({row for machine in machines for row in machine.rows()})
    names = ("machines", "sources", "events", "targets")
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


async def prove_legal(snapshots: Snapshots, machines: Sequence[Machine]) -> list[Difference]:
    """The table of legal moves holds the moves of all `machines`, and no other."""
    wanted = parameters(*machines)
    rows = await snapshots.read(lambda tx: tx.tuples(_TABLE, wanted))
    return differences("legal-move", rows[:MOST])
