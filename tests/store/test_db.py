"""Order of commits, callers' keys, messages once, leases and worker numbers: the ground."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

import psycopg
import pytest
from tests.world import ACTOR, START, PostgresServer, World, make_world

from paymaster.db import audit, idempotency, inbox, lease, outbox
from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.kernel.clock import ManualClock
from paymaster.kernel.errors import Broken, Busy, Conflict, Refusal, Unprocessable
from paymaster.kernel.guard import forbid_network

TRACE = "0" * 32


@pytest.fixture
async def world(postgres: PostgresServer):
    async with make_world(postgres, moves=[]) as made:
        yield made


async def test_a_database_that_is_older_than_the_code_is_told(postgres: PostgresServer) -> None:
    postgres.create_database("t_before_migrations")
    dsn = postgres.app_dsn("t_before_migrations")
    dbs = Databases({"main": dsn}, ManualClock(START), connections=1)
    try:
        with pytest.raises(Refusal, match="schema-behind"):
            await dbs.open()
    finally:
        await dbs.close()
        postgres.drop_database("t_before_migrations")


async def test_seq_is_gapless_and_in_order_of_commit_under_concurrency(world: World) -> None:
    async def write(n: int) -> None:
        async def work(tx):
            await audit.record(tx, [audit.Act("test", f"s{n}")] * (n % 3 + 1))
            await outbox.put(tx, [outbox.Message("t", f"k{n}", {"n": n})])
            if n % 5 == 0:
                raise Conflict("test", "rolled back")

        if n % 5 == 0:
            with pytest.raises(Conflict):
                await world.run(work)
        else:
            await world.run(work)

    await asyncio.gather(*(write(n) for n in range(40)))
    rows = await world.read(
        lambda tx: tx.tuples("SELECT first_seq, last_seq FROM commit ORDER BY last_seq")
    )
    assert len(rows) == 32
    assert rows[0][0] == 1
    assert all(a[1] + 1 == b[0] for a, b in pairwise(rows))
    seq, found, seen = 0, [], 0
    while True:
        reached, messages = await world.read(lambda tx, seq=seq: outbox.after(tx, seq, 7))
        if reached == seq:
            break
        seq, seen = reached, seen + 1
        found += messages
    assert seen == 5
    assert [m.seq for m in found] == sorted(m.seq for m in found)
    assert {m.payload["n"] for m in found} == {n for n in range(40) if n % 5}


async def test_concurrent_first_uses_of_a_key_make_one_effect_and_one_answer(world: World) -> None:
    key = idempotency.Key.of(7, "POST /x", "same", b"body")
    effects: list[int] = []

    async def request(n: int) -> bytes:
        async def work(tx):
            stored = await idempotency.begin(tx, key)
            if stored is not None:
                return stored.answer
            await asyncio.sleep(0.05)
            answer = idempotency.Answer(202, f"answer {n}".encode())
            await idempotency.finish(tx, key, answer)
            return answer.answer

        answer = await world.run(work)
        effects.append(n)
        return answer

    answers = await asyncio.gather(*(request(n) for n in range(6)))
    assert len(set(answers)) == 1
    other = idempotency.Key.of(7, "POST /x", "same", b"other body")
    with pytest.raises(Unprocessable, match="idempotency-key-reused"):
        await world.run(lambda tx: idempotency.begin(tx, other))
    for unlike in (
        idempotency.Key.of(8, "POST /x", "same", b"other body"),
        idempotency.Key.of(7, "POST /y", "same", b"other body"),
    ):
        assert await world.run(lambda tx, k=unlike: idempotency.begin(tx, k)) is None


async def test_a_rolled_back_request_leaves_its_key_free(world: World) -> None:
    key = idempotency.Key.of(1, "r", "k", b"b")

    async def fails(tx):
        await idempotency.begin(tx, key)
        raise Busy("test", "try again")

    with pytest.raises(Busy):
        await world.run(fails)
    assert await world.run(lambda tx: idempotency.begin(tx, key)) is None


async def test_once_runs_once_and_tells_the_others_the_result(world: World) -> None:
    message = inbox.Incoming("cell:2", "17", "line.book", {"a": 1}, None, TRACE)
    ran: list[int] = []

    async def deliver(n: int):
        async def work(tx):
            known = await inbox.once(tx, message)
            if known is not None:
                return known
            ran.append(n)
            await asyncio.sleep(0.02)
            await inbox.done(tx, message.source, message.message_id, {"by": n})
            return {"by": n}

        return await world.run(work)

    results = await asyncio.gather(*(deliver(n) for n in range(5)))
    assert len(ran) == 1
    assert {result["by"] for result in results} == set(ran)


async def test_a_claimed_message_comes_back_when_its_lease_ends_and_the_old_holder_is_fenced(
    world: World,
) -> None:
    message = inbox.Incoming("webhook:wallet", "ev_1", "notice", None, b"sealed", TRACE)
    assert await world.run(lambda tx: inbox.receive(tx, [message, message])) == 1
    assert await world.run(lambda tx: inbox.receive(tx, [message])) == 0

    async def claim(tx):
        return await inbox.claim(tx, "notice", 10, tx.now + timedelta(seconds=30))

    (first,) = await world.run(claim)
    assert await world.run(claim) == []
    world.clock.advance(timedelta(seconds=31))
    (second,) = await world.run(claim)
    assert second.tries == 2
    late = await world.run(
        lambda tx: inbox.done(tx, first.source, first.message_id, {}, first.lease_token)
    )
    assert late is False
    assert await world.run(
        lambda tx: inbox.done(tx, second.source, second.message_id, {}, second.lease_token)
    )


async def test_a_leader_stopped_past_its_expiry_cannot_write(world: World) -> None:
    length = timedelta(seconds=10)
    mine = await world.run(lambda tx: lease.acquire(tx, "relay", length, None))
    assert mine is not None
    assert await world.run(lambda tx: lease.acquire(tx, "relay", length, None)) is None
    kept = await world.run(lambda tx: lease.acquire(tx, "relay", length, mine))
    assert kept is not None
    assert kept.token == mine.token
    world.clock.advance(timedelta(seconds=11))
    theirs = await world.run(lambda tx: lease.acquire(tx, "relay", length, None))
    assert theirs is not None
    assert theirs.token != mine.token
    with pytest.raises(Conflict, match="lease-lost"):
        await world.run(lambda tx: lease.still_held(tx, mine))
    await world.run(lambda tx: lease.still_held(tx, theirs))


async def test_two_processes_never_make_the_same_id_even_past_a_lost_lease(world: World) -> None:
    first = world.cell
    second = CellDb(first.server, first.name, world.clock, first.number, first.time_zone)

    async def ids(db: CellDb) -> list[int]:
        async def work(tx):
            return tx.ids(500)

        return await db.run(ACTOR, TRACE, work)

    seen = await ids(first) + await ids(second)
    paused = await first.workers.maker()
    world.clock.advance(timedelta(minutes=5))
    third = CellDb(first.server, first.name, world.clock, first.number, first.time_zone)
    for _ in range(3):
        seen += await ids(third) + await ids(second)
    with pytest.raises(Broken, match="id-lease"):
        paused(1)
    seen += await ids(first)
    assert len(seen) == len(set(seen))


async def test_processes_that_lease_at_once_get_numbers_of_their_own_while_there_are_any(
    world: World,
) -> None:
    one = world.cell

    def process() -> CellDb:
        return CellDb(one.server, one.name, world.clock, one.number, one.time_zone)

    async def worker(db: CellDb) -> int:
        return (await db.workers.maker())(1)[0] >> 16 & 63

    holders = [process() for _ in range(63)]
    numbers = await asyncio.gather(*(worker(db) for db in (one, *holders)))
    assert sorted(numbers) == list(range(64))
    with pytest.raises(Busy, match="workers-exhausted"):
        await process().workers.maker()
    world.clock.advance(timedelta(seconds=30))
    assert await worker(one) == numbers[0]
    world.clock.advance(timedelta(seconds=45))
    assert await worker(one) == numbers[0]
    assert await worker(process()) in numbers[1:]


async def test_no_transaction_inside_another_and_no_network_inside_one(world: World) -> None:
    async def nested(tx):
        await world.read(lambda inner: inner.value("SELECT 1"))

    with pytest.raises(Broken, match="transaction-nested"):
        await world.run(nested)

    async def calls_out(tx):
        forbid_network()

    with pytest.raises(Broken, match="network-inside-transaction"):
        await world.run(calls_out)
    forbid_network()


async def test_a_cancelled_caller_leaves_no_transaction_behind(world: World) -> None:
    key = idempotency.Key.of(1, "r", "cancelled", b"b")

    async def slow(tx):
        await idempotency.begin(tx, key)
        await tx.value("SELECT pg_sleep(5)")

    task = asyncio.create_task(world.run(slow))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await world.run(lambda tx: idempotency.begin(tx, key)) is None


@dataclass(frozen=True, slots=True)
class _Numbers:
    first: int
    second: int
    third: int = 3


async def test_columns_go_to_the_fields_of_their_names_in_whatever_order(world: World) -> None:
    async def both(tx):
        same = await tx.fetch("SELECT 1 AS first, 2 AS second, 4 AS third", None, _Numbers)
        other = await tx.fetch("SELECT 4 AS third, 2 AS second, 1 AS first", None, _Numbers)
        fewer = await tx.fetch("SELECT 2 AS second, 1 AS first", None, _Numbers)
        return same, other, fewer

    same, other, fewer = await world.read(both)
    assert same == other == [_Numbers(1, 2, 4)]
    assert fewer == [_Numbers(1, 2)]


@pytest.mark.parametrize("merged", [False, True])
async def test_a_commit_that_was_a_rollback_is_never_told_as_done(
    world: World, merged: bool
) -> None:
    async def swallows(tx):
        await audit.record(tx, [audit.Act("test", "swallowed")])
        await tx.value("SELECT 1")
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            await tx.value("SELECT 1 / 0")

    async def unsealed(tx):
        tx.seal = lambda: asyncio.sleep(0)  # nothing after the failure meets it
        await swallows(tx)

    with pytest.raises((Broken, psycopg.errors.InFailedSqlTransaction)):
        await world.cell.run(ACTOR, TRACE, unsealed, merged=merged)
    kept = "SELECT count(*) FROM audit WHERE subject = 'swallowed'"
    assert await world.read(lambda tx: tx.value(kept)) == 0
    assert await world.run(lambda tx: tx.value("SELECT 1")) == 1
