"""What a loop sets going and does not wait for; a fault in it is logged and stops nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from paymaster.kernel.errors import LEASE_LOST, Busy, Conflict
from paymaster.observe import get_logger

_log = get_logger(__name__)


class UnderWay:
    """The tasks of a loop. `event` is what the log says of one that broke."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Set it going in a task of its own."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def drain(self) -> None:
        """Wait until everything has ended, also what was begun meanwhile."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def stop(self) -> None:
        """Break off everything: its leases run out, and it is found by them."""
        for task in set(self._tasks):
            task.cancel()
        await self.drain()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(self._event, error=type(error).__name__, exc_info=error)


async def guarded(event: str, work: Callable[..., Awaitable[int]], *args: Any) -> int:
    """A fault in one account's work is logged as `event` and leaves the others alone.

    Raises Busy: without a database there is no work for anybody.
    """
    try:
        return await work(*args)
    except Busy:
        raise
    except Exception as error:  # noqa: BLE001 - one account's fault stops no other
        if isinstance(error, Conflict) and error.slug == LEASE_LOST:
            _log.warning(event, slug=error.slug)
        else:
            _log.exception(event, error=type(error).__name__)
        return 0
