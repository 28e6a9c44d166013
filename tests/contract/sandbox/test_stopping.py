"""A world stops when it is told, whatever happens at that moment."""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path

import pytest

from paymaster_sandbox import World, WorldConfig
from paymaster_sandbox.chassis.clock import SECOND

HOUR = 3600 * SECOND


@pytest.mark.parametrize("turns", range(4))
async def test_a_loop_that_is_woken_as_it_is_stopped_does_stop(tmp_path: Path, turns: int) -> None:
    """A wait that ends in the moment of being cancelled must not forget that it was cancelled."""
    world = World(
        WorldConfig(
            data=tmp_path / "world", date=date(2026, 1, 5), http_port=None, sftp_port=None,
            wechat_port=None, wechat_tls_port=None, alipay_port=None,
        )
    )  # fmt: skip
    with world.chassis.tx() as tx:
        world._webhooks.courier.queue(tx, "later", "EUR", b"{}", after=(HOUR,))
        world._schedule.put(tx, "payout.settle", "later", HOUR)
    async with world:
        for _ in range(20):
            await asyncio.sleep(0)
        world._schedule.wake()
        world._webhooks.courier.wake()
        world._intake.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        stopping = asyncio.create_task(world.__aexit__(None, None, None))
        done, _ = await asyncio.wait({stopping}, timeout=5)
        assert done, "a loop still waits"
        world._tasks.clear()
        world._stop = _nothing


async def _nothing() -> None:
    """It is stopped already."""
