"""The relay: carries commands from cell to cell, in the order in which they were committed.

One relay works for a source cell at a time (a fenced lease). A command is carried out in its target
cell inside `inbox.once`, so it takes effect exactly once however often it is delivered; only then
does the cursor of the source cell move on. Messages without a target are events for subscribers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Any

from paymaster.db import inbox, lease, outbox
from paymaster.db.cells import Databases
from paymaster.db.outbox import Outgoing
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.earn.commands import HANDLERS as EARN
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.reconcile.commands import HANDLERS as RECONCILE

Handler = Callable[[CellTx, int, Outgoing], Awaitable[Mapping[str, Any]]]
HANDLERS: dict[str, Handler] = {**EARN, **RECONCILE}
"""What each command does in its target cell."""

ACTOR = Actor("role:relay")
NAME = "relay"
COMMITS, TOGETHER = 500, 100


class Relay:
    """Carries the commands of one source cell; one object a process and cell."""

    def __init__(self, dbs: Databases, source: CellDb, lease_length: timedelta) -> None:
        self._dbs = dbs
        self._source = source
        self._length = lease_length
        self._held: lease.Lease | None = None

    async def step(self) -> int:
        """Carry what was committed since; how many messages were passed.

        Raises Broken `command-unknown`, Conflict `lease-lost` when another process took over.
        """
        if not (await self._waiting())[1]:
            return 0
        if not await self._lead():
            return 0
        reached, messages = await self._waiting()
        commands = [message for message in messages if message.target_cell is not None]
        for target, group in _runs(commands):
            await self._deliver(self._dbs.cell(target), group)
        held = self._held
        if reached and held is not None:

            async def advance(tx: CellTx) -> None:
                await lease.still_held(tx, held)
                await outbox.advance(tx, NAME, reached)

            await self._source.run(ACTOR, new_trace_id(), advance)
        return len(messages)

    async def give_up(self) -> None:
        """Let a successor begin at once."""
        held = self._held
        if held is not None:
            await self._source.run(ACTOR, new_trace_id(), lambda tx: lease.release(tx, held))

    async def _waiting(self) -> tuple[int, list[Outgoing]]:
        async def work(tx: CellRead) -> tuple[int, list[Outgoing]]:
            return await outbox.after(tx, await outbox.position(tx, NAME), COMMITS)

        return await self._source.read(work)

    async def _lead(self) -> bool:
        held = self._held
        self._held = await self._source.run(
            ACTOR, new_trace_id(), lambda tx: lease.acquire(tx, NAME, self._length, held)
        )
        return self._held is not None

    async def _deliver(self, target: CellDb, group: Sequence[Outgoing]) -> None:
        """One transaction for a run of commands of one trace."""

        async def work(tx: CellTx) -> None:
            for message in group:
                await carry_out(tx, self._source.number, message)

        await target.run(ACTOR, group[0].trace_id, work)


def _runs(commands: Sequence[Outgoing]) -> Iterator[tuple[int, list[Outgoing]]]:
    """Neighbours with the same target and trace, at most `TOGETHER` at once; order is kept."""
    for (target, _), run in groupby(commands, key=lambda m: (m.target_cell or 0, m.trace_id)):
        group = list(run)
        for start in range(0, len(group), TOGETHER):
            yield target, group[start : start + TOGETHER]


async def carry_out(tx: CellTx, source_cell: int, message: Outgoing) -> None:
    """Do what a command says, once. Raises Broken `command-unknown`."""
    handler = HANDLERS.get(message.topic)
    if handler is None:
        raise Broken("command-unknown", f"Nobody handles {message.topic!r}.")
    source, message_id = f"cell:{source_cell}", str(message.message_id)
    incoming = inbox.Incoming(
        source, message_id, message.topic, message.payload, None, message.trace_id
    )
    if await inbox.once(tx, incoming) is None:
        result = await handler(tx, source_cell, message)
        await inbox.done(tx, source, message_id, result)
