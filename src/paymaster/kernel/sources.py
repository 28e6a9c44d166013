"""Where that comes from which is different every time: durations, trace ids, jitter.

A simulation sets `SOURCES` in the context of its tasks, and so the same seed gives the same run.
Keys, nonces and tokens are not among them: those come from the operating system, always.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextvars import ContextVar
from random import Random
from typing import Protocol


class Sources(Protocol):
    """What a process is given by the machine it runs on."""

    def monotonic_seconds(self) -> float:
        """For measuring durations only."""
        ...

    def trace_id(self) -> str:
        """32 hex digits."""
        ...

    def jitter(self) -> Random:
        """Randomness that is no secret, for whoever spreads tries over time."""
        ...

    def process_name(self) -> str:
        """Names this process among all."""
        ...


class Machine:
    """The machine itself."""

    def monotonic_seconds(self) -> float:
        """The machine's monotonic clock."""
        return time.monotonic()

    def trace_id(self) -> str:
        """Sixteen random bytes."""
        return secrets.token_hex(16)

    def jitter(self) -> Random:
        """Seeded by the operating system."""
        return Random()  # noqa: S311 - no secret

    def process_name(self) -> str:
        """Host and process id."""
        return f"{socket.gethostname()}:{os.getpid()}"


MACHINE = Machine()
SOURCES: ContextVar[Sources] = ContextVar("sources", default=MACHINE)
"""The sources of the running task."""


def jitter() -> Random:
    """Randomness that is no secret, of the running task's process."""
    return SOURCES.get().jitter()
