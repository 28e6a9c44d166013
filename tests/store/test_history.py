"""An account's history: pages, moments, spans of time; against a plain replay of the same legs."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import datetime, timedelta
from typing import Literal

import pytest
from tests.world import PostgresServer, World, make_world, owner_rows

from paymaster.kernel.errors import Refusal, Unprocessable
from paymaster.kernel.money import MAX_MINOR, Money
from paymaster.ledger import export, statement
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.ledger.statement import STRIDE, StatementRow

MINE, OTHER = Account("available", 5, "EUR"), Account("equity", 0, "EUR")
MOVES = 5 * STRIDE + 7


async def move(world: World, *minors: int, dated: datetime | None = None) -> None:
    """Post entries of one transaction; a negative amount leaves the account."""

    async def work(tx):
        entries = [
            Entry(
                tx.id(),
                "reward" if minor > 0 else "request",
                "x",
                (
                    Posting(
                        *((OTHER, MINE) if minor > 0 else (MINE, OTHER)), Money(abs(minor), "EUR")
                    ),
                ),
                effective_at=dated,
            )
            for minor in minors
        ]
        return [found.done for found in await post(tx, entries)]

    assert all(await world.run(work))


@pytest.fixture
async def world(postgres: PostgresServer):
    """Several hundred movements over three months, some of them dated back."""
    async with make_world(postgres, moves=[]) as made:
        rng = random.Random(7)
        await move(made, 100_000)
        left = MOVES - 1
        while left:
            made.clock.advance(timedelta(seconds=rng.choice([1, 60, 3600, 40_000])))
            count = min(left, rng.choice([1, 2, 20, 40]))
            back = made.clock.now() - timedelta(hours=rng.randint(1, 60))
            dated = back if rng.random() < 0.2 else None
            await move(made, *(rng.choice([-3, -1, 1, 5]) for _ in range(count)), dated=dated)
            left -= count
        made.clock.advance(timedelta(hours=1))
        yield made


async def whole(world: World, limit: int = 37) -> list[StatementRow]:
    """The history page by page, newest first."""
    rows: list[StatementRow] = []
    start: int | None = None
    while True:
        page = await world.read(lambda tx, start=start: statement.page(tx, MINE, start, limit))
        rows += page.rows
        start = page.next_id
        if start is None:
            return rows


async def test_pages_are_one_chain(world: World) -> None:
    rows = await whole(world)
    assert [row.number for row in rows] == list(range(MOVES, 0, -1))
    assert len({row.posting_id for row in rows}) == MOVES
    balance = 0
    for row in reversed(rows):
        balance += row.amount
        assert row.balance == balance
        assert (row.counter_kind, row.counter_owner_id) == ("equity", 0)
    assert [row.posting_id for row in await whole(world, 500)] == [r.posting_id for r in rows]


async def test_a_page_starts_only_in_its_own_history(world: World) -> None:
    (first,) = owner_rows(world, "SELECT id FROM posting WHERE source_number = 1")[0]
    stranger = Account("available", 6, "EUR")
    page = await world.read(lambda tx: statement.page(tx, stranger, first, 5))
    assert page == statement.Page([], None)
    assert (await world.read(lambda tx: statement.page(tx, stranger, None, 5))).rows == []


@pytest.mark.parametrize("basis", ["recorded", "effective"])
async def test_a_balance_then_is_what_a_replay_gives(world: World, basis) -> None:
    rows = await whole(world)
    moments = {row.recorded_at for row in rows} | {row.effective_at for row in rows}
    moments |= {moment - timedelta(microseconds=1) for moment in moments}
    moments = [*random.Random(1).sample(sorted(moments), 40), min(moments), max(moments)]
    for at in moments:
        told = await world.read(lambda tx, at=at: statement.as_of(tx, MINE, at, basis=basis))
        column = f"{basis}_at"
        assert told == sum(row.amount for row in rows if getattr(row, column) <= at), at
        mirrored = await world.read(lambda tx, at=at: statement.as_of(tx, OTHER, at, basis=basis))
        assert mirrored == -told


async def test_what_is_dated_back_may_come_to_more_than_64_bits(postgres: PostgresServer) -> None:
    """Twice into the past and once out of it, but the latter dated now."""
    most = MAX_MINOR - 1
    async with make_world(postgres, moves=[]) as made:
        await move(made, 1)
        then = made.clock.now()
        made.clock.advance(timedelta(hours=1))
        for minor, dated in ((most, then), (-most, None), (most, then)):
            await move(made, minor, dated=dated)
        for account, sign in ((MINE, 1), (OTHER, -1)):
            told = await made.read(
                lambda tx, account=account: statement.as_of(tx, account, then, basis="effective")
            )
            assert told == sign * (1 + 2 * most)


async def test_every_so_many_postings_leave_a_mark(world: World) -> None:
    marks = owner_rows(world, "SELECT * FROM account_mark ORDER BY account_id, number")
    wanted = owner_rows(
        world,
        """
        SELECT account_id, number, id FROM (
            SELECT source_id AS account_id, source_number AS number, id FROM posting
            UNION ALL SELECT destination_id, destination_number, id FROM posting
        ) l WHERE mod(number, %s) = 0 ORDER BY account_id, number
        """,
        STRIDE,
    )
    assert len(wanted) == 2 * (MOVES // STRIDE)
    assert marks == wanted


async def test_what_was_dated_back_is_a_late_leg(world: World) -> None:
    """A leg that took effect before its account's previous posting was recorded is among them."""
    rows = await whole(world)
    account = "SELECT id FROM account WHERE kind = 'available'"
    late = dict(
        owner_rows(world, f"SELECT number, amount FROM late_leg WHERE account_id = ({account})")
    )
    for row, before in itertools.pairwise(rows):
        if row.effective_at < before.recorded_at:
            assert late[row.number] == row.amount
    assert len(late) > MOVES // 20


async def test_marks_are_hints_only(world: World) -> None:
    rows = await whole(world)
    at = rows[len(rows) // 2].recorded_at
    told = await world.read(lambda tx: statement.as_of(tx, MINE, at, basis="recorded"))
    saved = owner_rows(world, "DELETE FROM account_mark WHERE mod(number, 128) = 0 RETURNING *")
    try:
        assert told == await world.read(lambda tx: statement.as_of(tx, MINE, at, basis="recorded"))
    finally:
        for row in saved:
            owner_rows(world, "INSERT INTO account_mark VALUES (%s, %s, %s) RETURNING 1", *row)


async def test_a_span_of_time(world: World) -> None:
    rows = await whole(world)
    since, until = rows[200].recorded_at, rows[90].recorded_at
    wanted = [row for row in rows if since <= row.recorded_at <= until]
    found: list[StatementRow] = []
    page = await world.read(lambda tx: statement.page_until(tx, MINE, until, 50, since=since))
    while True:
        found += page.rows
        if page.next_id is None:
            break
        start = page.next_id
        page = await world.read(
            lambda tx, start=start: statement.page(tx, MINE, start, 50, since=since)
        )
    assert found == wanted
    before = rows[-1].recorded_at - timedelta(days=1)
    none = await world.read(lambda tx: statement.page_until(tx, MINE, before, 50))
    assert none == statement.Page([], None)
    later = world.clock.now() + timedelta(days=1)
    newest = await world.read(lambda tx: statement.page_until(tx, MINE, later, 5))
    assert newest.rows == rows[:5]


async def test_an_export_of_a_span(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = await whole(world)
    since, until = rows[200].recorded_at, rows[90].recorded_at
    made = await world.read(lambda tx: export.gather(tx, "us_1", MINE, since, until))
    assert list(made.rows) == [row for row in rows if since <= row.recorded_at <= until][::-1]
    monkeypatch.setattr(export, "MOST_ROWS", 100)
    with pytest.raises(Unprocessable, match="parts of their time"):
        await world.read(lambda tx: export.gather(tx, "us_1", MINE))


async def test_the_future_is_refused(world: World) -> None:
    at = world.clock.now() + timedelta(seconds=1)
    with pytest.raises(Refusal) as refused:
        await world.read(lambda tx: statement.as_of(tx, MINE, at, basis="effective"))
    assert refused.value.slug == "as-of-future"


async def test_an_entry_overtaken_takes_effect_no_earlier_than_the_one_before(
    postgres: PostgresServer,
) -> None:
    """A transaction begun first and committed second: its entry is not dated before the other's."""
    async with make_world(postgres, moves=[]) as world:
        await move(world, 100)
        begun, overtaken = asyncio.Event(), asyncio.Event()
        early = world.clock.now()

        async def slow(tx):
            begun.set()
            await overtaken.wait()
            entry = Entry(tx.id(), "reward", "x", (Posting(OTHER, MINE, Money(7, "EUR")),))
            assert (await post(tx, [entry]))[0].done

        waiting = asyncio.create_task(world.run(slow))
        await begun.wait()
        world.clock.advance(timedelta(seconds=5))
        await move(world, 1)
        late = world.clock.now()
        overtaken.set()
        await waiting
        world.clock.advance(timedelta(seconds=5))
        rows = (await world.read(lambda tx: statement.page(tx, MINE, None, 5))).rows
        assert [row.amount for row in rows] == [7, 1, 100]
        assert rows[0].effective_at == rows[0].recorded_at == late
        assert owner_rows(world, "SELECT count(*) FROM late_leg") == [(0,)]
        for at, stood in ((early, 100), (late - timedelta(microseconds=1), 100), (late, 108)):
            for basis in ("recorded", "effective"):
                told = await world.read(
                    lambda tx, at=at, basis=basis: statement.as_of(tx, MINE, at, basis=basis)
                )
                assert told == stood, (at, basis)


async def test_entries_overtaken_together_are_found_where_they_take_effect(
    postgres: PostgresServer,
) -> None:
    """A transaction that dated its entries and was overtaken before it committed."""
    async with make_world(postgres, moves=[]) as world:
        await move(world, 100)
        world.clock.advance(timedelta(seconds=1))
        dated, overtaken = asyncio.Event(), asyncio.Event()
        early = world.clock.now()

        def entry(number: int, amount: int, at: datetime | None = None) -> Entry:
            posting = Posting(OTHER, MINE, Money(amount, "EUR"))
            return Entry(number, "reward", "x", (posting,), effective_at=at)

        async def slow(tx):
            back = tx.now - timedelta(milliseconds=500)
            entries = [entry(tx.id(), 1), entry(tx.id(), 20, back), entry(tx.id(), 300)]
            assert all(found.done for found in await post(tx, entries))
            dated.set()
            await overtaken.wait()
            assert (await post(tx, [entry(tx.id(), 4000)]))[0].done

        async def quick(tx):
            pair = Account("commission", 0, "EUR"), Account("available", 6, "EUR")
            entry = Entry(tx.id(), "reward", "x", (Posting(*pair, Money(1, "EUR")),))
            assert (await post(tx, [entry]))[0].done

        waiting = asyncio.create_task(world.run(slow))
        await dated.wait()
        world.clock.advance(timedelta(seconds=5))
        await world.run(quick)
        overtaken.set()
        await waiting
        late = world.clock.now()
        world.clock.advance(timedelta(seconds=5))
        await move(world, 50_000)
        rows = (await world.read(lambda tx: statement.page(tx, MINE, None, 9))).rows
        assert [row.effective_at for row in rows[1:4]] == [
            late,
            early,
            early - timedelta(milliseconds=500),
        ]
        assert {row.recorded_at for row in rows[1:5]} == {late}
        tick = timedelta(microseconds=1)
        both: tuple[Literal["recorded", "effective"], ...] = ("recorded", "effective")
        for at, recorded, effective in (
            (early - timedelta(milliseconds=501), 100, 100),
            (early - timedelta(milliseconds=500), 100, 120),
            (early - tick, 100, 120),
            (early, 100, 421),
            (late - tick, 100, 421),
            (late, 4421, 4421),
            (late + tick, 4421, 4421),
        ):
            for basis, wanted in zip(both, (recorded, effective), strict=True):
                told = await world.read(
                    lambda tx, at=at, basis=basis: statement.as_of(tx, MINE, at, basis=basis)
                )
                assert told == wanted, (at, basis)
