"""The clock of a test environment."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.models import Body, Moment, Reason, Reply
from paymaster.api.shapes import Shape, Time
from paymaster.db import environment_clock
from paymaster.kernel.clock import parse_rfc3339, rfc3339

router = APIRouter(route_class=Door, tags=["test mode"])


class PutClock(Body):
    """Where the clock is put; what lies in the past changes nothing."""

    to: Moment
    reason: Reason = "a test"


class ClockOut(Shape):
    """The time in this environment, and how far it is ahead of the machine's."""

    now: Time
    ahead_seconds: int


@router.get("/v1/test-clock", response_model=ClockOut)
async def get_test_clock(call: Reads) -> Reply:
    """What time it is here. In a live environment it is the machine's time."""
    if call.environment.mode != "test":
        return Reply({"now": rfc3339(call.clock.now()), "ahead_seconds": 0})
    return Reply(_shown(call, await call.treasury.read(environment_clock.ahead)))


@router.put("/v1/test-clock", response_model=ClockOut)
async def put_test_clock(call: Operates, body: PutClock) -> Reply:
    """Put the clock forward: what falls due until then is due at once. Safe to repeat."""
    ahead = await environment_clock.forward(
        call.deps.dbs,
        call.environment.id,
        call.actor,
        call.trace_id,
        parse_rfc3339(body.to),
        body.reason,
    )
    return Reply(_shown(call, ahead))


def _shown(call: Call, ahead: int) -> dict[str, Any]:
    return {"now": rfc3339(call.clock.now()), "ahead_seconds": ahead}
