"""`post`, `reserve` and `settle` against a plain model of the books, in random batches.

Every verdict, every amount and every stored row must be the model's: one after the other, and with
several connections at once, where the model replays the order in which they were committed. A
failure prints its seed; PAYMASTER_SEED repeats it. What fails one after the other is made smaller
first.
"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partialmethod
from typing import Any, LiteralString

import psycopg
import pytest
from tests.books_play import VERBS, Play, Verb, Verbs, Wrong
from tests.books_script import Step, Transaction, Writer, told
from tests.world import PostgresServer, World, make_world

from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.ledger import accounts, proof
from paymaster.ledger import post as posting
from paymaster.ledger import write as writing
from paymaster.ledger.entry import Entry, Mode, Posted, Verdict

SEED = int(os.environ.get("PAYMASTER_SEED", "20261121"))
SCRIPT = 50
"""Batches in one script."""
WORLD = 500
"""Batches in one database: the clock stays within its partitions."""


def write(seed: str, number: int, *, shared: bool = False) -> list[Step]:
    """Every third script is about many users and large batches, and has fewer of them."""
    wide = number % 3 == 1
    writer = Writer(random.Random(seed), shared=shared, wide=wide)
    return writer.script(SCRIPT // 3 if wide else SCRIPT)


async def attempt(world: World, steps: Sequence[Step], verbs: Verbs) -> tuple[Play, str | None]:
    """Play a script; what went wrong, or None."""
    play = Play(world, dict(verbs))
    try:
        await play.play(steps)
    except (AssertionError, psycopg.Error, LookupError) as error:
        return play, f"{type(error).__name__}: {error}"
    return play, None


async def smaller(world: World, steps: Sequence[Step], verbs: Verbs) -> list[Step]:
    """The script without all that is not needed for it to go wrong."""

    async def fails(candidate: list[Step]) -> bool:
        return (await attempt(world, candidate, verbs))[1] is not None

    kept = await without(list(steps), fails)
    for place, step in enumerate(kept):
        if isinstance(step, Transaction):
            for number in range(len(step.calls)):

                async def still(
                    commands: list[Any],
                    at: tuple[list[Step], int, int] = (kept, place, number),
                ) -> bool:
                    return await fails(with_commands(*at, commands))

                same = kept[place]
                assert isinstance(same, Transaction)
                left = await without(list(same.calls[number].commands), still)
                kept = with_commands(kept, place, number, left)
    return await without(kept, fails)


async def without(items: list[Any], fails: Callable[[list[Any]], Awaitable[bool]]) -> list[Any]:
    """Leave out pieces, large ones first, as long as it still fails."""
    size = max(1, len(items) // 2)
    while True:
        place = 0
        while place < len(items):
            candidate = items[:place] + items[place + size :]
            if candidate and await fails(candidate):
                items = candidate
            else:
                place += size
        if size == 1:
            return items
        size //= 2


def with_commands(steps: list[Step], place: int, number: int, commands: list[Any]) -> list[Step]:
    step = steps[place]
    assert isinstance(step, Transaction)
    calls = list(step.calls)
    calls[number] = type(calls[number])(calls[number].verb, tuple(commands))
    return [*steps[:place], replace(step, calls=tuple(calls)), *steps[place + 1 :]]


async def one_after_the_other(
    postgres: PostgresServer, batches: int, verbs: Verbs = VERBS
) -> Counter[str]:
    counted: Counter[str] = Counter()
    number = done = 0
    while done < batches:
        async with make_world(postgres, moves=[]) as world:
            until = min(batches, done + WORLD)
            while done < until:
                seed, number = f"{SEED}/{number}", number + 1
                steps = write(seed, number)
                play, wrong = await attempt(world, steps, verbs)
                if wrong is not None:
                    few = await smaller(world, steps, verbs)
                    wrong = (await attempt(world, few, verbs))[1] or wrong
                    raise Wrong(f"script {seed} (PAYMASTER_SEED={SEED}):\n{told(few)}\n{wrong}")
                counted += play.counted
                done += play.batches
            assert await world.read(proof.prove) == []
    counted["batches"] = done
    return counted


async def at_once(postgres: PostgresServer, batches: int, workers: int) -> Counter[str]:
    counted: Counter[str] = Counter()
    number = done = 0
    while done < batches:
        async with make_world(postgres, moves=[], connections=workers) as world:
            until = min(batches, done + WORLD)
            while done < until:
                seed, number = f"{SEED}/at-once/{number}", number + 1
                play = Play(world)
                try:
                    rng = random.Random(seed)
                    await play.play_at_once(write(seed, number, shared=True), workers, rng)
                except (AssertionError, psycopg.Error) as error:
                    raise Wrong(f"script {seed} (PAYMASTER_SEED={SEED}): {error}") from error
                counted += play.counted
                done += play.batches
            assert await world.read(proof.prove) == []
    counted["batches"] = done
    return counted


async def test_batches_one_after_the_other_equal_the_model(postgres: PostgresServer) -> None:
    counted = await one_after_the_other(postgres, 250)
    assert set(counted) >= set(Verdict), set(Verdict) - set(counted)


async def test_batches_at_once_equal_the_model_in_the_order_of_commits(
    postgres: PostgresServer,
) -> None:
    counted = await at_once(postgres, 150, workers=6)
    assert set(counted) >= {"posted", "duplicate", "insufficient", "hold", "closed"}


@pytest.mark.parametrize("merged", [False, True])
async def test_batches_written_while_they_are_decided_equal_the_model(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, *, merged: bool
) -> None:
    """Nearly every batch counts as a large one here, whatever is refused in it or known before."""
    written: list[int] = []
    write_ahead, run = posting.write_ahead, CellDb.run

    async def watched(tx: CellTx, *rest: Any) -> Any:
        assert tx.sent == merged
        written.append(1)
        return await write_ahead(tx, *rest)

    monkeypatch.setattr(posting, "write_ahead", watched)
    monkeypatch.setattr(posting, "_LARGE", 1)
    for module, name in ((accounts, "_MANY"), (writing, "_MANY"), (writing, "_MANY_SENT")):
        monkeypatch.setattr(module, name, 2)
    monkeypatch.setattr(CellDb, "run", partialmethod(run, merged=merged))
    await one_after_the_other(postgres, 150)
    alone = len(written)
    await at_once(postgres, 100, workers=6)
    assert alone >= 20
    assert len(written) - alone >= 10
    assert gc.isenabled(), "the collector is there again"


def _other_order(verb: str) -> Verb:
    async def wrong(tx: CellTx, commands: Sequence[Any]) -> list[Posted]:
        links = {place: _entry(c).link or "" for place, c in enumerate(commands)}
        order = sorted(links, key=lambda place: (links[place], -place))
        answers = await VERBS[verb](tx, [commands[place] for place in order])
        return [answers[order.index(place)] for place in range(len(commands))]

    return wrong


def _changed(verb: str, change: Callable[[Entry], Entry]) -> Verb:
    async def wrong(tx: CellTx, commands: Sequence[Any]) -> list[Posted]:
        return await VERBS[verb](
            tx,
            [
                change(c) if isinstance(c, Entry) else replace(c, entry=change(c.entry))
                for c in commands
            ],
        )

    return wrong


def _told_wrong(verb: str, change: Callable[[Posted], Posted]) -> Verb:
    async def wrong(tx: CellTx, commands: Sequence[Any]) -> list[Posted]:
        return [change(posted) for posted in await VERBS[verb](tx, commands)]

    return wrong


def _then(verb: str, statement: LiteralString) -> Verb:
    async def wrong(tx: CellTx, commands: Sequence[Any]) -> list[Posted]:
        answers = await VERBS[verb](tx, commands)
        await tx.execute(statement)
        return answers

    return wrong


def _entry(command: Any) -> Entry:
    return command if isinstance(command, Entry) else command.entry


def _exactly(entry: Entry) -> Entry:
    exact = tuple(replace(p, mode=Mode.EXACT) for p in entry.postings)
    return replace(entry, postings=exact)


def _backwards(entry: Entry) -> Entry:
    return replace(entry, postings=entry.postings[::-1])


def _as_copy(posted: Posted) -> Posted:
    conflict = posted.verdict is Verdict.CONFLICT
    return Posted(posted.entry_id, Verdict.DUPLICATE) if conflict else posted


NEWEST = "(SELECT id FROM {} ORDER BY id DESC LIMIT 1)"
FAULTS: dict[str, dict[str, Verb]] = {
    "decides in another order": {"post": _other_order("post")},
    "forgets links": {"post": _changed("post", lambda e: replace(e, link=None))},
    "moves all or nothing": {"post": _changed("post", _exactly)},
    "turns postings about": {"post": _changed("post", _backwards)},
    "forgets when": {"post": _changed("post", lambda e: replace(e, effective_at=None))},
    "takes another content for a copy": {"post": _told_wrong("post", _as_copy)},
    "says less than it moved": {
        "post": _told_wrong("post", lambda p: Posted(p.entry_id, p.verdict, p.moved[:1]))
    },
    "loses the end of a history": {
        "post": _then(
            "post", f"UPDATE account SET last_posting_id = 1 WHERE id = {NEWEST.format('account')}"
        )
    },
    "loses the count of a history": {
        "post": _then(
            "post", f"UPDATE account SET postings = 1 WHERE id = {NEWEST.format('account')}"
        )
    },
    "ends every hold alike": {
        "settle": _then("settle", "UPDATE hold SET state = 'released' WHERE state = 'captured'")
    },
    "does not count what was captured": {
        "settle": _then(
            "settle",
            "UPDATE hold SET remaining = amount WHERE state = 'open' AND remaining < amount",
        )
    },
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_ledger_that_does_this_is_found_out(postgres: PostgresServer, fault: str) -> None:
    async with make_world(postgres, moves=[]) as world:
        for number in range(6):
            _, wrong = await attempt(
                world, write(f"fault/{number}", number), {**VERBS, **FAULTS[fault]}
            )
            if wrong is not None:
                return
    raise AssertionError("nobody noticed")


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_ten_thousand_batches_equal_the_model(postgres: PostgresServer) -> None:
    alone = await one_after_the_other(postgres, 6500)
    together = await at_once(postgres, 3500, workers=6)
    assert alone["batches"] + together["batches"] >= 10_000
    assert min(alone[verdict] for verdict in Verdict) >= 50, alone
