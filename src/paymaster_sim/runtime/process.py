"""Simulated processes: some tasks, their connections, and what they are given by the machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from paymaster.db.cells import Databases
from paymaster.kernel.clock import Clock
from paymaster_sim.runtime.connection import SimConnection
from paymaster_sim.runtime.errors import ProcessDied
from paymaster_sim.runtime.loop import SimLoop, SimTask
from paymaster_sim.runtime.pool import SimPool

if TYPE_CHECKING:
    from paymaster_sim.runtime.turnstile import Turnstile

T = TypeVar("T")


class SimClock:
    """The simulation's time."""

    def __init__(self, loop: SimLoop, start: datetime) -> None:
        self._loop = loop
        self._start = start

    def now(self) -> datetime:
        """The moment, in UTC."""
        return self._start + timedelta(seconds=self._loop.time())


class _SkewedClock:
    """What a process takes for the time."""

    def __init__(self, process: Process, base: Clock) -> None:
        self._process = process
        self._base = base

    def now(self) -> datetime:
        return self._base.now() + self._process.skew


class _Seeded:
    """What a process is given by the simulation in the place of its machine."""

    def __init__(self, title: str, loop: SimLoop, random: Random) -> None:
        self._title = title
        self._loop = loop
        self._random = random

    def monotonic_seconds(self) -> float:
        return self._loop.time()

    def trace_id(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def jitter(self) -> Random:
        return Random(self._random.getrandbits(64))  # noqa: S311 - a seed's randomness

    def process_name(self) -> str:
        return self._title


class Process:
    """A process of the simulation; `died` is set when it is dead.

    `name` is its role, `title` is different for each that had the role. `skew` is how far its
    clock is ahead, or behind. `failures` are those of tasks that `start` has started.
    """

    def __init__(
        self,
        name: str,
        number: int,
        turnstile: Turnstile,
        loop: SimLoop,
        base: Clock,
        random: Random,
        *,
        mortal: bool = True,
    ) -> None:
        self.name = name
        self.title = f"{name}/{number}"
        self.turnstile = turnstile
        self.mortal = mortal
        self.alive = True
        self.died = asyncio.Event()
        self.skew = timedelta(0)
        self.clock: Clock = _SkewedClock(self, base)
        self.sources = _Seeded(self.title, loop, random)
        self.connections: dict[SimConnection, None] = {}
        self.stalled_until = 0.0
        self.failures: list[BaseException] = []
        self._loop = loop
        self._tasks: dict[SimTask, None] = {}
        self._callers: dict[asyncio.Future[Any], None] = {}

    @property
    def goes_on(self) -> bool:
        """Whether it lives, and does not stand still."""
        return self.alive and not self.turnstile.over and self.stalled_until <= self._loop.time()

    def databases(self, servers: Mapping[str, str], *, connections: int = 4) -> Databases:
        """Its way to the databases. To be opened in the process: `await p.call(dbs.open())`."""
        return Databases(servers, self.clock, connections=connections, make_pool=self.pool)

    def pool(self, dsn: str, connections: int, parameters: Mapping[str, Any]) -> SimPool:
        """A pool of its connections; see `paymaster.db.connections.MakePool`."""
        return SimPool(self, dsn, connections, parameters)

    def start(self, work: Coroutine[Any, Any, T], name: str | None = None) -> asyncio.Task[T]:
        """Run this in the process. Raises ProcessDied when it is dead."""
        task = self._start(work, name)
        task.add_done_callback(self._ended)
        return task

    async def call(self, work: Coroutine[Any, Any, T], name: str | None = None) -> T:
        """Run this in the process and wait for it. Raises ProcessDied when that dies before."""
        answer: asyncio.Future[T] = self._loop.create_future()
        task = self._start(work, name)
        self._callers[answer] = None
        task.add_done_callback(lambda done: _hand_on(done, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            self._callers.pop(answer, None)

    def crash(self) -> None:
        """Die now, as by kill -9. Nothing happens when it is dead."""
        self.turnstile.kill(self)

    def adopt(self, task: SimTask) -> None:
        """A task of this process has been made."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def left(self) -> list[SimTask]:
        """Its tasks that are not done."""
        return [task for task in self._tasks if not task.done()]

    def end(self) -> None:
        """Cancel everything, and tell those who wait; the turnstile does the rest."""
        for answer in list(self._callers):
            if not answer.done():
                answer.set_exception(ProcessDied(self.title))
        self._callers.clear()
        for task in self.left():
            task.cancel()
        self.died.set()

    def _start(self, work: Coroutine[Any, Any, T], name: str | None) -> asyncio.Task[T]:
        if not self.alive:
            work.close()
            raise ProcessDied(self.title)
        before, self._loop.birth = self._loop.birth, self
        try:
            return self._loop.create_task(work, name=name)
        finally:
            self._loop.birth = before

    def _forget(self, task: asyncio.Task[Any]) -> None:
        if isinstance(task, SimTask):
            self._tasks.pop(task, None)
        if not self.alive and not task.cancelled():
            # Nobody is left to be told.
            task.exception()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self.alive:
            self.failures.append(error)


def _hand_on(task: asyncio.Task[T], answer: asyncio.Future[T]) -> None:
    error = None if task.cancelled() else task.exception()
    if answer.done():
        return
    if task.cancelled():
        answer.cancel()
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(task.result())
