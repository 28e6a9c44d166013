"""Messages of providers are put where they belong: into the inbox of the cell of their reference.

The references in them are ours and carry their cell, so a message finds its cell without a look-up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from paymaster.db import inbox
from paymaster.db.cells import Databases
from paymaster.db.inbox import Incoming
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.ids import parse_reference
from paymaster.settle import unmatched

Keep = Callable[[int, Sequence[Incoming]], Awaitable[int]]
"""Keeps messages in the inbox of a cell, durably; how many were new."""


@dataclass(frozen=True, slots=True)
class Put:
    """How many messages were new: those of our references, and those `foreign` to us."""

    new: int
    foreign: int


async def put(
    dbs: Databases,
    environment_id: int,
    actor: Actor,
    messages: Iterable[tuple[str, Incoming]],
    trace_id: str,
    keep: Keep | None = None,
) -> Put:
    """Keep messages, each beside the reference that it is about.

    `keep` stores the messages of a cell; without it each cell has a transaction of its own. What is
    authentic, but about nothing of ours, is kept in the treasury cell for people to see.
    """
    found = [(parse_reference(about), message) for about, message in messages]
    cells = await _cells(dbs, environment_id, {ref.cell for ref, _ in found if ref is not None})
    by_cell: dict[int, list[Incoming]] = {}
    foreign: list[Incoming] = []
    for ref, message in found:
        if ref is not None and ref.cell in cells:
            by_cell.setdefault(ref.cell, []).append(message)
        else:
            foreign.append(replace(message, topic=message.topic + unmatched.SUFFIX))

    async def into(cell: int, group: Sequence[Incoming]) -> int:
        return await dbs.cell(cell).run(actor, trace_id, lambda tx: inbox.receive(tx, group))

    async def aside(tx: CellTx) -> int:
        return await unmatched.keep(tx, foreign, "notice-unmatched", "We have no such reference.")

    new = 0
    for cell, group in sorted(by_cell.items()):
        new += await (keep or into)(cell, group)
    strange = 0
    if foreign:
        strange = await dbs.treasury(environment_id).run(actor, trace_id, aside)
    return Put(new, strange)


async def _cells(dbs: Databases, environment_id: int, wanted: AbstractSet[int]) -> AbstractSet[int]:
    """The cells of an environment; also those that were added since this process began."""
    known = {cell.number for cell in dbs.cells(environment_id)}
    if wanted <= known:
        return known
    await dbs.learn()
    return {cell.number for cell in dbs.cells(environment_id)}
