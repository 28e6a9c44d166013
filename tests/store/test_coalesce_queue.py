"""What waiting callers cost: those that left take no room, and batch writers are nobody's fault."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from tests.world import ACTOR, PostgresServer, make_world

from paymaster.db import lease
from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Busy


async def test_waiting_for_batch_writers_is_no_commands_fault(postgres: PostgresServer) -> None:
    """Both permits are taken for longer than a merged transaction waits for any other lock."""
    taken, ended = asyncio.Barrier(3), asyncio.Event()

    async def write(tx: CellTx) -> None:
        await lease.permit(tx)
        await taken.wait()
        await ended.wait()

    runs: list[int] = []

    async def use_case(tx: CellTx, commands: Sequence[int]) -> list[int]:
        runs.append(len(commands))
        return list(commands)

    async with make_world(postgres, moves=[]) as world:
        writers = [asyncio.create_task(world.run(write)) for _ in range(2)]
        await taken.wait()
        merged = Coalescer(in_cell(world.cell, ACTOR, use_case), batch_limit=100, queue_limit=100)
        calls = [asyncio.create_task(merged.submit(number)) for number in range(40)]
        await asyncio.sleep(2.5)
        ended.set()
        assert await asyncio.gather(*calls) == list(range(40))
        assert max(runs) >= 39, "the batch was not halved"
        await asyncio.gather(*writers)


async def test_callers_that_left_take_no_room_in_the_queue() -> None:
    batches: list[list[int]] = []
    free = asyncio.Event()

    async def run(commands: Sequence[int]) -> list[int]:
        batches.append(list(commands))
        await free.wait()
        return [10 * command for command in commands]

    merged = Coalescer(run, batch_limit=10, queue_limit=5)
    first = asyncio.create_task(merged.submit(0))
    await asyncio.sleep(0.01)
    leaving = [asyncio.create_task(merged.submit(number)) for number in range(1, 6)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="queue-full"):
        await merged.submit(6)
    for call in leaving:
        call.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert merged.waiting == 0
    staying = asyncio.create_task(merged.submit(7))
    await asyncio.sleep(0)
    free.set()
    assert (await first, await staying) == (0, 70)
    assert merged.waiting == 0
    assert batches == [[0], [7]]
