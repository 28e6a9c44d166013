"""Statements that are sent together: their order, their answers, and what fails when one does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from datetime import UTC, date, datetime
from typing import Any, LiteralString

import psycopg
import pytest
import pytest_asyncio
from psycopg import errors
from psycopg.types.json import Jsonb
from tests.world import ACTOR, PostgresServer, World, make_world, owner_rows

from paymaster.db import idempotency
from paymaster.db.idempotency import Answer, Key
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import AheadClock
from paymaster.kernel.errors import Busy, Conflict
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posted, Posting, Verdict
from paymaster.ledger.post import post, post_on, ready
from paymaster.ledger.store import find_account

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with make_world(postgres, moves=[], connections=2) as made:
        yield made


async def together(world: World, work: Any) -> Any:
    return await world.cell.run(ACTOR, new_trace_id(), work, merged=True)


def cursors(world: World, pattern: str) -> list[tuple[str, int]]:
    return owner_rows(world, "SELECT name, seq FROM cursor WHERE name LIKE %s ORDER BY 1", pattern)


PUT = "INSERT INTO cursor (name, seq) VALUES (%s, %s)"


async def test_statements_are_carried_out_in_order_and_answered_later(world: World):
    async def work(tx: CellTx) -> list[Any]:
        await tx.send(PUT, ("order", 1))
        before = await tx.ask("SELECT seq FROM cursor WHERE name = %s", ("order",))
        await tx.send("UPDATE cursor SET seq = 2 WHERE name = %s", ("order",))
        after = await tx.ask("SELECT seq FROM cursor WHERE name = %s", ("order",))
        none = await tx.ask("UPDATE cursor SET seq = 3 WHERE name = %s", ("nobody",))
        return [await after.rows(), await before.rows(), await none.touched()]

    assert await together(world, work) == [[(2,)], [(1,)], 0]
    assert cursors(world, "order") == [("order", 2)]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("bigint", 2**40), ("smallint", 7), ("int", None), ("bytea", b"\0\xff"),
        ("text", "ä%\\'\""),
        ("boolean", True), ("date", date(2026, 11, 21)), ("jsonb", Jsonb({"a": [1, None, "x"]})),
        ("timestamptz", datetime(2026, 11, 21, 9, 0, 0, 5, tzinfo=UTC)),
        ("bigint[]", [1, None, -3]),
        ("text[]", ["NULL", None, "a,b", ""]), ("text[]", []), ("bigint[]", [None]),
        ("boolean[]", [True, False, None]),
    ],
)  # fmt: skip
async def test_values_come_back_as_they_went(world: World, kind: LiteralString, value: Any):
    async def work(tx: CellTx) -> Any:
        by_place = await tx.value(f"SELECT %s::{kind}", (value,))
        sql = f"SELECT %(b)s::{kind}, %(a)s::text || '%%', %(b)s::{kind}"
        [(first, other, second)] = await tx.tuples(sql, {"a": "x", "b": value})
        assert (first, other) == (second, "x%")
        return by_place

    expected = value.obj if isinstance(value, Jsonb) else value
    assert await together(world, work) == expected
    assert await together(world, work) == expected  # prepared by now


async def test_nothing_after_a_statement_that_failed_is_carried_out(world: World):
    async def work(tx: CellTx) -> None:
        await tx.send(PUT, ("failed", 1))
        await tx.send(PUT, ("failed", 2))
        await tx.send(PUT, ("failed-later", 3))
        await tx.value("SELECT 1")

    for _ in range(3):  # the connection can be used again each time
        with pytest.raises(errors.UniqueViolation):
            await together(world, work)
    assert cursors(world, "failed%") == []


async def test_a_failure_that_nobody_reads_ends_the_commit(world: World):
    async def work(tx: CellTx) -> str:
        await tx.send(PUT, ("unread", 1))
        await tx.send(PUT, ("unread", None))
        return "never told"

    with pytest.raises(errors.NotNullViolation):
        await together(world, work)
    assert cursors(world, "unread") == []


async def test_a_failure_that_was_passed_over_is_not_committed(world: World):
    async def work(tx: CellTx) -> None:
        await tx.send(PUT, ("passed", 1))
        with pytest.raises(errors.DivisionByZero):
            await tx.value("SELECT 1 / 0")

    with pytest.raises(errors.InFailedSqlTransaction):
        await together(world, work)
    assert cursors(world, "passed") == []


async def test_a_statement_says_what_its_own_failure_means(world: World):
    def meaning(error: psycopg.Error) -> Exception | None:
        return Conflict("in-progress", "x") if isinstance(error, errors.DivisionByZero) else None

    async def own(tx: CellTx) -> None:
        await tx.ask("SELECT 1 / 0", failing=meaning)
        await tx.value("SELECT 1")

    async def anothers(tx: CellTx) -> None:
        await tx.ask("SELECT 1", failing=meaning)
        await tx.value("SELECT 1 / 0")

    for run in (lambda work: together(world, work), world.run):
        with pytest.raises(Conflict):
            await run(own)
        with pytest.raises(errors.DivisionByZero):
            await run(anothers)


async def test_what_the_server_has_forgotten_is_prepared_anew(world: World):
    tries = 0

    async def forgets(tx: CellTx) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            await tx.value("SELECT 42")
            await tx.execute("DEALLOCATE ALL")
        return await tx.value("SELECT 42")

    assert await together(world, forgets) == 42
    assert tries == 2


async def test_copy_finds_its_place_among_the_others(world: World):
    async def work(tx: CellTx) -> int:
        await tx.send(PUT, ("copy-1", 1))
        await tx.copy("COPY cursor (name, seq) FROM STDIN", ["copy-2\t2\n", "copy-3\t3\n"])
        await tx.send(PUT, ("copy-4", 4))
        return await tx.value("SELECT count(*) FROM cursor WHERE name LIKE %s", ("copy-%",))

    assert await together(world, work) == 4
    assert [seq for _, seq in cursors(world, "copy-%")] == [1, 2, 3, 4]


async def test_whoever_is_cancelled_while_it_waits_has_done_nothing(world: World):
    async def work(tx: CellTx) -> None:
        await tx.send(PUT, ("cancelled", 1))
        await tx.value("SELECT pg_sleep(30)")

    for _ in range(3):  # more often than there are connections
        task = asyncio.ensure_future(together(world, work))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert cursors(world, "cancelled") == []
    assert await together(world, lambda tx: tx.value("SELECT 1")) == 1


async def test_a_lost_connection_is_told_as_such(world: World):
    async def work(tx: CellTx) -> None:
        await tx.send(PUT, ("lost", 1))
        await tx.value("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(Busy) as told:
        await together(world, work)
    assert told.value.slug == "database-unavailable"
    assert cursors(world, "lost") == []


async def test_a_snapshot_whose_only_statement_ends_it(world: World):
    control = world.dbs.control
    for merged in (True, False):
        rows = await control.read(lambda tx: tx.only("SELECT count(*) FROM cell"), merged=merged)
        assert rows == [(1,)]


# ------------------------------------------------------------------------------------ what races


def fund(entry_id: int, campaign: int) -> Entry:
    return Entry(entry_id, "fund", "x", recipes.fund(7, campaign, Money(1000, "EUR")))


@pytest.mark.parametrize("merged", [True, False])
async def test_that_an_account_did_not_exist_is_no_lasting_reason(world: World, merged: bool):
    """It was not there to be locked; meanwhile another transaction opened and filled it."""
    campaign = 100 + merged
    tries = 0

    async def spends(tx: CellTx) -> list[Posted]:
        nonlocal tries
        tries += 1
        budget, house = Account("budget", campaign, "EUR"), Account("equity", 0, "EUR")
        entry = Entry(tx.id(), "test", "x", (Posting(budget, house, Money(400, "EUR")),))
        asked = await ready(tx, [entry])
        await asked.come()  # the locks are taken
        if tries == 1:
            await another_fills(world, campaign)
        return (await post_on(tx, [entry], asked=asked))[0]

    [told] = await world.cell.run(ACTOR, new_trace_id(), spends, merged=merged)
    assert (told.verdict, tries) == (Verdict.POSTED, 2)
    found = await world.read(lambda tx: find_account(tx, Account("budget", campaign, "EUR")))
    assert found is not None
    assert (found.balance, found.postings) == (600, 2)


async def another_fills(world: World, campaign: int) -> None:
    """Another transaction opens the budget and commits."""

    async def fill(tx: CellTx) -> None:
        [posted] = await post(tx, [fund(tx.id(), campaign)])
        assert posted.done

    await asyncio.get_running_loop().create_task(world.run(fill), context=Context())


async def test_an_account_is_opened_also_where_it_is_the_reason_of_a_no(world: World):
    async def refused(tx: CellTx) -> list[Posted]:
        budget, house = Account("budget", 200, "EUR"), Account("equity", 0, "EUR")
        return await post(
            tx, [Entry(tx.id(), "t", "x", (Posting(budget, house, Money(1, "EUR")),))]
        )

    [told] = await together(world, refused)
    assert told.verdict is Verdict.INSUFFICIENT
    found = await world.read(lambda tx: find_account(tx, Account("budget", 200, "EUR")))
    assert found is not None
    assert (found.balance, found.postings) == (0, 0)


async def test_a_key_that_was_used_meanwhile_is_seen_by_a_second_try(world: World):
    """Somebody who does not take the lock of the key has stored an answer under it."""
    key = Key.of(1, "POST /x", "k", b"body")
    tries = 0

    async def work(tx: CellTx) -> Answer:
        nonlocal tries
        tries += 1
        looked = await idempotency.look(tx, [key])
        [before] = await looked.stored()
        if before is not None:
            found = before.answer_to(key)
            assert isinstance(found, Answer)
            return found
        owner_execute(
            world,
            "INSERT INTO cell_1.idempotency VALUES (1, 'POST /x', %s, %s, 200, 'other', now())",
            (key.key_hash, key.body_hash),
        )
        await idempotency.keep(tx, [(key, Answer(200, b"mine"))])
        return Answer(200, b"mine")

    assert (await together(world, work)).answer == b"other"
    assert tries == 2


def owner_execute(world: World, sql: str, params: tuple[Any, ...]) -> None:
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.encode(), params)


@pytest.mark.parametrize("merged", [True, False])
async def test_entries_of_a_day_that_was_closed_meanwhile_are_dated_anew(
    world: World, merged: bool
):
    today = world.clock.now().date()
    closed = today.replace(day=today.day - 1 - merged)
    tries = 0

    async def work(tx: CellTx) -> None:
        nonlocal tries
        tries += 1
        [posted] = await post(tx, [fund(tx.id(), 300 + merged)])
        assert posted.done
        if tries == 1:
            await tx.value("SELECT 1")
            owner_execute(world, "UPDATE cell_1.head SET closed_through = %s", (closed,))

    await world.cell.run(ACTOR, new_trace_id(), work, merged=merged)
    assert tries == 2


async def test_a_clock_that_was_put_forward_is_learnt_before_the_commit(world: World):
    cell, clock = world.cell, AheadClock(world.clock)
    owner_execute(world, "UPDATE cell_1.test_clock SET ahead_seconds = 3600", ())
    moments: list[datetime] = []
    kept = cell.clock, cell._ahead
    cell.clock = cell._ahead = clock

    async def work(tx: CellTx) -> None:
        moments.append(tx.now)
        await tx.send(PUT, (f"clock-{len(moments)}", 1))

    try:
        await together(world, work)
    finally:
        cell.clock, cell._ahead = kept
    assert [(moment - world.clock.now()).total_seconds() for moment in moments] == [0.0, 3600.0]
    assert cursors(world, "clock-%") == [("clock-2", 1)]
