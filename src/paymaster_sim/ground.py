"""What a run needs of the runtime under it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from random import Random
from typing import Any, Protocol, TypeVar

from paymaster.db.cells import Databases
from paymaster.kernel.clock import Clock

T = TypeVar("T")


class Process(Protocol):
    """A process that may die."""

    skew: timedelta

    @property
    def alive(self) -> bool:
        """Whether it has not died."""
        ...

    @property
    def clock(self) -> Clock:
        """The time as it sees it."""
        ...

    def databases(self, servers: Mapping[str, str], *, connections: int = 4) -> Databases:
        """Its way to the databases."""
        ...

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in it. Raises ProcessDied."""
        ...


class Ground(Protocol):
    """Time, chance, processes."""

    @property
    def clock(self) -> Clock:
        """The true time."""
        ...

    def random(self, name: str) -> Random:
        """Chance for one purpose."""
        ...

    def process(self, name: str) -> Process:
        """A new process."""
        ...

    async def outside(self, what: str, action: Callable[[], T]) -> T:
        """Do something out there, in turn."""
        ...
