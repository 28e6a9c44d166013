"""Who goes next: one passage at a time, chosen by the seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncCursor, errors

from paymaster_sim.runtime.backends import Backends
from paymaster_sim.runtime.errors import ProcessDied, SimulationError
from paymaster_sim.runtime.faults import Fault, Faults, Step
from paymaster_sim.runtime.loop import SimLoop, SimTask
from paymaster_sim.runtime.passage import Decreed, Passage
from paymaster_sim.runtime.trace import Trace

if TYPE_CHECKING:
    from paymaster_sim.runtime.connection import SimConnection
    from paymaster_sim.runtime.process import Process

PATIENCE_SECONDS, MERGED_PATIENCE_SECONDS = 10.0, 2.0
"""How long a statement waits for a lock, and one of those that are sent together."""

_BURIED_WITHIN = 100
_STRANGERS_SECONDS = 0.05


class Turnstile:
    """Lets statements and actions through, strikes them with faults, parks what waits for locks."""

    def __init__(
        self,
        loop: SimLoop,
        backends: Backends,
        random: Random,
        faults: Faults,
        trace: Trace,
        pace: Callable[[Random], float],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.spared: set[str] = set()
        self.on_death: list[Callable[[Process], None]] = []
        self.faults = faults
        self.over = False
        self._loop = loop
        self._backends = backends
        self._random = random
        self._trace = trace
        self._pace = pace
        self._waiting: list[Passage] = []
        self._parked: list[Passage] = []
        self._connections: dict[SimConnection, None] = {}
        self._doomed: list[Process] = []
        self._dying: list[tuple[Process, int]] = []
        self._released = False
        self._number = 0

    @property
    def seconds(self) -> float:
        """Time since the simulation began."""
        return self._loop.time()

    # ------------------------------------------------------------ at the turnstile

    async def statement(
        self,
        connection: SimConnection,
        gen: Generator[int, int, Any],
        texts: Sequence[str],
        asked_by: AsyncCursor[Any] | None,
    ) -> Any:
        """One round trip of a connection, when its turn has come."""
        self._connections.setdefault(connection)
        text = texts[0] if len(texts) == 1 else " | ".join(one[:24] for one in texts)
        return await self._pass(
            Passage(
                connection.process,
                _current(),
                text,
                any(one.upper().startswith("COMMIT") for one in texts),
                self._loop.create_future(),
                connection=connection,
                gen=gen,
                asked_by=asked_by,
            )
        )

    async def outside(self, process: Process, what: str, action: Callable[[], Any]) -> Any:
        """Something that is no statement, when its turn has come."""
        return await self._pass(
            Passage(
                process, _current(), what[:80], False, self._loop.create_future(), action=action
            )
        )

    async def connecting(
        self, process: Process, action: Callable[[], SimConnection]
    ) -> SimConnection:
        """A new connection, when its turn has come. Raises OperationalError."""
        return await self._pass(
            Passage(
                process,
                _current(),
                "connect",
                False,
                self._loop.create_future(),
                action=action,
                connects=True,
            )
        )

    async def _pass(self, passage: Passage) -> Any:
        if self.over or not passage.process.alive:
            passage.leave()
            self._turn_away(passage)
            return await passage.answer
        self._waiting.append(passage)
        try:
            return await passage.answer
        except asyncio.CancelledError:
            self._withdraw(passage)
            raise

    def _turn_away(self, passage: Passage) -> None:
        """Its process is dead: its own tasks are cancelled, a stranger is told."""
        if passage.answer.done():
            return
        if self.over or passage.task.process is passage.process:
            passage.answer.cancel()
        else:
            passage.answer.set_exception(ProcessDied(passage.process.title))

    def _withdraw(self, passage: Passage) -> None:
        """Its task was cancelled: what was not sent is not sent, what waits for a lock ends."""
        if passage in self._waiting:
            self._waiting.remove(passage)
            passage.leave()
        elif passage in self._parked and not passage.orphaned:
            self._parked.remove(passage)
            self._backends.cancel(passage.pid)
            passage.drive(None)
            self._released = True

    # ------------------------------------------------------------ whose turn it is

    def idle(self, timeout: float | None) -> None:
        """Nothing is ready: let one through, or let time pass."""
        if self._bury():
            return
        if self._overdue() or (self._released and self._settle()):
            self._execute_doomed()
            return
        now = self.seconds
        able = [one for one in self._waiting if one.process.stalled_until <= now]
        if not able:
            self._jump(timeout)
            return
        chosen = able[int(self._random.random() * len(able))] if len(able) > 1 else able[0]
        self._waiting.remove(chosen)
        self._let_through(chosen)
        self._execute_doomed()

    def _jump(self, timeout: float | None) -> None:
        now = self.seconds
        moments = [one.deadline - now for one in self._parked]
        moments += [one.process.stalled_until - now for one in self._waiting]
        if timeout is not None:
            moments.append(timeout)
        if not moments:
            raise SimulationError(f"Nothing can go on any more at {now:.3f} s.")
        self._loop.advance(max(min(moments), 0.0))

    def _let_through(self, passage: Passage) -> None:
        self._number += 1
        self.counts["passages"] += 1
        self._loop.advance(self._pace(self._random))
        process = passage.process
        fault = None
        if process.mortal and process.name not in self.spared:
            fault = self.faults.at(
                Step(
                    self._number,
                    self.seconds,
                    process.name,
                    passage.task.title,
                    passage.text,
                    passage.commits,
                    passage.outside,
                )
            )
        if fault is not None:
            self.counts[fault.value] += 1
            self._record(passage, fault.value)
        if fault is Fault.CRASH_BEFORE:
            passage.leave()
            self._turn_away(passage)
            self._doomed.append(process)
            return
        if fault is Fault.STALL:
            process.stalled_until = self.seconds + self.faults.stall_seconds()
            self._waiting.append(passage)
            return
        passage.fault = fault
        self._carry_out(passage)

    def _carry_out(self, passage: Passage) -> None:
        if passage.fault is Fault.LOST_BEFORE and passage.connection is not None:
            self._cut([passage.connection])
        if passage.connects and passage.fault in (Fault.LOST_BEFORE, Fault.LOST_AFTER):
            passage.error = psycopg.OperationalError("connection failed: refused")
            self._conclude(passage)
        elif passage.gen is None:
            passage.act()
            self._conclude(passage)
        elif passage.drive(lambda waited: self._is_blocked(passage, waited)):
            self._conclude(passage)
        else:
            self._park(passage)
        if self._parked:
            self._settle()

    def _conclude(self, passage: Passage) -> None:
        """It is answered: the answer reaches its task unless a fault keeps it back."""
        if passage.fault is Fault.LOST_AFTER and passage.connection is not None:
            self._cut([passage.connection])
            passage.error = _noticed(passage.connection)
        self._record(passage, passage.outcome())
        if passage.orphaned and passage.connection is not None:
            self.drop([passage.connection])
            return
        if passage.fault is Fault.CRASH_AFTER:
            self._turn_away(passage)
            self._doomed.append(passage.process)
        if passage.answer.done():
            return
        if passage.error is not None:
            passage.answer.set_exception(passage.error)
        else:
            passage.answer.set_result(passage.value)

    def _record(self, passage: Passage, outcome: str) -> None:
        self._trace.add(
            f"{self.seconds:.6f} {passage.process.title} {passage.task.title}"
            f" {passage.text} -> {outcome}"
        )

    # ------------------------------------------------------------ locks

    def _is_blocked(self, passage: Passage, waited: float) -> bool:
        """Whether it waits for a lock, after so many seconds of the machine's time.

        As long as no other transaction is open here, strangers are unlikely to have one.
        """
        others = any(one is not passage.connection and one.is_busy for one in self._connections)
        if not others and waited < _STRANGERS_SECONDS:
            return False
        return bool(self._backends.blockers([passage.pid]).get(passage.pid))

    def _park(self, passage: Passage) -> None:
        self.counts["parkings"] += 1
        self._backends.stop(passage.pid)
        if passage not in self._parked:
            together = passage.asked_by is None
            patience = MERGED_PATIENCE_SECONDS if together else PATIENCE_SECONDS
            passage.deadline = self.seconds + patience
            self._parked.append(passage)
        cycle = self._cycle(passage)
        if cycle:
            self.counts["deadlocks"] += 1
            self._decree(self._random.choice(cycle), errors.DeadlockDetected)

    def _cycle(self, passage: Passage) -> list[Passage]:
        """Those that wait for each other since this one waits too, in order of parking."""
        edges = self._backends.blockers([one.pid for one in self._parked])

        def reached(start: int) -> set[int]:
            found, left = set[int](), [start]
            while left:
                for pid in edges.get(left.pop(), []):
                    if pid not in found and pid in edges:
                        found.add(pid)
                        left.append(pid)
            return found

        ahead = reached(passage.pid)
        if passage.pid not in ahead:
            return []
        return [one for one in self._parked if one.pid in ahead and passage.pid in reached(one.pid)]

    def _decree(self, passage: Passage, why: Decreed) -> None:
        """End a statement that waits for a lock, for this reason."""
        self._parked.remove(passage)
        passage.decreed = why
        self._backends.cancel(passage.pid)
        passage.drive(None)
        self._released = True
        self._conclude(passage)

    def _overdue(self) -> bool:
        """End those that have waited for a lock long enough; whether there were any."""
        late = [one for one in self._parked if one.deadline <= self.seconds]
        for one in late:
            if one in self._parked:
                self.counts["lock-timeouts"] += 1
                self._decree(one, errors.LockNotAvailable)
        return bool(late)

    def _settle(self) -> bool:
        """Let those go on, one at a time, whose lock is free now; whether one was answered."""
        self._released = False
        answered = False
        while self._parked:
            blockers = self._backends.blockers([one.pid for one in self._parked])
            free = [one for one in self._parked if not blockers.get(one.pid)]
            if not free:
                break
            one = free[int(self._random.random() * len(free))] if len(free) > 1 else free[0]
            self._backends.go_on(one.pid)
            if one.drive(lambda waited, one=one: self._is_blocked(one, waited)):
                self._parked.remove(one)
                answered = True
                self._conclude(one)
            else:
                self._park(one)
        self._released = False
        return answered

    # ------------------------------------------------------------ connections and processes

    def drop(self, connections: Collection[SimConnection]) -> None:
        """Close connections; it is over when the server's processes for them are gone."""
        self._cut(connections)
        for one in connections:
            one.give_up()
            self._connections.pop(one, None)

    def _cut(self, connections: Collection[SimConnection]) -> None:
        for one in connections:
            one.cut()
        self._backends.end(one.server_pid for one in connections)
        self._released = True

    def kill(self, process: Process) -> None:
        """The process dies now: nothing of it reaches anything any more."""
        if not process.alive:
            return
        process.alive = False
        self.counts["deaths"] += 1
        if not self.over:
            self._trace.add(f"{self.seconds:.6f} {process.title} died")
        for one in [one for one in self._waiting if one.process is process]:
            self._waiting.remove(one)
            one.leave()
            self._turn_away(one)
        for one in [one for one in self._parked if one.process is process]:
            self._leave_parked(one)
        self.drop(list(process.connections))
        process.connections.clear()
        process.end()
        self._dying.append((process, _BURIED_WITHIN))
        for told in [] if self.over else self.on_death:
            told(process)

    def _leave_parked(self, passage: Passage) -> None:
        """What waits for a lock when its process dies: it ends, or goes on when it has the lock.

        A server notices that its client is gone when it answers. Until then it goes on, and what
        was sent with a COMMIT is committed, long after the process that sent it has died.
        """
        if not self.over and passage.connection is not None and self._random.random() < 0.5:
            self.counts["orphans"] += 1
            passage.orphaned, passage.fault = True, None
            passage.process.connections.pop(passage.connection, None)
        else:
            self._parked.remove(passage)
            passage.leave()
        self._turn_away(passage)

    def clear(self) -> None:
        """End what is left of those that died while they waited for locks."""
        left, self._parked = self._parked, []
        for one in left:
            one.leave()
        self.drop([one.connection for one in left if one.connection is not None])

    def _execute_doomed(self) -> None:
        while self._doomed:
            self.kill(self._doomed.pop(0))

    def _bury(self) -> bool:
        """Cancel again what a dead process still holds on to; whether there was anything."""
        for place, (process, tries) in enumerate(self._dying):
            left = process.left()
            if left:
                if not tries:
                    names = ", ".join(one.title for one in left)
                    raise SimulationError(f"Tasks of {process.title} do not end: {names}.")
                self._dying[place] = (process, tries - 1)
                for task in left:
                    task.cancel()
                return True
        self._dying.clear()
        return False


def _current() -> SimTask:
    task = asyncio.current_task()
    if not isinstance(task, SimTask):
        raise SimulationError("Only tasks of the simulation pass its turnstile.")
    return task


def _noticed(connection: SimConnection) -> Exception:
    """What the driver says when it finds that the line is broken."""
    try:
        connection.pgconn.consume_input()
    except psycopg.OperationalError as error:
        return error
    return psycopg.OperationalError("server closed the connection unexpectedly")
