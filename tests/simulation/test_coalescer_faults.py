"""Merged calls under a random schedule: callers that leave, statements that fail, answers lost.

The database is a dictionary behind random waits; it fails before COMMIT, after COMMIT, and for
commands that nobody can carry out. Whatever the order, every caller that stays is answered with
what became of its own command, no effect happens twice, and nobody pays for a neighbour.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from paymaster.db.coalesce import Coalescer, Failed, halved
from paymaster.kernel.errors import Busy

SEEDS = range(150)


class Unfit(Exception):
    """What the statement raises for a command that cannot be carried out."""


@dataclass(frozen=True)
class Command:
    """`number` is what makes it apply once; a `poisoned` one fails its whole statement."""

    number: int
    poisoned: bool = False
    refused: bool = False


@dataclass
class Store:
    """Effects that are committed, and what went wrong on the way there."""

    rng: random.Random
    batch_limit: int
    in_flight: int
    effects: dict[int, str] = field(default_factory=dict)
    times: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    running: int = 0
    wrong: list[str] = field(default_factory=list)
    """What no batch may be; raised in a batch it would only halve it."""

    async def together(self, commands: Sequence[Command]) -> Sequence[str | Failed]:
        """A transaction that is run again when its end is unknown, as the pool does."""
        if len(commands) > self.batch_limit:
            self.wrong.append(f"{len(commands)} in a batch")
        if len({command.number for command in commands}) < len(commands):
            self.wrong.append("a command twice in a batch")
        self.running += 1
        if self.running > self.in_flight:
            self.wrong.append(f"{self.running} batches at once")
        try:
            for _ in range(3):
                await self._wait()
                fault = self.rng.random()
                if fault < 0.05:
                    self.faults["lost before COMMIT"] += 1
                    continue
                outcomes = self._apply(commands)
                await self._wait()
                if fault < 0.15:
                    self.faults["lost after COMMIT"] += 1
                    continue
                return outcomes
            self.faults["unavailable"] += 1
            raise Busy("database-unavailable", "gone")
        finally:
            self.running -= 1

    def _apply(self, commands: Sequence[Command]) -> list[str | Failed]:
        if self.rng.random() < 0.04:
            self.faults["contention"] += 1
            raise Busy("database-contention", "locked")
        if any(command.poisoned for command in commands):
            self.faults["statement"] += 1
            raise Unfit
        outcomes: list[str | Failed] = []
        for command in commands:
            if command.refused:
                outcomes.append(Failed(Unfit(f"no {command.number}")))
                continue
            if command.number not in self.effects:
                self.times[command.number] += 1
                self.effects[command.number] = f"made {command.number}"
            outcomes.append(self.effects[command.number])
        return outcomes

    async def _wait(self) -> None:
        for _ in range(self.rng.choice([0, 0, 1, 2, 7])):
            await asyncio.sleep(0)


async def caller(
    rng: random.Random, open_one: list[Coalescer[Command, str]], command: Command, told: list[str]
) -> None:
    """Asks until there is an answer, of a process that stops or of the one that is up."""
    while True:
        for _ in range(rng.choice([0, 0, 1, 3, 20])):
            await asyncio.sleep(0)
        try:
            told.append(await rng.choice(open_one).submit(command))
        except Busy as busy:
            told.append(busy.slug)
            continue
        except Unfit:
            told.append("unfit")
        return


async def impatient(
    rng: random.Random, open_one: list[Coalescer[Command, str]], command: Command, told: list[str]
) -> None:
    """Leaves in the middle, once or more often, and comes back with the same command."""
    for _ in range(rng.randint(1, 3)):
        attempt = asyncio.create_task(caller(rng, open_one, command, told))
        for _ in range(rng.randint(0, 12)):
            await asyncio.sleep(0)
        attempt.cancel()
        try:
            await attempt
        except asyncio.CancelledError:
            told.append("left")
    # What it asked for before may still be under way; a copy of it waits for its turn behind.
    await asyncio.sleep(0.01)
    await caller(rng, open_one, command, told)


@pytest.mark.parametrize("seed", SEEDS)
async def test_everybody_is_answered_and_nothing_happens_twice(seed: int) -> None:
    rng = random.Random(seed)
    in_flight = rng.choice([1, 1, 2])
    store = Store(rng, rng.choice([1, 4, 16]), in_flight)
    queue_limit = rng.choice([3, 20, 1000])

    def process() -> Coalescer[Command, str]:
        return Coalescer(
            halved(store.together),
            batch_limit=store.batch_limit,
            queue_limit=queue_limit,
            in_flight=in_flight,
        )

    open_one = [process()]
    commands = [
        Command(number, poisoned=rng.random() < 0.05, refused=rng.random() < 0.05)
        for number in range(rng.choice([1, 5, 60]))
    ]
    told: dict[int, list[str]] = {command.number: [] for command in commands}
    tasks = [
        asyncio.create_task(
            (impatient if rng.random() < 0.2 else caller)(
                rng, open_one, command, told[command.number]
            )
        )
        for command in commands
    ]
    if rng.random() < 0.3:
        for _ in range(rng.randint(0, 60)):
            await asyncio.sleep(0)
        old = open_one[-1]
        closing = asyncio.create_task(old.close())
        await asyncio.sleep(0)
        store.in_flight += in_flight  # the old one may still be at its last batch
        open_one.append(process())
        async with asyncio.timeout(20):
            await closing
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
        await open_one[-1].close()
    for command in commands:
        last = told[command.number][-1]
        unfit = command.poisoned or command.refused
        assert last == ("unfit" if unfit else f"made {command.number}"), told[command.number]
        assert store.times[command.number] == (0 if unfit else 1)
        with pytest.raises(Busy, match="stopping"):
            await open_one[-1].submit(commands[0])
    assert store.wrong == []
    assert store.running == 0
    assert open_one[-1].waiting == 0


async def test_one_after_the_other_without_a_pause() -> None:
    """A caller that was just answered asks again in the same turn of the loop."""
    store = Store(random.Random(1), 4, 1)
    merged: Coalescer[Command, str] = Coalescer(
        halved(store.together), batch_limit=4, queue_limit=8
    )
    async with asyncio.timeout(20):
        answered = 0
        while answered < 200:
            try:
                assert await merged.submit(Command(answered)) == f"made {answered}"
            except Busy:
                continue
            answered += 1
        await merged.close()
    assert store.times.total() == 200
