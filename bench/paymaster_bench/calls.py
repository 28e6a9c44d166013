"""Single calls: by callers who wait for each answer, or on a schedule that waits for nobody.

A closed loop (so many callers, each sends its next call when it has its answer) finds the
throughput. Its latencies flatter whoever is slow, for a slow server is asked less often. The open
loop sends on a fixed schedule and counts each latency from the moment the call was due.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from paymaster.kernel.errors import Busy
from paymaster_bench.measure import Sample, Slice, now_seconds

_TRIES = 20
_COLLECT = 50_000, 20, 20

Call = Callable[[], Awaitable[object]]
"""One call; it takes its own next command."""


C = TypeVar("C")
Out = TypeVar("Out")


class Patient(Generic[C, Out]):
    """Sends a command again when it is told to come again, as a client does; it waits no more.

    A pool refuses after five seconds of waiting for a connection, a coalescer when its queue is
    full. Either way nothing has happened, and the call's latency goes on.
    """

    def __init__(self, send: Callable[[C], Awaitable[Out]]) -> None:
        self._send = send
        self.refused = 0

    async def __call__(self, command: C) -> Out:
        """The answer. Raises Busy when the database has gone."""
        for _ in range(_TRIES):
            try:
                return await self._send(command)
            except Busy:
                self.refused += 1
        return await self._send(command)


def settle_memory() -> None:
    """As in the processes of every role: what is there stays, and the collector comes rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


def closed_loop(call: Call, callers: int, prepare: Callable[[float], None]) -> Slice:
    """So many callers. `prepare` makes commands for about so many seconds, off the clock."""

    async def measure(seconds: float) -> Sample:
        prepare(seconds)
        latencies: list[float] = []
        begun = now_seconds()
        until = begun + seconds

        async def caller() -> None:
            while True:
                start = now_seconds()
                if start >= until:
                    return
                try:
                    await call()
                except IndexError:
                    return
                latencies.append(now_seconds() - start)

        await asyncio.gather(*(caller() for _ in range(callers)))
        elapsed = now_seconds() - begun
        return Sample(len(latencies), len(latencies) / elapsed, latencies)

    return measure


def open_loop(
    call: Call, rate: Callable[[], float], prepare: Callable[[float], None], most_waiting: int
) -> Slice:
    """`rate()` calls a second, whatever the answers do; at most so many unanswered at a time.

    A call that finds so many unanswered is sent later, and its latency still counts from when it
    was due.
    """

    async def measure(seconds: float) -> Sample:
        prepare(seconds)
        each = 1 / max(rate(), 1.0)
        wanted = int(seconds / each)
        latencies: list[float] = []
        running: set[asyncio.Task[None]] = set()
        begun = now_seconds()

        async def one(due: float) -> None:
            try:
                await call()
            except IndexError:
                return
            latencies.append(now_seconds() - due)

        sent = 0
        while sent < wanted:
            behind = int((now_seconds() - begun) / each) - sent
            room = most_waiting - len(running)
            for _ in range(min(behind, room, wanted - sent)):
                task = asyncio.create_task(one(begun + sent * each))
                running.add(task)
                task.add_done_callback(running.discard)
                sent += 1
            await asyncio.sleep(each if each > 0.001 else 0.0005)
        while running:
            await asyncio.wait(running)
        elapsed = now_seconds() - begun
        return Sample(len(latencies), len(latencies) / elapsed, latencies)

    return measure
