"""An event loop whose time is its own, and whose sets of tasks have an order."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from paymaster.kernel.sources import SOURCES

if TYPE_CHECKING:
    from paymaster_sim.runtime.process import Process

Idle = Callable[[float | None], None]
"""Called when nothing is ready, with the seconds to the next timer."""


class SimFuture(asyncio.Future[Any]):
    """A future that sets keep in the order of creation, and not of memory addresses."""

    def __init__(self, number: int, loop: AbstractEventLoop) -> None:
        self._number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class SimTask(asyncio.Task[Any]):
    """The same for tasks; `process` is the simulated process that a task is of."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        number: int,
        process: Process | None,
        loop: AbstractEventLoop,
        context: Context,
    ) -> None:
        self.number = number
        self.process = process
        self._title = ""
        super().__init__(coroutine, loop=loop, context=context)

    def __hash__(self) -> int:
        return self.number

    @property
    def title(self) -> str:
        """Its name, if it was given one: the others count all tasks of the interpreter."""
        if not self._title:
            name = self.get_name()
            self._title = str(self.number) if name.startswith("Task-") else name
        return self._title


class _Selector(selectors.BaseSelector):
    """Waits for no file: time passes at once, or the turnstile lets somebody through."""

    def __init__(self, idle: Callable[[float | None], None]) -> None:
        self._idle = idle
        self._files: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj, events, data)
        self._files[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._idle(timeout)
        return []

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._files


class SimLoop(asyncio.SelectorEventLoop):
    """`idle` is called whenever no callback is ready; it moves time, or makes something ready.

    What the code would hand to a thread is done at once, in place.
    """

    _ready: deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, idle: Idle) -> None:
        self._seconds = 0.0
        self._numbers = itertools.count(1)
        self.birth: Process | None = None
        super().__init__(_Selector(idle))
        self.set_task_factory(self._new_task)

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass: a microsecond more, so that a timer that is waited for is surely due."""
        self._seconds += seconds + 1e-6

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is ready and no timer is due: the next that happens is `idle`."""
        timers = self._scheduled
        return not self._ready and (not timers or timers[0].when() > self._seconds)

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a place in sets."""
        return SimFuture(next(self._numbers), self)

    def run_in_executor(
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call it now: a thread would come back whenever the machine likes."""
        _ = executor
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's to see
            done.set_exception(error)
        return done

    def _new_task(
        self,
        loop: AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        context: Context | None = None,
    ) -> SimTask:
        """A task belongs to the process of the task that made it."""
        parent = asyncio.current_task(self) if self.is_running() else None
        process = self.birth
        if process is None and isinstance(parent, SimTask):
            process = parent.process
        context = copy_context() if context is None else context
        if process is not None:
            context.run(SOURCES.set, process.sources)
        task = SimTask(
            coroutine, number=next(self._numbers), process=process, loop=loop, context=context
        )
        if process is not None:
            process.adopt(task)
        return task
