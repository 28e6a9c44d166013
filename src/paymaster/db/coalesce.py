"""Concurrent single calls become one batch: the next batch is what queued while the last one ran.

There is no timer: a call that comes alone runs alone, at the next turn of the loop, and under load
batches grow by themselves. The queue has a limit, beyond which a caller is told to come again. A
caller that goes away drops its answer, never the batch. One command that cannot be carried out
fails alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Generic, TypeVar

from paymaster.db import lease
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.errors import Broken, Busy, Conflict
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.observe import trace_id_of

C = TypeVar("C")
Out = TypeVar("Out")

BATCH_SIZED = 16
"""From this many commands on, a merged transaction takes one of the cell's two permits."""

HALVED_FROM = 32
"""From this many callers on, a batch `in_turns` leaves half of them to the next."""

LOCK_FAULTS = 10
"""Locks not free in time that one batch is halved for: as many as a thousand commands need."""

_CONTENTION = "database-contention"


@dataclass(frozen=True, slots=True)
class Failed:
    """In place of an outcome: the error that the caller of this one command gets."""

    error: Exception


Run = Callable[[Sequence[C]], Awaitable[Sequence[Out | Failed]]]
"""Carries out a batch: one outcome for each command, in order."""

UseCase = Callable[[CellTx, Sequence[C]], Awaitable[Sequence[Out | Failed]]]
"""The same in a transaction that it is given. It may be run again with the same commands, so
whatever makes it apply once (an id, a caller's key) is part of the command."""


@dataclass(slots=True)
class _Call(Generic[C, Out]):
    """A command, where its outcome goes, and whether its caller left before a batch took it."""

    command: C
    answer: asyncio.Future[Out]
    taken: bool = False
    left: bool = False


class Coalescer(Generic[C, Out]):
    """Merges the calls of one process.

    `batch_limit` is the most commands in one batch, `queue_limit` the most that wait for one, and
    `in_flight` how many batches run at once. With `in_turns` a batch takes half of all callers at
    most: while the database works for one half, this process works for the other, where all of
    them in one batch would leave one of the two idle all the time.
    """

    def __init__(
        self,
        run: Run[C, Out],
        *,
        batch_limit: int,
        queue_limit: int,
        in_flight: int = 1,
        in_turns: bool = False,
    ) -> None:
        self._run = run
        self._batch_limit = batch_limit
        self._queue_limit = queue_limit
        self._in_flight = in_flight
        self._in_turns = in_turns
        self._callers = 0
        self._queue: deque[_Call[C, Out]] = deque()
        self._left = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Commands that somebody waits for and no batch has taken yet."""
        return len(self._queue) - self._left

    async def submit(self, command: C) -> Out:
        """The outcome of one command, carried out with whatever else waits.

        Raises Busy `queue-full` or `stopping`, with which nothing has happened, and whatever the
        command ended with. A caller that is cancelled before its batch began has asked for
        nothing; afterwards the command takes effect without it.
        """
        if TRANSACTION_OPEN.get():
            raise Broken("transaction-nested", "A merged call was made inside a transaction.")
        if self._closed:
            raise Busy("stopping", "This process is stopping; send the same request again.")
        if self.waiting >= self._queue_limit or len(self._queue) >= 4 * self._queue_limit:
            raise Busy("queue-full", "Too many requests wait already; send the same again later.")
        call: _Call[C, Out] = _Call(command, asyncio.get_running_loop().create_future())
        self._queue.append(call)
        self._callers += 1
        if self._working < self._in_flight:
            # Counted here, not by the tasks: one that has found nothing left takes no more, though
            # it is done only a turn of the loop later. The context is its own, no caller's.
            self._working += 1
            task = asyncio.get_running_loop().create_task(self._work(), context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            return await call.answer
        except asyncio.CancelledError:
            if not call.taken:
                call.left = True
                self._left += 1
            raise
        finally:
            self._callers -= 1

    async def close(self) -> None:
        """Take no more commands; return when those that wait are answered.

        When a batch fails as a whole meanwhile, the rest is refused instead of being tried.
        """
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        try:
            while batch := await self._gather():
                if not await self._carry_out(batch) and self._closed:
                    break
        finally:
            self._working -= 1
            if self._closed:
                self._refuse_rest()

    async def _gather(self) -> list[_Call[C, Out]]:
        """What waits, once a turn of the loop has brought no more.

        The callers that a batch has answered are on their way back with their next calls: taking
        the first of them alone would cost as much as taking them all.
        """
        seen = 0
        while seen < len(self._queue) < self._most():
            seen = len(self._queue)
            await asyncio.sleep(0)
        return self._take()

    def _most(self) -> int:
        """Commands that the next batch may take."""
        if self._in_turns and self._callers >= HALVED_FROM:
            return min(self._batch_limit, self._callers // 2)
        return self._batch_limit

    def _take(self) -> list[_Call[C, Out]]:
        batch: list[_Call[C, Out]] = []
        most = self._most()
        while self._queue and len(batch) < most:
            call = self._next()
            if not call.answer.done():
                batch.append(call)
        return batch

    def _next(self) -> _Call[C, Out]:
        call = self._queue.popleft()
        call.taken = True
        self._left -= call.left
        return call

    async def _carry_out(self, batch: Sequence[_Call[C, Out]]) -> bool:
        """False when no command of the batch had an outcome."""
        try:
            outcomes = await self._run([call.command for call in batch])
            if len(outcomes) != len(batch):
                raise Broken("batch-outcomes", f"{len(batch)} commands, {len(outcomes)} outcomes.")
        except Exception as error:  # noqa: BLE001 - it is the callers' to see
            outcomes = [Failed(error)] * len(batch)
        except BaseException:
            for call in batch:
                call.answer.cancel()
            raise
        for call, outcome in zip(batch, outcomes, strict=True):
            if call.answer.done():
                continue
            if isinstance(outcome, Failed):
                call.answer.set_exception(outcome.error)
            else:
                call.answer.set_result(outcome)
        return not all(isinstance(outcome, Failed) for outcome in outcomes)

    def _refuse_rest(self) -> None:
        while self._queue:
            call = self._next()
            if not call.answer.done():
                call.answer.set_exception(
                    Busy("stopping", "This process is stopping; send the same request again.")
                )


def in_cell(db: CellDb, actor: Actor, use_case: UseCase[C, Out]) -> Run[C, Out]:
    """Makes a coalescer's `run`: a use case in one transaction of a cell, `halved`.

    The transaction belongs to `actor` under a trace of its own; rows that belong to a caller get
    the caller's name and trace from the command. A batch of `BATCH_SIZED` or more takes a permit.
    """

    async def together(commands: Sequence[C]) -> Sequence[Out | Failed]:
        async def work(tx: CellTx) -> Sequence[Out | Failed]:
            if len(commands) >= BATCH_SIZED:
                await lease.permit(tx)
            return await use_case(tx, commands)

        return await db.run(actor, trace_id_of(None), work, merged=True)

    return halved(together)


def halved(together: Run[C, Out]) -> Run[C, Out]:
    """Makes one command fail alone: a batch that raises is halved, in order, and run again.

    The command at fault stands alone in the end, and it alone gets the error. A lock that was not
    free in time counts as such a fault, but not for ever: after `LOCK_FAULTS` of them whoever is
    left gets the Busy. Any other Busy is nobody's fault: every command gets it.
    """

    async def run(commands: Sequence[C]) -> Sequence[Out | Failed]:
        locked = 0

        async def part(some: Sequence[C]) -> Sequence[Out | Failed]:
            nonlocal locked
            try:
                return await together(some)
            except Exception as error:  # noqa: BLE001 - whatever it is, its command must stand alone
                locked += _waits(error)
                ours = isinstance(error, Busy) and error.slug != _CONTENTION
                if ours or len(some) == 1 or locked > LOCK_FAULTS:
                    return [Failed(error)] * len(some)
            middle = len(some) // 2
            return [*await part(some[:middle]), *await part(some[middle:])]

        return await part(commands)

    return run


def _waits(error: Exception) -> bool:
    """Whether the batch ended because a lock was not free in time."""
    return isinstance(error, Conflict) or (isinstance(error, Busy) and error.slug == _CONTENTION)
