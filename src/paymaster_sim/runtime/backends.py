"""The server processes behind the connections: who waits for a lock, who is gone.

Everything here waits for the machine, and none of it decides anything: a look-up tells what is so,
however long it took to become so.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from paymaster.kernel.sources import MACHINE
from paymaster_sim.runtime.errors import SimulationError

_GONE_SECONDS = 20.0
_BLOCKERS = b"SELECT pid, pg_blocking_pids(pid) FROM unnest(%s::int[]) AS asked (pid)"


class Backends:
    """Looks at and signals the processes of one server, on the machine where it runs.

    The monitor connects to the database `postgres`: what it sees there holds back no clearing away
    of old rows elsewhere, so that a look-up leaves no trace.
    """

    def __init__(self, owner_dsn: str) -> None:
        self._monitor: psycopg.Connection[Any] = psycopg.connect(
            make_conninfo(owner_dsn, dbname="postgres"), autocommit=True
        )
        self._cursor = self._monitor.cursor()
        self._stopped: set[int] = set()
        self.lookups = 0

    def close(self) -> None:
        """Let everything that stands still go on, and stop looking."""
        for pid in sorted(self._stopped):
            self._signal(pid, signal.SIGCONT)
        self._stopped.clear()
        self._monitor.close()

    def blockers(self, pids: Collection[int]) -> dict[int, list[int]]:
        """Whom each of these waits for: nobody, when a lock was granted or none is waited for.

        That is what the lock table says, and not `wait_event`: a process that was granted its lock
        still shows the latter until it runs again.
        """
        self.lookups += 1
        self._cursor.execute(_BLOCKERS, (list(pids),), prepare=True)
        return dict(self._cursor.fetchall())

    def stop(self, pid: int) -> None:
        """Let it stand still; it waits for a lock, and so holds nothing that others need."""
        self._signal(pid, signal.SIGSTOP)
        self._stopped.add(pid)

    def go_on(self, pid: int) -> None:
        """The other way round of `stop`."""
        if pid in self._stopped:
            self._stopped.discard(pid)
            self._signal(pid, signal.SIGCONT)

    def cancel(self, pid: int) -> None:
        """Its statement, which waits for a lock, ends with QueryCanceled."""
        self._signal(pid, signal.SIGINT)
        self.go_on(pid)

    def end(self, pids: Iterable[int]) -> None:
        """Wait until these are gone, and so have given back their locks.

        Their connections are closed already; one that stood still is told to end, since it would
        not look at its connection before it has its lock.
        """
        left = list(pids)
        for pid in left:
            if pid in self._stopped:
                self._signal(pid, signal.SIGTERM)
                self.go_on(pid)
        give_up = MACHINE.monotonic_seconds() + _GONE_SECONDS
        while left := [pid for pid in left if _lives(pid)]:
            if MACHINE.monotonic_seconds() > give_up:
                raise SimulationError(f"The server's processes {left} do not end.")
            time.sleep(0.0002)

    def _signal(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise SimulationError(
                "The simulation must run as the owner of its PostgreSQL, or as root."
            ) from error


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
