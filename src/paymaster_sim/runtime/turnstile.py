"""Who goes next: one passage at a time, chosen by the seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncCursor

from paymaster_sim.runtime.backends import Backends
from paymaster_sim.runtime.errors import ProcessDied, SimulationError
from paymaster_sim.runtime.faults import Fault, Faults, Step
from paymaster_sim.runtime.loop import SimLoop, SimTask
from paymaster_sim.runtime.parking import Parking
from paymaster_sim.runtime.passage import Passage
from paymaster_sim.runtime.pool import Sessions
from paymaster_sim.runtime.trace import Trace

if TYPE_CHECKING:
    from paymaster_sim.runtime.connection import SimConnection
    from paymaster_sim.runtime.process import Process

_BURIED_WITHIN = 100
_STAYING = (0.0, 0.5, 0.9, 0.98)
"""How likely the process that went last goes on, where it can; a seed has one of these."""


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
        self.sessions = Sessions()
        self.on_death: list[Callable[[Process], None]] = []
        self.faults = faults
        self.over = False
        self._loop = loop
        self._backends = backends
        self._random = random
        self._trace = trace
        self._pace = pace
        self._waiting: list[Passage] = []
        self._parking = Parking(backends, random, self.counts, lambda: self.seconds, self._conclude)
        self._doomed: list[Process] = []
        self._dying: list[tuple[Process, int]] = []
        self._staying = random.choice(_STAYING)
        self._last: Process | None = None
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
        *,
        together: bool = False,
    ) -> Any:
        """One round trip of a connection, when its turn has come."""
        self._parking.connections.setdefault(connection)
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
                together=together,
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
            if self._goes_at_once(passage) and self._doomed:
                self._loop.call_soon(self._execute_doomed)
                await asyncio.sleep(0)
            return await passage.answer
        except asyncio.CancelledError:
            self._withdraw(passage)
            raise

    def _goes_at_once(self, passage: Passage) -> bool:
        """Let it through in place, when whoever looks next could choose nothing else.

        That is as if its task had waited, and costs less. What is done outside is not done in the
        context of its task.
        """
        parking = self._parking
        if (
            len(self._waiting) > 1
            or passage.gen is None
            or parking.parked
            or parking.released
            or self._dying
            or not self._loop.is_quiet
            or passage.process.stalled_until > self.seconds
        ):
            return False
        self._last = passage.process
        self._waiting.clear()
        self._let_through(passage)
        return True

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
        elif passage in self._parking.parked and not passage.orphaned:
            self._parking.cancel(passage)

    # ------------------------------------------------------------ whose turn it is

    def idle(self, timeout: float | None) -> None:
        """Nothing is ready: let one through, or let time pass."""
        if self._bury():
            return
        parking = self._parking
        if parking.overdue() or (parking.released and parking.settle()):
            self._execute_doomed()
            return
        now = self.seconds
        able = [one for one in self._waiting if one.process.stalled_until <= now]
        if not able:
            self._jump(timeout)
            return
        chosen = self._chosen(able) if len(able) > 1 else able[0]
        self._last = chosen.process
        self._waiting.remove(chosen)
        self._let_through(chosen)
        self._execute_doomed()

    def _chosen(self, able: list[Passage]) -> Passage:
        """Any of them, or in some seeds rather one of the process that went last.

        Most faults need few changes of process, but one of them late: where each step may be
        anybody's, no process ever stands still while another does twenty.
        """
        if self._random.random() < self._staying:
            able = [one for one in able if one.process is self._last] or able
        return able[int(self._random.random() * len(able))]

    def _jump(self, timeout: float | None) -> None:
        now = self.seconds
        moments = [one.deadline - now for one in self._parking.parked]
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
        elif passage.drive(lambda waited: self._parking.is_blocked(passage, waited)):
            self._conclude(passage)
        else:
            self._parking.park(passage)
        if self._parking.parked:
            self._parking.settle()

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

    # ------------------------------------------------------------ connections and processes

    def drop(self, connections: Collection[SimConnection]) -> None:
        """Close connections; it is over when the server's processes for them are gone."""
        self._cut(connections)
        for one in connections:
            one.give_up()
            self._parking.connections.pop(one, None)

    def _cut(self, connections: Collection[SimConnection]) -> None:
        for one in connections:
            one.cut()
        self._backends.end(one.server_pid for one in connections)
        self._parking.released = True

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
        for one in [one for one in self._parking.parked if one.process is process]:
            if self.over:
                self._parking.forget(one)
            else:
                self._parking.leave_behind(one)
            self._turn_away(one)
        left = list(process.connections)
        for one in left:
            self._parking.connections.pop(one, None)
        self.drop(left if self.over else self.sessions.leave(process.name, left))
        process.connections.clear()
        process.end()
        self._dying.append((process, _BURIED_WITHIN))
        for told in [] if self.over else self.on_death:
            told(process)

    def clear(self) -> None:
        """End what is left of those that died."""
        self.drop(self.sessions.all())
        left = list(self._parking.parked)
        for one in left:
            self._parking.forget(one)
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
