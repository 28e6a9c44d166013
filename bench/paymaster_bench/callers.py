"""The callers of a world, told by the suite to work at the same time."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from paymaster_bench.caller import History, Spec
from paymaster_bench.measure import Sample
from paymaster_bench.processes import Worker, start_workers
from paymaster_bench.workload import Shape

_FIRST_GUESS = 60_000.0
"""Postings a second, until a slice has shown more or fewer."""


class Callers:
    """Processes that post together."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._rates: dict[Shape, float] = {}

    def ask(self, *order: object) -> list[Any]:
        """Tell all the same at once; their answers."""
        return self.ask_each([order] * len(self._workers))

    def ask_each(self, orders: Sequence[tuple[object, ...]]) -> list[Any]:
        """Tell each its own at once; their answers."""
        for worker, order in zip(self._workers, orders, strict=True):
            worker.send(order)
        return [worker.receive() for worker in self._workers]

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self._workers)

    def post(self, shape: Shape, seconds: float) -> Sample:
        """Build batches, then post for so long."""
        rate = self._rates.get(shape, _FIRST_GUESS)
        wanted = int(rate * seconds * 1.6 / self.count / shape.batch) + 4
        self.ask("prepare", shape, wanted)
        sample = together(self.ask("post", shape, seconds))
        self._rates[shape] = sample.rate
        return sample

    def histories(self) -> list[History]:
        """What each has posted so far."""
        return self.ask("history")


def together(samples: Sequence[Sample]) -> Sample:
    """What several did at the same time, as one sample."""
    return Sample(
        sum(sample.count for sample in samples),
        sum(sample.rate for sample in samples),
        [latency for sample in samples for latency in sample.latencies],
    )


@contextmanager
def start_callers(specs: Sequence[Spec]) -> Generator[Callers]:
    """Start a process for each, and end them."""
    with start_workers("paymaster_bench.caller:main", specs) as workers:
        yield Callers(workers)
