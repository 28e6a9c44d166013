"""The environment's clock and the sandbox's, put forward together.

The sandbox plays days that are over, so that Paymaster, which asks for bills by the machine's
clock, can fetch those of its days. The environment's clock cannot go back; so the sandbox stays a
fixed time behind it, and both go forward by the same amount.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import Final

from paymaster.cli.demo.scene import Story
from paymaster.kernel.clock import parse_rfc3339, rfc3339

BEIJING: Final = timezone(timedelta(hours=8))
ZONE: Final = "Asia/Shanghai"


def beijing(day: date, hour: int, minute: int = 0) -> datetime:
    """A moment of a day at the providers."""
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=BEIJING)


async def sandbox_to(story: Story, moment: datetime) -> None:
    """Put the sandbox's clock alone forward; a moment that has passed there changes nothing."""
    if await _sandbox_now(story) < moment:
        await story.sandbox.post("/_control/clock", {"set": rfc3339(moment)})


async def begin(story: Story, moment: datetime) -> None:
    """Let the sandbox be at a moment, and remember how far it is behind from now on."""
    if story.state.behind_seconds is not None:
        return
    await sandbox_to(story, moment)
    environment = parse_rfc3339((await story.operator.get("/v1/test-clock"))["now"])
    behind = environment - await _sandbox_now(story)
    story.state.behind_seconds = behind // timedelta(seconds=1)
    story.save(story.state)


async def forward(story: Story, moment: datetime) -> None:
    """Let it be a moment of the sandbox's days, for both. Safe to repeat; never back."""
    assert story.state.behind_seconds is not None, "begin() comes first"
    there = moment + timedelta(seconds=story.state.behind_seconds)
    await sandbox_to(story, moment)
    await story.operator.put("/v1/test-clock", {"to": rfc3339(there), "reason": "hours pass"})


async def _sandbox_now(story: Story) -> datetime:
    return parse_rfc3339((await story.sandbox.get("/_control/clock"))["now"])
