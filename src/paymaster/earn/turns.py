"""Parts of one batch, two at a time, as if one came after the other.

While the database writes one part, the next is read, verified and written as far as its rewards.
The next part begins when the one before holds its locks: what both touch waits for it there. It
writes its events after those of the one before, so that of two with one id the first is kept. It
moves money only when the one before is committed, and if that had to be run again, it is rolled
back and runs after it. So a user's events take effect in the order in which they came.

Nobody waits in a circle. A part that waits here holds states of tasks, or events and rewards; the
one before then waits in the database for what is locked later in that order, and for nobody who
could wait for those states.
"""

from __future__ import annotations

import asyncio


class Overtaken(Exception):
    """The part before must be run again; what was done upon its locks is rolled back."""


class Turn:
    """One part's place in the order."""

    def __init__(self, before: Turn | None = None) -> None:
        self._before = before
        self._held, self.written = asyncio.Event(), asyncio.Event()
        self.over = asyncio.Event()
        self.passed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def holds(self) -> None:
        """The states of its users' tasks are locked."""
        self._held.set()

    def wrote(self) -> None:
        """Its events are written."""
        self.written.set()

    def stumbles(self) -> None:
        """It failed, or has to be run again: its locks were let go."""
        self._settle(smoothly=False)

    def passes(self) -> None:
        """It is committed; smoothly, unless it has stumbled."""
        self._settle(smoothly=True)

    def ends(self) -> None:
        """It is committed or has failed for good."""
        self._settle(smoothly=False)
        self.over.set()
        self._before = None

    def _settle(self, *, smoothly: bool) -> None:
        self._held.set()
        self.written.set()
        if not self.passed.done():
            self.passed.set_result(smoothly)

    async def held(self) -> None:
        """Until the next part may begin."""
        await self._held.wait()

    async def writes(self) -> None:
        """Until the part before has written its events. Raises Overtaken when it has stumbled."""
        before = self._before
        if before is not None:
            await before.written.wait()
            if before.passed.done() and not before.passed.result():
                self.stumbles()
                raise Overtaken

    async def goes_on(self) -> None:
        """Until the part before is committed. Raises Overtaken when that has stumbled."""
        if self._before is not None and not await asyncio.shield(self._before.passed):
            self.stumbles()
            raise Overtaken

    async def wait(self) -> None:
        """Until the part before is over, whatever became of it; then go on alone."""
        if self._before is not None:
            await self._before.over.wait()
            self._before = None
