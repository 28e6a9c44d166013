"""Faults of processes at their n-th passage, as the script says: ends, and lost connections."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from paymaster_sim.runtime import Fault, Step

_CALLS = "POST"


@dataclass(slots=True)
class _Armed:
    left: int
    committed: bool
    ends: bool


@dataclass(slots=True)
class _Pause:
    """A process will stand still at its next call to a provider, or after it."""

    seconds: float
    before: bool
    called: bool = False


class Strikes:
    """Is asked at every passage; strikes the process that was armed when its turn has come."""

    def __init__(self) -> None:
        self.struck: Counter[str] = Counter()
        self._armed: dict[str, list[_Armed]] = defaultdict(list)
        self._pauses: dict[str, list[_Pause]] = defaultdict(list)
        self._stall_seconds = 0.0

    def arm(self, process: str, after: int, *, committed: bool, ends: bool) -> None:
        """Strike a process at its passage number `after` from now, before it takes effect or after.

        With `ends` the process dies there; otherwise it loses the connection.
        """
        self._armed[process].append(_Armed(after, committed, ends))

    def pause(self, process: str, seconds: float, *, before: bool) -> None:
        """At its next call to a provider a process stands still, as if it were swapped out.

        Several of these follow each other, one at each call. With `before` the call reaches the
        provider when that is over; otherwise its answer lies there all the time.
        """
        self._pauses[process].append(_Pause(seconds, before))

    def awaits(self, process: str) -> bool:
        """Whether a fault waits for this process."""
        return bool(self._pauses.get(process) or self._armed.get(process))

    def calm(self) -> None:
        """Nothing strikes any more."""
        self._armed.clear()
        self._pauses.clear()

    def at(self, step: Step) -> Fault | None:
        """The fault at this passage, if there is one."""
        pauses = self._pauses.get(step.process)
        pause = pauses[0] if pauses else None
        calls = step.outside and step.text.startswith(_CALLS)
        if pauses and pause is not None and (pause.called or (pause.before and calls)):
            pauses.pop(0)
            self._stall_seconds = pause.seconds
            self.struck["stall"] += 1
            return Fault.STALL
        if pause is not None:
            pause.called = calls
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
        """How long the present one is."""
        return self._stall_seconds
