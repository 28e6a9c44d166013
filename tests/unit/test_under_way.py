"""What a loop has set going: waited for, broken off, and its faults said once."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from paymaster.dispatch.under_way import UnderWay, guarded
from paymaster.kernel.errors import LEASE_LOST, Busy, Conflict


async def test_draining_waits_for_what_was_begun_meanwhile() -> None:
    tasks, done = UnderWay("step_failed"), list[str]()

    async def second() -> None:
        done.append("second")

    async def first() -> None:
        tasks.start(second())
        done.append("first")

    tasks.start(first())
    assert tasks
    await tasks.drain()
    assert done == ["first", "second"]
    assert not tasks


async def test_what_is_broken_off_is_no_fault() -> None:
    tasks, ended = UnderWay("step_failed"), list[bool]()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    tasks.start(waits())
    await asyncio.sleep(0)
    with capture_logs() as said:
        await tasks.stop()
    assert (ended, said, bool(tasks)) == ([True], [], False)


async def test_a_fault_is_said_once_and_stops_nothing_else() -> None:
    tasks, done = UnderWay("step_failed"), list[bool]()

    async def breaks() -> None:
        raise ValueError("x")

    async def works() -> None:
        done.append(True)

    with capture_logs() as said:
        tasks.start(breaks())
        tasks.start(works())
        await tasks.drain()
    assert done == [True]
    assert [(line["event"], line["error"]) for line in said] == [("step_failed", "ValueError")]


@pytest.mark.parametrize(
    ("error", "level"),
    [(Conflict(LEASE_LOST, "It went to another."), "warning"), (ValueError("x"), "error")],
)
async def test_a_fault_of_one_account_counts_as_nothing_done(error: Exception, level: str) -> None:
    async def broken(_account: int) -> int:
        raise error

    with capture_logs() as said:
        assert await guarded("step_failed", broken, 1) == 0
    assert [(line["event"], line["log_level"]) for line in said] == [("step_failed", level)]


async def test_work_that_is_done_is_counted_and_a_silent_database_stops_all() -> None:
    async def works(many: int) -> int:
        return many

    async def silent() -> int:
        raise Busy("database-slow", "Later.")

    assert await guarded("step_failed", works, 3) == 3
    with pytest.raises(Busy):
        await guarded("step_failed", silent)
