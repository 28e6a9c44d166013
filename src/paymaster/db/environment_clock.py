"""The clock of a test environment: put forward, never back, in all of its cells.

Every transaction in a cell of a test environment learns how far its clock is ahead, so that work
which falls due in a week is due as soon as the clock says so, in every process. Tokens, sessions,
lock-outs and messages out go by the machine's clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from paymaster.db import audit, partitions
from paymaster.db.cells import Databases
from paymaster.db.ready import partition_names
from paymaster.db.tx import Actor, CellRead, CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Forbidden, Unprocessable


async def ahead(tx: CellRead) -> int:
    """How many seconds a cell's clock is ahead of the machine's."""
    return await tx.value("SELECT ahead_seconds FROM test_clock")


async def forward(
    dbs: Databases, environment_id: int, actor: Actor, trace_id: str, to: datetime, reason: str
) -> int:
    """Put the clock of an environment forward to a moment; how many seconds it is ahead then.

    What lies in the past changes nothing. Cells follow one after the other: if this is cut off,
    the same call again completes it. Raises Forbidden `test-mode-only`, Unprocessable
    `clock-too-far` when a cell has no partitions for the month after.
    """
    if dbs.environment(environment_id).mode != "test":
        raise Forbidden("test-mode-only", "Only the clock of a test environment can be set.")
    cells = [dbs.cell(cell.number) for cell in dbs.cells(environment_id)]
    # Of all cells the same distance, counted once: each has read its own time a little later.
    wanted = (to - dbs.clock.now()) // timedelta(seconds=1) + 1
    for cell in cells:
        if wanted <= await cell.read(ahead):
            continue
        if partitions.months_ahead(await cell.read(partition_names), to) < 1:
            raise Unprocessable(
                "clock-too-far",
                f"Cell {cell.number} has no partitions so far ahead: `paymaster clock forward`"
                " makes them.",
            )

    async def work(tx: CellTx) -> None:
        before = await ahead(tx)
        if wanted > before:
            await tx.execute("UPDATE test_clock SET ahead_seconds = %s", (wanted,))
            detail = {"from_seconds": before, "to_seconds": wanted, "to": rfc3339(to)}
            await audit.record(
                tx, [audit.Act("test_clock.forward", "test-clock", reason, detail=detail)]
            )

    for cell in cells:
        await cell.run(actor, trace_id, work)
    # Reading it is how this process learns, too.
    return max([await cell.read(ahead) for cell in cells])
