"""Statements that wait for locks: who is one, when one goes on, and who of a cycle gives way.

PostgreSQL wakes everybody whose lock is free. So that only one goes on at a time, the server's
process of a parked statement is stopped until it is its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from psycopg import errors

from paymaster_sim.runtime.backends import Backends
from paymaster_sim.runtime.connection import SimConnection
from paymaster_sim.runtime.passage import Decreed, Passage

PATIENCE_SECONDS, MERGED_PATIENCE_SECONDS = 10.0, 2.0
"""How long a statement waits for a lock, and one of those that are sent together."""

_STRANGERS_SECONDS = 0.05


class Parking:
    """What is parked. `released` is set when locks may have become free.

    `conclude` is called with each that is answered.
    """

    def __init__(
        self,
        backends: Backends,
        random: Random,
        counts: Counter[str],
        seconds: Callable[[], float],
        conclude: Callable[[Passage], None],
    ) -> None:
        self.parked: list[Passage] = []
        self.connections: dict[SimConnection, None] = {}
        self.released = False
        self._backends = backends
        self._random = random
        self._counts = counts
        self._seconds = seconds
        self._conclude = conclude

    def is_blocked(self, passage: Passage, waited: float) -> bool:
        """Whether it waits for a lock, after so many seconds of the machine's time.

        As long as no other transaction is open here, strangers are unlikely to have one.
        """
        others = any(one is not passage.connection and one.is_busy for one in self.connections)
        if not others and waited < _STRANGERS_SECONDS:
            return False
        return bool(self._backends.blockers([passage.pid]).get(passage.pid))

    def park(self, passage: Passage) -> None:
        """It waits for a lock; when it closes a cycle, the seed chooses who of that gives way."""
        self._counts["parkings"] += 1
        self._backends.stop(passage.pid)
        if passage not in self.parked:
            patience = MERGED_PATIENCE_SECONDS if passage.together else PATIENCE_SECONDS
            passage.deadline = self._seconds() + patience
            self.parked.append(passage)
        cycle = self._cycle(passage)
        if cycle:
            self._counts["deadlocks"] += 1
            self._decree(self._random.choice(cycle), errors.DeadlockDetected)

    def overdue(self) -> bool:
        """End those that have waited for a lock long enough; whether there were any."""
        late = [one for one in self.parked if one.deadline <= self._seconds()]
        for one in late:
            if one in self.parked:
                self._counts["lock-timeouts"] += 1
                self._decree(one, errors.LockNotAvailable)
        return bool(late)

    def settle(self) -> bool:
        """Let those go on, one at a time, whose lock is free now; whether one was answered."""
        answered = False
        while self.parked:
            blockers = self._backends.blockers([one.pid for one in self.parked])
            free = [one for one in self.parked if not blockers.get(one.pid)]
            if not free:
                break
            one = free[int(self._random.random() * len(free))] if len(free) > 1 else free[0]
            self._backends.go_on(one.pid)
            if one.drive(lambda waited, one=one: self.is_blocked(one, waited)):
                self.parked.remove(one)
                answered = True
                self._conclude(one)
            else:
                self.park(one)
        self.released = False
        return answered

    def cancel(self, passage: Passage) -> None:
        """Its task was cancelled, and so is the statement, as the driver would have it."""
        self.parked.remove(passage)
        self._backends.cancel(passage.pid)
        passage.drive(None)
        self.released = True

    def leave_behind(self, passage: Passage) -> None:
        """Its process dies: it ends, or goes on when it has the lock.

        A server notices that its client is gone when it answers. Until then it goes on, and what
        was sent with a COMMIT is committed, long after the process that sent it has died.
        """
        if passage.connection is not None and self._random.random() < 0.5:
            self._counts["orphans"] += 1
            passage.orphaned, passage.fault = True, None
            passage.process.connections.pop(passage.connection, None)
        else:
            self.forget(passage)

    def forget(self, passage: Passage) -> None:
        """It is not waited for any more; its connection is about to be dropped."""
        self.parked.remove(passage)
        passage.leave()

    def _cycle(self, passage: Passage) -> list[Passage]:
        """Those that wait for each other since this one waits too, in order of parking."""
        edges = self._backends.blockers([one.pid for one in self.parked])

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
        return [one for one in self.parked if one.pid in ahead and passage.pid in reached(one.pid)]

    def _decree(self, passage: Passage, why: Decreed) -> None:
        """End a statement that waits for a lock, for this reason."""
        self.parked.remove(passage)
        passage.decreed = why
        self._backends.cancel(passage.pid)
        passage.drive(None)
        self.released = True
        self._conclude(passage)
