"""Measuring: contestants take turns in slices, and what counts is the median slice.

A machine is never quiet. Two things compared are therefore measured in the same run, slice by
slice in turn, so that whatever disturbs one disturbs the other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice: `count` things done at `rate` a second; latencies of single calls in seconds."""

    count: int
    rate: float
    latencies: Sequence[float] = ()


Slice = Callable[[float], Awaitable[Sample]]
"""Works for about so many seconds."""


@dataclass(slots=True)
class Series:
    """All slices of one contestant."""

    samples: list[Sample] = field(default_factory=list[Sample])

    @property
    def rate(self) -> float:
        """The median slice's rate, a second; 0 when nothing was done."""
        return statistics.median(s.rate for s in self.samples) if self.samples else 0.0

    @property
    def count(self) -> int:
        """Things done in all slices."""
        return sum(sample.count for sample in self.samples)

    def quantile_ms(self, share: float) -> float:
        """The median, over slices, of a quantile of the latencies, in milliseconds."""
        found = [quantile(s.latencies, share) for s in self.samples if s.latencies]
        return statistics.median(found) * 1000 if found else 0.0

    @property
    def spread(self) -> float:
        """Half the distance of the slowest from the fastest slice, as a share of the median."""
        rates = [sample.rate for sample in self.samples]
        return (max(rates) - min(rates)) / 2 / self.rate if self.rate else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0.0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def in_turn(
    contestants: Mapping[str, Slice], rounds: int, seconds: float, *, warm_up: float | None = None
) -> dict[str, Series]:
    """Every contestant once a round, in order; a first, shorter round does not count."""
    for work in contestants.values():
        await work(seconds / 2 if warm_up is None else warm_up)
    found = {name: Series() for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            found[name].samples.append(await work(seconds))
    return found


def now_seconds() -> float:
    """For durations only."""
    return time.perf_counter()
