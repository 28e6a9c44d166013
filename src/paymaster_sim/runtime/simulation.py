"""The simulation as the world sees it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import datetime
from random import Random
from typing import Any, Self, TypeVar

from paymaster.kernel.clock import Clock
from paymaster_sim.runtime.backends import Backends
from paymaster_sim.runtime.faults import Faults, NoFaults
from paymaster_sim.runtime.loop import SimLoop, SimTask
from paymaster_sim.runtime.process import Process, SimClock
from paymaster_sim.runtime.trace import Trace
from paymaster_sim.runtime.turnstile import Turnstile

T = TypeVar("T")

_LAST_TURNS = 200
_HASH_SEED = "PYTHONHASHSEED"

SERVER_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "deadlock_timeout": "1h",
    "max_connections": "200",
    "scram_iterations": "1",
    "plan_cache_mode": "force_generic_plan",
}
"""For the PostgreSQL of a simulation: nothing there happens by itself, or at a moment of its own.
A deadlock is found by the turnstile, since PostgreSQL would let time choose its victim; half of the
time that a new connection takes is spent on passwords; and to plan what is asked of such small
tables takes longer than to do it."""


def usual_pace(random: Random) -> float:
    """Seconds that a passage takes: mostly little, now and then much."""
    return 0.0002 + 0.0008 * random.random()


class Simulation:
    """One run of one seed. `owner_dsn` is a superuser's on the server, of any of its databases.

    `world` is the process of the simulated world: it never dies, and no fault strikes it.
    """

    def __init__(
        self,
        seed: int | str,
        owner_dsn: str,
        *,
        start: datetime,
        faults: Faults | None = None,
        pace: Callable[[Random], float] = usual_pace,
        keep: bool = False,
    ) -> None:
        self.seed = seed
        self.trace = Trace(keep=keep)
        self._backends = Backends(owner_dsn)
        self._loop = SimLoop(self._idle)
        self._turnstile = Turnstile(
            self._loop,
            self._backends,
            self.random("turnstile"),
            faults or NoFaults(),
            self.trace,
            pace,
        )
        self.clock: Clock = SimClock(self._loop, start)
        self._processes: list[Process] = []
        self._generations: Counter[str] = Counter()
        self.world = self.process("world", mortal=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything that is left, and let go of the server."""
        try:
            self._end()
        finally:
            self._backends.close()
            self._loop.close()

    def random(self, name: str) -> Random:
        """The randomness of this seed for one purpose."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - that is what a seed is for

    @property
    def seconds(self) -> float:
        """Since the simulation began."""
        return self._loop.time()

    @property
    def counts(self) -> Counter[str]:
        """How often what has happened."""
        return self._turnstile.counts

    @property
    def lookups(self) -> int:
        """How often it was looked up whether somebody waits for a lock; not the seed's doing."""
        return self._backends.lookups

    @property
    def faults(self) -> Faults:
        """What strikes; may be replaced at any time."""
        return self._turnstile.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._turnstile.faults = faults

    @property
    def spared(self) -> set[str]:
        """Names of processes that no fault strikes."""
        return self._turnstile.spared

    @property
    def on_death(self) -> list[Callable[[Process], None]]:
        """Called with each process that has died."""
        return self._turnstile.on_death

    @property
    def processes(self) -> list[Process]:
        """Those that are alive, in the order of their beginning."""
        return [one for one in self._processes if one.alive]

    def process(self, name: str, *, mortal: bool = True) -> Process:
        """A new process of this name; no fault strikes one that is not `mortal`."""
        self._generations[name] += 1
        number = self._generations[name]
        made = Process(
            name,
            number,
            self._turnstile,
            self._loop,
            self.clock,
            self.random(f"{name}/{number}"),
            mortal=mortal,
        )
        self._processes.append(made)
        return made

    async def outside(self, what: str, action: Callable[[], T]) -> T:
        """Do something that is no statement when its turn has come; see the package's page."""
        task = asyncio.current_task()
        process = task.process if isinstance(task, SimTask) else None
        return await self._turnstile.outside(process or self.world, what, action)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the world's coroutine to its end; everything that is left is ended with it.

        Raises what the coroutine raises, and SimulationError.
        """
        try:
            return self._loop.run_until_complete(self.world.start(main, "main"))
        finally:
            self._end()

    def _idle(self, timeout: float | None) -> None:
        self._turnstile.idle(timeout)

    def _end(self) -> None:
        """Let nothing through any more, and end all tasks."""
        if self._turnstile.over:
            return
        self._turnstile.over = True
        for process in self._processes:
            self._turnstile.kill(process)
        self._turnstile.clear()
        for _ in range(_LAST_TURNS):
            left = asyncio.all_tasks(self._loop)
            if not left:
                break
            for task in left:
                task.cancel()
            self._turn()
        self._turn()
        with suppress(RuntimeError):
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())

    def _turn(self) -> None:
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()


def on_one_core() -> None:
    """Keep this process on one processor, with all that it starts from now on.

    Only one of the program and its server works at a time, and to wake the other on its own
    processor takes longer than the work: on one they need half the time. Each that calls this takes
    one that no other has taken, while there are any. To be called before the server is started.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    taken = next((core for core in allowed if _takes(core)), allowed[os.getpid() % len(allowed)])
    os.sched_setaffinity(0, {taken})


def _takes(core: int) -> bool:
    """Bind a name in the machine's own name space, which is free again when the process ends."""
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0paymaster-sim-core-{core}")
    except OSError:
        held.close()
        return False
    held.detach()
    return True


def fixed_hash_seed() -> None:
    """Start the program anew unless texts have the same hash in every run.

    The order of a set of texts follows from their hashes.
    """
    if os.environ.get(_HASH_SEED) != "0":
        os.environ[_HASH_SEED] = "0"
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - the same program again
