"""What a lane says of a step that failed, and that it goes on."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from paymaster.kernel.errors import LEASE_LOST, Broken, Busy, Conflict, PaymasterError
from paymaster.roles import lanes
from paymaster.roles.lanes import Lane


@pytest.mark.parametrize(
    ("error", "event", "level"),
    [
        (Conflict(LEASE_LOST, "It went to another process."), "lane_refused", "warning"),
        (Conflict("hold-lifted", "It was lifted."), "lane_refused", "error"),
        (Busy("database-slow", "Later."), "lane_busy", "warning"),
        (Broken("chain-gap", "A block is missing."), "lane_broken", "error"),
        (ValueError("x"), "lane_failed", "error"),
    ],
)
async def test_work_that_went_to_another_process_is_no_fault(
    error: Exception, event: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, calls = asyncio.Event(), list[int]()
    pauses: list[float] = []

    async def step() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise error
        stop.set()
        return 0

    async def wait(_: asyncio.Event, seconds: float) -> bool:
        pauses.append(seconds)
        return False

    monkeypatch.setattr(lanes, "stopped_within", wait)
    lane = Lane("seal", step, 1.0)
    with capture_logs() as said:
        await lane.run(stop)
    [line] = said
    assert (line["event"], line["log_level"]) == (event, level)
    assert bool(line.get("exc_info")) == (level == "error"), "a traceback is for faults"
    if isinstance(error, PaymasterError):
        assert line["slug"] == error.slug
    assert (len(calls), lane.failures) == (2, 0)
    assert len(pauses) == 2
    assert 0 < pauses[0] < 1 < pauses[1] + 0.1, "it pauses after the fault, then as ever"
