"""Durable work for later: what is due runs in the same transaction that forgets it.

Jobs are kept in virtual time, so moving the clock forward makes them due at once.
"""

import asyncio
from collections.abc import Callable

from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, due INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS job_due ON job (due);
"""

Handler = Callable[[Tx, str], None]

_BATCH = 200
_GATHER_SECONDS = 0.005
"""After waking, the loop waits this long so that jobs due together share one commit."""


class Schedule:
    """The job queue and the loop that empties it."""

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis
        self._handlers: dict[str, Handler] = {}
        self._woken = asyncio.Event()
        self._after: list[Callable[[], None]] = []

    def handle(self, kind: str, handler: Handler) -> None:
        """Name the function that does one kind of job."""
        self._handlers[kind] = handler

    def after_run(self, listener: Callable[[], None]) -> None:
        """Call a function whenever jobs have been done."""
        self._after.append(listener)

    def put(self, tx: Tx, kind: str, subject: str, after: int = 0) -> None:
        """Queue a job for `after` microseconds from now."""
        assert kind in self._handlers
        tx.run(
            "INSERT INTO job (kind, subject, due) VALUES (?, ?, ?)", kind, subject, tx.now + after
        )
        self._woken.set()

    def shift(self, tx: Tx, by: int) -> None:
        """Keep every job's distance from now when the clock moved backwards."""
        tx.run("UPDATE job SET due = due + ?", by)

    def wake(self) -> None:
        """Look at the queue again: the clock has moved."""
        self._woken.set()

    def run_batch(self) -> int:
        """Do the jobs that are due now, at most two hundred; how many were done."""
        with self._chassis.tx() as tx:
            due = tx.all(
                "SELECT id, kind, subject FROM job WHERE due <= ? ORDER BY due, id LIMIT ?",
                tx.now, _BATCH,
            )  # fmt: skip
            for key, kind, subject in due:
                self._handlers[kind](tx, subject)
                tx.run("DELETE FROM job WHERE id = ?", key)
        if due:
            for listener in self._after:
                listener()
        return len(due)

    def next_due(self, tx: Tx) -> int | None:
        """When the next job falls due; None when none waits."""
        due: int | None = tx.value("SELECT min(due) FROM job")
        return due

    def run_due(self) -> None:
        """Do every job that is due now, including those that these jobs queue for now."""
        while self.run_batch():
            pass

    async def run(self) -> None:
        """Do jobs as they fall due, until cancelled."""
        while True:
            self._woken.clear()
            if self.run_batch():
                await asyncio.sleep(0)
            else:
                await self._pause()

    async def _pause(self) -> None:
        with self._chassis.tx() as tx:
            due = self.next_due(tx)
            wait = None if due is None else max(0, due - tx.now) / SECOND
        try:
            async with asyncio.timeout(wait):
                await self._woken.wait()
        except TimeoutError:
            return
        await asyncio.sleep(_GATHER_SECONDS)
