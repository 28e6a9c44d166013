"""Merging concurrent calls: what batches look like, who fails, who waits, who is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db import coalesce, inbox
from paymaster.db.coalesce import BATCH_SIZED, Coalescer, Failed, halved, in_cell
from paymaster.db.inbox import Incoming
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Broken, Busy, Conflict, PaymasterError
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.kernel.ids import new_trace_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, connections=8) as made:
        yield made


def slugs(found: Sequence[object]) -> list[str]:
    """All of them are errors of ours, with these slugs."""
    return [one.slug for one in found if isinstance(one, PaymasterError)]


class Recorder:
    """A `run` that notes its batches and can be held up, or made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None

    async def __call__(self, commands: Sequence[int]) -> list[int | Failed]:
        self.batches.append(list(commands))
        await self.free.wait()
        if self.error is not None:
            raise self.error
        return [10 * command for command in commands]

    def merging(self, **limits: Any) -> Coalescer[int, int]:
        return Coalescer(self, **{"batch_limit": 100, "queue_limit": 100, **limits})


async def submit_all(merging: Coalescer[int, int], numbers: Sequence[int]) -> list[asyncio.Task]:
    tasks = [asyncio.ensure_future(merging.submit(n)) for n in numbers]
    await asyncio.sleep(0.01)
    return tasks


# ------------------------------------------------------------------------------------ in memory


async def test_in_turns_a_batch_leaves_half_of_the_callers_to_the_next():
    run = Recorder()
    merging = run.merging(in_turns=True)
    assert await asyncio.gather(*(merging.submit(n) for n in range(40))) == list(range(0, 400, 10))
    assert await asyncio.gather(*(merging.submit(n) for n in range(8))) == list(range(0, 80, 10))
    assert [number for batch in run.batches for number in batch] == [*range(40), *range(8)]
    assert [len(batch) for batch in run.batches] == [20, 20, 8]


async def test_calls_that_come_turn_by_turn_are_one_batch():
    run = Recorder()
    merging = run.merging()

    async def caller(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await merging.submit(turns)

    assert await asyncio.gather(*(caller(n) for n in range(5))) == [0, 10, 20, 30, 40]
    assert run.batches == [[0, 1, 2, 3, 4]]


async def test_the_next_batch_is_what_queued_while_the_last_ran():
    run = Recorder()
    merging = run.merging(batch_limit=3)
    run.free.clear()
    first = await submit_all(merging, [1])
    rest = await submit_all(merging, [2, 3, 4, 5])
    assert merging.waiting == 4
    run.free.set()
    assert await asyncio.gather(*first, *rest) == [10, 20, 30, 40, 50]
    assert run.batches == [[1], [2, 3, 4], [5]]


async def test_a_call_alone_runs_at_once_and_again_and_again():
    run = Recorder()
    merging = run.merging()
    assert [await merging.submit(n) for n in range(50)] == [10 * n for n in range(50)]
    assert run.batches == [[n] for n in range(50)]


async def test_two_batches_may_be_in_flight():
    run = Recorder()
    merging = run.merging(batch_limit=1, in_flight=2)
    run.free.clear()
    tasks = await submit_all(merging, [1, 2, 3])
    assert run.batches == [[1], [2]]
    run.free.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30]


async def test_a_full_queue_says_when_to_come_again():
    run = Recorder()
    merging = run.merging(queue_limit=2)
    run.free.clear()
    tasks = await submit_all(merging, [1])
    tasks += await submit_all(merging, [2, 3])
    with pytest.raises(Busy) as refused:
        await merging.submit(4)
    assert (refused.value.slug, refused.value.retry_after_seconds) == ("queue-full", 1)
    run.free.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30]
    assert await merging.submit(4) == 40


async def test_a_caller_that_goes_away_takes_nobody_with_it():
    run = Recorder()
    merging = run.merging()
    run.free.clear()
    gone, stays = await submit_all(merging, [1, 2])
    waits, left = await submit_all(merging, [3, 4])
    gone.cancel()
    waits.cancel()
    await asyncio.sleep(0)
    run.free.set()
    assert await asyncio.gather(stays, left) == [20, 40]
    # The first was being carried out and was; the third had not begun.
    assert run.batches == [[1, 2], [4]]


async def test_what_fails_as_a_whole_is_told_to_each_and_the_next_batch_runs():
    run = Recorder()
    merging = run.merging()
    run.error = Busy("database-unavailable", "x")
    tasks = await submit_all(merging, [1, 2])
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert slugs(found) == ["database-unavailable"] * 2
    run.error = None
    assert await merging.submit(3) == 30


async def test_outcomes_that_do_not_fit_are_nobodys():
    async def short(commands: Sequence[int]) -> list[int | Failed]:
        return [1]

    merging: Coalescer[int, int] = Coalescer(short, batch_limit=5, queue_limit=5)
    tasks = await submit_all(merging, [1, 2])
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert slugs(found) == ["batch-outcomes"] * 2


async def test_closing_answers_what_waits_and_takes_no_more():
    run = Recorder()
    merging = run.merging(batch_limit=1)
    run.free.clear()
    tasks = await submit_all(merging, [1, 2, 3])
    closing = asyncio.ensure_future(merging.close())
    await asyncio.sleep(0.01)
    with pytest.raises(Busy) as refused:
        await merging.submit(4)
    assert refused.value.slug == "stopping"
    run.free.set()
    await closing
    assert [task.result() for task in tasks] == [10, 20, 30]


async def test_closing_does_not_try_the_rest_when_a_batch_failed():
    run = Recorder()
    merging = run.merging(batch_limit=1)
    run.free.clear()
    tasks = await submit_all(merging, [1, 2, 3])
    closing = asyncio.ensure_future(merging.close())
    await asyncio.sleep(0.01)
    run.error = Busy("database-unavailable", "x")
    run.free.set()
    await closing
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert slugs(found) == ["database-unavailable", "stopping", "stopping"]
    assert run.batches == [[1]]


async def test_no_merged_call_from_inside_a_transaction():
    token = TRANSACTION_OPEN.set(True)
    try:
        with pytest.raises(Broken, match="transaction-nested"):
            await Recorder().merging().submit(1)
    finally:
        TRANSACTION_OPEN.reset(token)


async def test_a_batch_does_not_run_in_a_callers_context():
    seen: list[bool] = []

    async def run(commands: Sequence[int]) -> list[int | Failed]:
        seen.append(TRANSACTION_OPEN.get())
        return list(commands)

    merging: Coalescer[int, int] = Coalescer(run, batch_limit=5, queue_limit=5)
    waiting = asyncio.ensure_future(merging.submit(1))
    await asyncio.sleep(0)
    token = TRANSACTION_OPEN.set(True)
    TRANSACTION_OPEN.reset(token)
    assert (await waiting, seen) == (1, [False])


# --------------------------------------------------------------------------------------- halving


async def test_halving_leaves_the_poisoned_command_alone():
    batches: list[list[int]] = []

    async def together(commands: Sequence[int]) -> list[int | Failed]:
        batches.append(list(commands))
        if 5 in commands:
            raise psycopg.DataError("bad")
        return list(commands)

    outcomes = await halved(together)(range(8))
    assert [o for o in outcomes if not isinstance(o, Failed)] == [0, 1, 2, 3, 4, 6, 7]
    assert isinstance(outcomes[5], Failed)
    assert isinstance(outcomes[5].error, psycopg.DataError)
    assert batches == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]


async def test_nothing_is_halved_when_the_database_is_away():
    tries = 0

    async def together(commands: Sequence[int]) -> list[int | Failed]:
        nonlocal tries
        tries += 1
        raise Busy("database-unavailable", "x")

    outcomes = await halved(together)(range(8))
    assert tries == 1
    assert all(isinstance(one, Failed) and isinstance(one.error, Busy) for one in outcomes)


async def test_locks_that_nobody_frees_do_not_hold_a_batch_up_for_ever():
    tries = 0

    async def together(commands: Sequence[int]) -> list[int | Failed]:
        nonlocal tries
        tries += 1
        raise Busy("database-contention", "x")

    outcomes = await halved(together)(range(512))
    assert len(outcomes) == 512
    assert tries < 2 * coalesce.LOCK_FAULTS + 12


# -------------------------------------------------------------------------------- on a database


async def insert(tx: CellTx, names: Sequence[str]) -> list[str | Failed]:
    """A use case: rows of `cursor`, of which `bad` is refused by the database."""
    await tx.execute(
        "INSERT INTO cursor (name, seq) SELECT n, CASE WHEN n LIKE 'bad%%' THEN NULL ELSE 1 END"
        " FROM unnest(%s::text[]) AS n",
        (list(names),),
    )
    return list(names)


def names_like(world: World, pattern: str) -> list[str]:
    rows = owner_rows(world, "SELECT name FROM cursor WHERE name LIKE %s ORDER BY name", pattern)
    return [row[0] for row in rows]


async def test_one_bad_row_does_not_stop_its_neighbours(world: World):
    merging = Coalescer(in_cell(world.cell, ACTOR, insert), batch_limit=100, queue_limit=100)
    names = [f"a{n}" for n in range(20)] + ["bad-a"] + [f"b{n}" for n in range(20)]
    found = await asyncio.gather(*(merging.submit(n) for n in names), return_exceptions=True)
    assert isinstance(found[20], psycopg.IntegrityError)
    assert found[:20] + found[21:] == names[:20] + names[21:]
    assert len(names_like(world, "a%")) == 20
    assert len(names_like(world, "b%")) == 20


async def test_a_locked_row_holds_up_its_own_command_only(world: World):
    """Another transaction has written the same name and does not end."""
    name = "locked"
    inside, finish = asyncio.Event(), asyncio.Event()

    async def holding(tx: CellTx) -> None:
        await insert(tx, [name])
        inside.set()
        await finish.wait()

    holder = asyncio.ensure_future(world.run(holding))
    await inside.wait()
    merging = Coalescer(in_cell(world.cell, ACTOR, insert), batch_limit=100, queue_limit=100)
    found = await asyncio.gather(
        *(merging.submit(n) for n in ("c1", name, "c2")), return_exceptions=True
    )
    finish.set()
    await holder
    assert (found[0], found[2]) == ("c1", "c2")
    assert isinstance(found[1], Busy)
    assert found[1].slug == "database-contention"


async def test_a_large_batch_takes_a_permit(world: World):
    held: list[int] = []

    async def count(tx: CellTx, names: Sequence[int]) -> list[int | Failed]:
        await tx.value("SELECT 1")  # what was sent before is carried out
        with psycopg.connect(world.owner_dsn, autocommit=True) as other:
            free = other.execute("SELECT count(*) FROM cell_1.permit").fetchone()
            rows = other.execute(
                "SELECT number FROM cell_1.permit FOR UPDATE SKIP LOCKED"
            ).fetchall()
        assert free is not None
        held.append(free[0] - len(rows))
        return list(names)

    run = in_cell(world.cell, ACTOR, count)
    await run(range(BATCH_SIZED))
    await run(range(BATCH_SIZED - 1))
    assert held == [1, 0]


async def test_a_conflict_that_a_use_case_raises_is_one_commands(world: World):
    async def picky(tx: CellTx, names: Sequence[int]) -> list[int | Failed]:
        if 3 in names:
            raise Conflict("in-progress", "x")
        return list(names)

    outcomes = await in_cell(world.cell, ACTOR, picky)(range(6))
    assert [isinstance(one, Failed) for one in outcomes] == [n == 3 for n in range(6)]


def message(source: str, name: str) -> Incoming:
    return Incoming(source, name, "notice", {"name": name}, None, new_trace_id())


async def test_webhooks_that_arrive_together_are_kept_once(world: World):
    """Each caller is told how many of its messages were new; the first to bring one counts."""
    calls: Coalescer[Sequence[Incoming], int] = Coalescer(
        in_cell(world.cell, ACTOR, inbox.receive_each), batch_limit=100, queue_limit=100
    )
    groups = [
        [message("w", "1"), message("w", "2"), message("w", "1")],
        [message("w", "2"), message("w", "3")],
        [],
        [message("other", "1"), message("w", "3")],
    ]
    assert await asyncio.gather(*(calls.submit(group) for group in groups)) == [2, 1, 0, 1]
    assert await asyncio.gather(*(calls.submit(group) for group in groups)) == [0, 0, 0, 0]
    rows = owner_rows(world, "SELECT source, message_id, trace_id FROM inbox ORDER BY 1, 2")
    kept = [groups[3][0], groups[0][0], groups[0][1], groups[1][1]]
    assert rows == [(one.source, one.message_id, one.trace_id) for one in kept]


async def test_a_webhook_that_cannot_be_stored_fails_alone(world: World):
    calls: Coalescer[Sequence[Incoming], int] = Coalescer(
        in_cell(world.cell, ACTOR, inbox.receive_each), batch_limit=100, queue_limit=100
    )
    groups = [[message("x", "1")], [message("x", "bad\0name")], [message("x", "3")]]
    found = await asyncio.gather(*(calls.submit(g) for g in groups), return_exceptions=True)
    assert (found[0], found[2]) == (1, 1)
    assert isinstance(found[1], psycopg.DataError)
