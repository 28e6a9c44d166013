"""Lanes: the loops of the background roles.

A lane calls its step again and again: at once while there was something to do, after a pause when
there was not, after a growing pause when it failed. A failing lane never stops its neighbours. A
lane whose step found an invariant broken says so on `/readyz` until a step succeeds again.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

from paymaster.kernel.errors import LEASE_LOST, Broken, Busy, PaymasterError
from paymaster.kernel.retry import Backoff
from paymaster.kernel.sources import jitter
from paymaster.observe import get_logger

Step = Callable[[], Awaitable[int]]
_COLLECT_AFTER = 20_000
_BACKOFF = Backoff(first=timedelta(milliseconds=250), most=timedelta(seconds=15))
log = get_logger("paymaster.roles")


@dataclass(slots=True)
class Lane:
    """`step` does one portion of work and says how many items it was; 0 means nothing is due."""

    name: str
    step: Step
    pause_seconds: float
    failures: int = 0
    broken: str | None = field(default=None)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; the step under way is finished."""
        random = jitter()
        while not stop.is_set():
            pause = self.pause_seconds
            try:
                if await self.step() > 0:
                    pause = 0.0
                self.failures, self.broken = 0, None
            except Busy as error:
                log.warning("lane_busy", lane=self.name, slug=error.slug)
                pause = self._failed(random)
            except Broken as error:
                self.broken = error.slug
                log.exception("lane_broken", lane=self.name, slug=error.slug, detail=error.detail)
                pause = self._failed(random)
            except PaymasterError as error:
                if error.slug == LEASE_LOST:
                    # Another process has the work now, as it shall when this one was too slow.
                    log.warning("lane_refused", lane=self.name, slug=error.slug)
                else:
                    log.exception("lane_refused", lane=self.name, slug=error.slug)
                pause = self._failed(random)
            except Exception:  # the lane must outlive any fault of one step
                log.exception("lane_failed", lane=self.name)
                pause = self._failed(random)
            if pause:
                await stopped_within(stop, pause)
            else:
                await asyncio.sleep(0)

    def _failed(self, random: Random) -> float:
        self.failures += 1
        return _BACKOFF.delay(self.failures, random).total_seconds()


def _spare_the_collector() -> None:
    """Look for garbage in cycles less often: a batch makes many objects and no cycles.

    With the interpreter's own threshold of 700 that search took a fifth of a role's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait at most so long; whether `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            return await stop.wait()
    except TimeoutError:
        return False


async def run_lanes(lanes: list[Lane], stop: asyncio.Event) -> None:
    """Run all lanes until `stop`."""
    _spare_the_collector()
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(lane.run(stop), name=lane.name)
