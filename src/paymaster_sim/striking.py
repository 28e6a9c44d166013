"""Faults of processes at their n-th passage, as the script says: ends, and lost connections."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from paymaster_sim.runtime import Fault, Step


@dataclass(slots=True)
class _Armed:
    left: int
    committed: bool
    ends: bool


class Strikes:
    """Is asked at every passage; strikes the process that was armed when its turn has come."""

    def __init__(self) -> None:
        self.struck: Counter[str] = Counter()
        self._armed: dict[str, list[_Armed]] = defaultdict(list)

    def arm(self, process: str, after: int, *, committed: bool, ends: bool) -> None:
        """Strike a process at its passage number `after` from now, before it takes effect or after.

        With `ends` the process dies there; otherwise it loses the connection.
        """
        self._armed[process].append(_Armed(after, committed, ends))

    def calm(self) -> None:
        """Nothing strikes any more."""
        self._armed.clear()

    def at(self, step: Step) -> Fault | None:
        """The fault at this passage, if there is one."""
        waiting = self._armed.get(step.process)
        if not waiting:
            return None
        first = waiting[0]
        if step.outside and not first.ends:
            return None
        first.left -= 1
        if first.left > 0:
            return None
        waiting.pop(0)
        self.struck["crash" if first.ends else "connection"] += 1
        if first.ends:
            return Fault.CRASH_AFTER if first.committed else Fault.CRASH_BEFORE
        return Fault.LOST_AFTER if first.committed else Fault.LOST_BEFORE

    def stall_seconds(self) -> float:
        """Nothing stalls."""
        return 0.0
