"""Simulated processes: each runs the lanes of one role, dies, and is started again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from paymaster.compose import Deps
from paymaster.kernel.errors import Broken, PaymasterError
from paymaster.roles import work
from paymaster.roles.lanes import Lane
from paymaster.roles.work import Work
from paymaster_sim.checks import Violation
from paymaster_sim.ground import Ground, Process
from paymaster_sim.runtime import ProcessDied

T = TypeVar("T")
PATIENCE_SECONDS = 5.0
"""So long the world waits for a step before it goes on without it."""

Build = Callable[[Process], Deps]


class Role:
    """A process that may end at any moment; `up` starts it anew when it has."""

    def __init__(self, ground: Ground, name: str, kind: str | None, build: Build) -> None:
        self.name = name
        self.refused: Counter[str] = Counter()
        self.lives = 0
        self._ground, self._kind, self._build = ground, kind, build
        self._process: Process | None = None
        self._deps: Deps | None = None
        self._work: Work | None = None
        self._ahead = timedelta(0)
        self._busy: asyncio.Future[None] | None = None
        self._starting = asyncio.Lock()

    def skew(self, ahead: timedelta) -> None:
        """Its clock is so far ahead of the true time from now on, in all its lives."""
        self._ahead = ahead
        if self._process is not None:
            self._process.skew = ahead

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.alive

    @property
    def busy(self) -> bool:
        """Whether its last step is still under way."""
        return self._busy is not None and not self._busy.done()

    @property
    def deps(self) -> Deps:
        """What it works with."""
        if self._deps is None:
            raise AssertionError(f"{self.name} was never started")
        return self._deps

    async def up(self) -> None:
        """Start it, unless it runs. Raises ProcessDied when it does not live to the end of that."""
        async with self._starting:
            if self.alive:
                return
            self._process = process = self._ground.process(self.name)
            process.skew = self._ahead
            self.lives += 1
            self._deps = deps = self._build(process)
            await process.call(deps.dbs.open())
            if self._kind is not None:
                self._work = work.ROLES[self._kind](deps)

    async def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in it. Raises ProcessDied."""
        if self._process is None:
            raise AssertionError(f"{self.name} was never started")
        return await self._process.call(coroutine)

    async def lanes(self, names: Sequence[str]) -> None:
        """Let each of these lanes do one step; a process that dies is started at the next call.

        Returns after some seconds even when a step still waits for something; while it does, the
        process is busy and takes no other. Raises Violation, also of an earlier step.
        """
        self.collect()
        if self._busy is not None:
            return
        self._busy = asyncio.ensure_future(self._stepped(names))
        await asyncio.wait([self._busy], timeout=PATIENCE_SECONDS)
        self.collect()

    def collect(self) -> None:
        """Look what became of the last step. Raises Violation."""
        if self._busy is not None and self._busy.done():
            done, self._busy = self._busy, None
            done.result()

    async def idle(self) -> None:
        """Wait until nothing is under way. Raises Violation."""
        if self._busy is not None:
            await asyncio.wait([self._busy])
        self.collect()

    async def _stepped(self, names: Sequence[str]) -> None:
        try:
            await self.up()
            await self.call(self._run(names))
        except ProcessDied:
            return

    async def _run(self, names: Sequence[str]) -> None:
        made = self._work
        if made is None:
            raise AssertionError(f"{self.name} has no lanes")
        for lane in made.lanes:
            if lane.name in names:
                await self._lane(lane)
        if self._kind == "dispatch":
            for ending in made.endings:
                await ending()

    async def _lane(self, lane: Lane) -> None:
        """One step; who finds more to do is woken again."""
        try:
            await lane.step()
        except Broken as error:
            raise Violation(f"broken:{error.slug}", f"{lane.name}: {error.detail}") from error
        except PaymasterError as error:
            # As a real lane: said, and tried again after a pause.
            self.refused[error.slug] += 1


async def told(work: Awaitable[T], refused: Counter[str]) -> T | None:
    """The result, or None when it was refused; the refusal is counted."""
    try:
        return await work
    except PaymasterError as error:
        if isinstance(error, Broken):
            raise Violation(f"broken:{error.slug}", error.detail) from error
        refused[error.slug] += 1
        return None
