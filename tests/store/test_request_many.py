"""Requests of several callers in one transaction: each is answered as if it had come alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, LiteralString, Self

import msgspec
import psycopg
import pytest
import pytest_asyncio
from tests.withdrawals import (
    Earner,
    assert_proven,
    available,
    new_earner,
    withdrawal_world,
)
from tests.world import PostgresServer, World, owner_rows

from paymaster.db import audit, traces
from paymaster.db.coalesce import Coalescer, Failed, in_cell
from paymaster.db.idempotency import Answer, Key
from paymaster.db.tx import Actor
from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.ids import new_trace_id, parse_text_id
from paymaster.kernel.money import Money
from paymaster.withdraw.request import Limits
from paymaster.withdraw.request_keyed import Keyed, request_many, request_once

pytestmark = pytest.mark.asyncio(loop_scope="module")
GROUP = Actor("role:api")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=12) as made:
        yield made


def asks(
    earner: Earner, amount: str, name: str, *, body: bytes | None = None, caller: str = "key:a"
) -> Keyed:
    """A request with a caller and a trace of its own."""
    command = replace(
        earner.asks(amount), actor=Actor(caller, "192.0.2.7"), trace_id=new_trace_id()
    )
    key = Key.of(earner.user_id, "POST /v1/withdrawals", name, body or amount.encode())
    return Keyed(key, command)


async def together(world: World, *commands: Keyed) -> list[Answer | Failed]:
    return await world.run(lambda tx: request_many(tx, commands))


def merging(world: World) -> Coalescer[Keyed, Answer]:
    run = in_cell(world.cell, GROUP, request_many)
    return Coalescer(run, batch_limit=256, queue_limit=1000)


def made(answer: Answer | Failed) -> dict[str, Any]:
    assert isinstance(answer, Answer), answer
    return msgspec.json.decode(answer.answer)


def slugs(answers: Sequence[Answer | Failed]) -> list[str]:
    return [made(answer).get("code", "made") for answer in answers]


async def rows_of(world: World, earner: Earner) -> int:
    return await world.read(
        lambda tx: tx.value("SELECT count(*) FROM withdrawal WHERE user_id = %s", (earner.user_id,))
    )


# ------------------------------------------------------------------------------- order and copies


async def test_requests_of_one_user_see_each_other_in_order_of_arrival(world: World):
    one, two = await new_earner(world, "10.00"), await new_earner(world, "5.00")
    answers = await together(
        world,
        asks(one, "6.00", "a"),
        asks(two, "5.00", "b"),
        asks(one, "6.00", "c"),
        asks(one, "4.00", "d"),
        asks(two, "0.01", "e"),
    )
    assert slugs(answers) == ["made", "made", "insufficient-funds", "made", "insufficient-funds"]
    assert await available(world, one) == ("0.00", "10.00")
    await assert_proven(world)


async def test_two_copies_in_one_batch_make_one_and_are_told_the_same(world: World):
    earner = await new_earner(world)
    first = asks(earner, "10.00", "twice")
    copy = asks(earner, "10.00", "twice")
    told = await together(world, first, asks(earner, "1.00", "other"), copy)
    assert isinstance(told[0], Answer)
    assert isinstance(told[2], Answer)
    assert told[0].answer == told[2].answer
    assert (told[0].replayed, told[2].replayed) == (False, True)
    assert await rows_of(world, earner) == 2
    (again,) = await together(world, copy)
    assert again == told[0]


async def test_another_body_under_a_key_of_the_same_batch_is_refused(world: World):
    earner = await new_earner(world)
    told = await together(
        world,
        asks(earner, "10.00", "same"),
        asks(earner, "11.00", "same"),
        asks(earner, "1.00", "x"),
    )
    assert made(told[0])["amount"]["amount"] == "10.00"
    assert isinstance(told[1], Failed)
    assert isinstance(told[1].error, Unprocessable)
    assert told[1].error.slug == "idempotency-key-reused"
    assert made(told[2])["amount"]["amount"] == "1.00"
    assert await rows_of(world, earner) == 2


async def test_each_body_is_compared_with_the_stored_one_not_with_its_neighbour(world: World):
    earner = await new_earner(world)
    original = asks(earner, "10.00", "stored")
    (first,) = await together(world, original)
    wrong, right = await together(world, asks(earner, "11.00", "stored"), original)
    assert isinstance(wrong, Failed)
    assert right == first


async def test_refusals_are_stored_with_the_rest(world: World):
    earner = await new_earner(world, "5.00")
    mixed = [asks(earner, "6.00", "too-much"), asks(earner, "5.00", "fits")]
    first = await together(world, *mixed)
    assert slugs(first) == ["insufficient-funds", "made"]
    again = await together(world, *mixed[::-1])
    assert again == first[::-1]
    assert all(isinstance(one, Answer) and one.replayed for one in again)


# ------------------------------------------------------------------------------------- whose is it


async def test_two_actors_in_one_batch_keep_their_names_and_traces(world: World):
    one, two = await new_earner(world), await new_earner(world)
    first, second = asks(one, "1.00", "a"), asks(two, "2.00", "b", caller="key:b")
    answers = await together(world, first, second)
    ids = [parse_text_id("wd", made(answer)["id"]).id for answer in answers]
    commits: set[int] = set()
    for keyed, answer, number in zip((first, second), answers, ids, strict=True):
        trace = keyed.command.trace_id
        assert made(answer)["trace_id"] == trace
        subject = made(answer)["id"]
        (act,) = await world.read(lambda tx, s=subject: audit.of_subject(tx, s))
        assert keyed.command.actor == Actor(act.actor, act.origin)
        assert act.trace_id == trace
        for table, column, value in (
            ("withdrawal", "id", number),
            ("entry", "subject", subject),
            ("outbox", "payload ->> 'id'", subject),
        ):
            found = owner_rows(world, f"SELECT trace_id FROM {table} WHERE {column} = %s", value)
            assert found == [(trace,)], table
        said = await world.read(lambda tx, t=trace: traces.find(tx, t or ""))
        assert [one.subject for one in said.acts] == [subject]
        assert [one.detail["id"] for one in said.messages] == [subject]
        (commit,) = said.commits
        assert commit.actor == "test"
        commits.add(commit.id)
    [one_commit] = commits
    whole = owner_rows(world, "SELECT trace_id FROM commit WHERE id = %s", one_commit)
    everything = await world.read(lambda tx: traces.find(tx, whole[0][0]))
    assert len(everything.acts) == len(everything.messages) == 2


async def test_a_replay_leaves_no_trace_of_work(world: World):
    earner = await new_earner(world)
    await together(world, asks(earner, "1.00", "k"))
    copy = asks(earner, "1.00", "k")
    await together(world, copy)
    found = await world.read(lambda tx: traces.find(tx, copy.command.trace_id or ""))
    assert found.commits == []


# ----------------------------------------------------------------------------------------- merged


async def test_a_poisoned_request_fails_alone(world: World):
    earners = [await new_earner(world) for _ in range(12)]
    commands = [asks(one, "1.00", "k") for one in earners]
    bad = commands[7]
    commands[7] = replace(bad, command=replace(bad.command, trace_id="not\0storable"))
    calls = merging(world)
    found = await asyncio.gather(*(calls.submit(c) for c in commands), return_exceptions=True)
    assert isinstance(found[7], psycopg.DataError)
    assert [one.status for one in found if isinstance(one, Answer)] == [202] * 11
    assert [await rows_of(world, one) for one in earners] == [1] * 7 + [0] + [1] * 4
    await assert_proven(world)


async def test_copies_that_race_through_two_processes_make_one(world: World):
    earners = [await new_earner(world, "10.00") for _ in range(10)]
    here, there = merging(world), merging(world)
    copies = [[asks(one, "10.00", "k"), asks(one, "10.00", "k")] for one in earners]
    answers = await asyncio.gather(
        *(here.submit(first) for first, _ in copies),
        *(there.submit(second) for _, second in reversed(copies)),
        *(world.run(lambda tx, c=c: request_once(tx, c[0].key, c[0].command)) for c in copies),
    )
    told = {answer.answer for answer in answers}
    assert {answer.status for answer in answers} == {202}
    assert len(told) == len(earners)
    assert [await rows_of(world, one) for one in earners] == [1] * len(earners)
    await assert_proven(world)


async def test_a_caller_that_leaves_has_asked_and_can_ask_again(world: World):
    earner, other = await new_earner(world), await new_earner(world)
    calls = merging(world)
    request = asks(earner, "10.00", "k")
    leaving = asyncio.ensure_future(calls.submit(request))
    staying = asyncio.ensure_future(calls.submit(asks(other, "1.00", "k")))
    await asyncio.sleep(0.001)  # the batch has begun
    leaving.cancel()
    assert (await staying).status == 202
    again = await calls.submit(request)
    assert again.status == 202
    assert again.replayed
    assert await rows_of(world, earner) == 1


class Losing:
    """Loses the connection around COMMIT, as often as asked."""

    def __init__(self, world: World) -> None:
        self._server: Any = world.cell.server
        self._transaction = self._server.transaction
        self.before = self.after = 0

    def __enter__(self) -> Self:
        self._server.transaction = self.transaction
        return self

    def __exit__(self, *_: object) -> None:
        del self._server.transaction

    @asynccontextmanager
    async def transaction(
        self, schema: str, begin: LiteralString, clock: Any = None, *, sent: bool = False
    ) -> AsyncGenerator[Any]:
        async with self._transaction(schema, begin, clock, sent=sent) as connection:
            yield connection
            if self.before:
                self.before -= 1
                # The server ends the session: what was sent after this is not carried out.
                put = connection.sending.put if sent else connection.execute
                ended = put("SELECT pg_terminate_backend(pg_backend_pid())")
                await (ended.rows() if sent else ended)
        if self.after:
            self.after -= 1
            raise psycopg.OperationalError("the connection was lost after COMMIT took effect")


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 1)])
async def test_a_lost_commit_is_run_again_and_finds_its_own_effect(
    world: World, before: int, after: int
):
    earners = [await new_earner(world, "10.00") for _ in range(20)]
    await world.run(lambda tx: tx.value("SELECT 1"))
    calls = merging(world)
    commands = [asks(one, "10.00", "k") for one in earners]
    with Losing(world) as losing:
        losing.before, losing.after = before, after
        answers = await asyncio.gather(*(calls.submit(one) for one in commands))
        assert (losing.before, losing.after) == (0, 0)
    assert [answer.status for answer in answers] == [202] * 20
    assert [await rows_of(world, one) for one in earners] == [1] * 20
    again = await asyncio.gather(*(calls.submit(one) for one in commands))
    assert again == answers
    await assert_proven(world)


async def test_a_database_that_stays_away_is_told_to_all_and_changes_nothing(world: World):
    earners = [await new_earner(world) for _ in range(3)]
    calls = merging(world)
    with Losing(world) as losing:
        losing.before = 99
        found = await asyncio.gather(
            *(calls.submit(asks(one, "1.00", "k")) for one in earners), return_exceptions=True
        )
    assert {getattr(error, "slug", None) for error in found} == {"database-unavailable"}
    assert [await rows_of(world, one) for one in earners] == [0, 0, 0]


async def test_limits_are_each_requests_own(world: World):

    earner = await new_earner(world)
    low = {"EUR": Limits(maximum=Money.parse("5.00", "EUR"))}
    answers = await together(
        world, replace(asks(earner, "6.00", "a"), limits=low), asks(earner, "6.00", "b")
    )
    assert slugs(answers) == ["amount-above-maximum", "made"]


async def test_one_batch_is_one_commit(world: World):
    earners = [await new_earner(world) for _ in range(30)]
    before = owner_rows(world, "SELECT count(*) FROM commit")[0][0]
    calls = merging(world)
    await asyncio.gather(*(calls.submit(asks(one, "1.00", "k")) for one in earners))
    assert owner_rows(world, "SELECT count(*) FROM commit")[0][0] == before + 1
