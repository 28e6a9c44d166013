"""Faults that strike at the turnstile, drawn from the seed or replayed from a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import NamedTuple, Protocol


class Fault(StrEnum):
    """What can happen to a passage."""

    CRASH_BEFORE = "crash-before"
    CRASH_AFTER = "crash-after"
    LOST_BEFORE = "lost-before"
    LOST_AFTER = "lost-after"
    STALL = "stall"
    """The process reaches neither a database nor the outside for `Faults.stall_seconds`."""


class Step(NamedTuple):
    """A passage whose turn it is. `number` counts all passages of the simulation."""

    number: int
    seconds: float
    process: str
    task: str
    text: str
    commits: bool
    outside: bool


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault and where it struck."""

    fault: Fault
    step: Step


class Faults(Protocol):
    """Decides which passage is struck."""

    def at(self, step: Step) -> Fault | None:
        """What happens at this one, if something does."""
        ...

    def stall_seconds(self) -> float:
        """How long a stall is."""
        ...


@dataclass(frozen=True, slots=True)
class Rates:
    """How likely each fault is at one passage.

    One that commits, and one that goes outside, is `focus` times as likely to be struck: there the
    outcome is what matters.
    """

    crash_before: float = 0.0
    crash_after: float = 0.0
    lost_before: float = 0.0
    lost_after: float = 0.0
    stall: float = 0.0
    focus: float = 5.0

    def of(self, step: Step) -> list[tuple[Fault, float]]:
        """The likelihood of each fault at this step."""
        times = self.focus if step.commits or step.outside else 1.0
        lost = 0.0 if step.outside else times
        return [
            (Fault.CRASH_BEFORE, self.crash_before * times),
            (Fault.CRASH_AFTER, self.crash_after * times),
            (Fault.LOST_BEFORE, self.lost_before * lost),
            (Fault.LOST_AFTER, self.lost_after * lost),
            (Fault.STALL, self.stall),
        ]


@dataclass(slots=True)
class RandomFaults:
    """Draws faults; none while `quiet`. `struck` says what struck where."""

    random: Random
    rates: Rates = field(default_factory=Rates)
    quiet: bool = False
    longest_stall_seconds: float = 120.0
    struck: list[Struck] = field(default_factory=list[Struck])

    def at(self, step: Step) -> Fault | None:
        """One number is drawn at every step, so that a rate moves no later step's draw."""
        drawn = self.random.random()
        if self.quiet:
            return None
        for fault, likelihood in self.rates.of(step):
            if drawn < likelihood:
                self.struck.append(Struck(fault, step))
                return fault
            drawn -= likelihood
        return None

    def stall_seconds(self) -> float:
        """Between nothing and `longest_stall_seconds`."""
        return self.random.random() * self.longest_stall_seconds


@dataclass(slots=True)
class ScriptedFaults:
    """Strikes at the steps that are named, for replays and for making a script shorter."""

    script: Mapping[int, Fault]
    stall_for_seconds: float = 60.0
    struck: list[Struck] = field(default_factory=list[Struck])

    def at(self, step: Step) -> Fault | None:
        """What the script says."""
        fault = self.script.get(step.number)
        if fault is not None:
            self.struck.append(Struck(fault, step))
        return fault

    def stall_seconds(self) -> float:
        """Always the same."""
        return self.stall_for_seconds


class NoFaults:
    """Nothing ever happens."""

    def at(self, step: Step) -> Fault | None:  # noqa: ARG002 - as all do
        """Nothing."""
        return None

    def stall_seconds(self) -> float:
        """Nothing stalls."""
        return 0.0
