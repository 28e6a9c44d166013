"""Holds under races and repetition: one winner, the held balance always is the open holds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import psycopg
import pytest
from tests.world import PostgresServer, World, make_world

from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money
from paymaster.ledger import proof, recipes
from paymaster.ledger.balance import balances
from paymaster.ledger.entry import Entry, Mode, Verdict
from paymaster.ledger.hold import Reserve, Settle, reserve, settle
from paymaster.ledger.post import post

USER, RAIL = 5, 9
TEN = Money(1000, "EUR")


@pytest.fixture
async def world(postgres: PostgresServer):
    async with make_world(postgres, moves=[]) as made:
        credit = recipes.reward(1, USER, TEN, vests=False, owes=False, commission=Money(0, "EUR"))
        ids = await new_ids(made, 2)
        funding = Entry(ids[0], "fund", "x", recipes.fund(RAIL, 1, TEN))
        await made.run(lambda tx: post(tx, [funding, Entry(ids[1], "reward", "x", credit)]))
        yield made


async def new_ids(world: World, count: int) -> list[int]:
    async def work(tx):
        return tx.ids(count)

    return await world.run(work)


async def held(world: World) -> tuple[int, int]:
    (balance,) = await world.read(lambda tx: balances(tx, USER))
    return balance.available.minor, balance.held.minor


def reservation(hold_id: int, entry_id: int, minor: int) -> Reserve:
    entry = Entry(entry_id, "request", "wd", recipes.request(USER, Money(minor, "EUR")))
    return Reserve(hold_id, entry, "withdrawal", "wd")


def capture(hold_id: int, entry_id: int, minor: int) -> Settle:
    money = Money(minor, "EUR")
    postings = recipes.paid(USER, RAIL, money, Money(0, "EUR"))
    return Settle(hold_id, Entry(entry_id, "paid", "wd", postings), money, "captured")


def release(hold_id: int, entry_id: int, minor: int) -> Settle:
    money = Money(minor, "EUR")
    entry = Entry(entry_id, "release", "wd", recipes.release(USER, money))
    return Settle(hold_id, entry, money, "released")


async def test_a_hold_takes_from_available_and_a_second_one_sees_it(world: World) -> None:
    hold, e1, hold2, e2 = await new_ids(world, 4)
    commands = [reservation(hold, e1, 700), reservation(hold2, e2, 400)]
    results = await world.run(lambda tx: reserve(tx, commands))
    assert [r.verdict for r in results] == [Verdict.POSTED, Verdict.INSUFFICIENT]
    again = await world.run(lambda tx: reserve(tx, commands[:1]))
    assert again[0].verdict is Verdict.DUPLICATE
    assert await held(world) == (300, 700)
    assert await world.read(proof.prove) == []


async def test_partial_captures_then_release_of_the_rest(world: World) -> None:
    hold, e1, e2, e3, e4, e5 = await new_ids(world, 6)
    await world.run(lambda tx: reserve(tx, [reservation(hold, e1, 700)]))
    steps = [capture(hold, e2, 300), capture(hold, e3, 100), release(hold, e4, 300)]
    assert [r.verdict for r in await world.run(lambda tx: settle(tx, steps))] == [
        Verdict.POSTED
    ] * 3
    assert await held(world) == (600, 0)
    (late,) = await world.run(lambda tx: settle(tx, [release(hold, e5, 1)]))
    assert late.verdict is Verdict.HOLD
    assert [r.verdict for r in await world.run(lambda tx: settle(tx, steps))] == [
        Verdict.DUPLICATE
    ] * 3
    assert await world.read(proof.prove) == []


@pytest.mark.parametrize("rivals", ["capture-capture", "capture-release", "release-release"])
async def test_of_two_that_end_one_hold_at_once_one_wins(world: World, rivals: str) -> None:
    hold, e1, e2, e3 = await new_ids(world, 4)
    await world.run(lambda tx: reserve(tx, [reservation(hold, e1, 700)]))
    make = {"capture": capture, "release": release}
    left, right = rivals.split("-")
    commands = [make[left](hold, e2, 700), make[right](hold, e3, 700)]
    results = await asyncio.gather(
        *(world.run(lambda tx, c=command: settle(tx, [c])) for command in commands)
    )
    assert sorted(r.verdict for (r,) in results) == [Verdict.HOLD, Verdict.POSTED]
    assert (await held(world))[1] == 0
    assert await world.read(proof.prove) == []


async def test_an_entry_that_does_not_match_its_hold_is_a_fault_of_the_code(world: World) -> None:
    hold, e1, e2 = await new_ids(world, 3)
    await world.run(lambda tx: reserve(tx, [reservation(hold, e1, 700)]))
    entry = Entry(e2, "paid", "wd", recipes.paid(USER, RAIL, Money(700, "EUR"), Money(0, "EUR")))
    wrong = Settle(hold, entry, Money(699, "EUR"), "captured")
    with pytest.raises(Broken, match="hold-amount"):
        await world.run(lambda tx: settle(tx, [wrong]))


async def test_a_hold_is_settled_from_its_own_account_only(world: World) -> None:
    hold, e1, e2 = await new_ids(world, 3)
    await world.run(lambda tx: reserve(tx, [reservation(hold, e1, 700)]))
    other = recipes.paid(USER + 1, RAIL, Money(700, "EUR"), Money(0, "EUR"))
    wrong = Settle(hold, Entry(e2, "paid", "wd", other), Money(700, "EUR"), "captured")
    with pytest.raises(Broken, match="hold-amount"):
        await world.run(lambda tx: settle(tx, [wrong]))


async def test_a_hold_is_made_by_an_exact_posting_only(world: World) -> None:
    hold, e1 = await new_ids(world, 2)
    right = reservation(hold, e1, 700)
    [posting] = right.entry.postings
    as_much = replace(posting, mode=Mode.UP_TO)
    wrong = replace(right, entry=replace(right.entry, postings=(as_much,)))
    with pytest.raises(Broken, match="hold-entry"):
        await world.run(lambda tx: reserve(tx, [wrong]))


ALTERATIONS = {
    "balance": "UPDATE account SET balance = balance + 1 WHERE kind = 'available'",
    "history": "UPDATE posting SET source_balance = source_balance + 1 WHERE amount = 700",
    "holds": "UPDATE hold SET remaining = 600",
    "entry-postings": "DELETE FROM posting WHERE amount = 700",
    "commit-order": "UPDATE commit SET first_seq = first_seq - 1 WHERE first_seq > 1",
    "history-mark": "INSERT INTO account_mark SELECT source_id, 64, id FROM posting LIMIT 1",
    "currency": "UPDATE posting SET asset = 'USD' WHERE amount = 700",
    "head": "UPDATE head SET seq = seq + 1",
    "posting-count": "UPDATE account SET postings = postings + 1 WHERE kind = 'held'",
}


@pytest.mark.parametrize("check", ALTERATIONS)
async def test_prove_names_what_was_altered(world: World, check: str) -> None:
    hold, e1 = await new_ids(world, 2)
    await world.run(lambda tx: reserve(tx, [reservation(hold, e1, 700)]))
    assert await world.read(proof.prove) == []
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute(ALTERATIONS[check].encode())
    assert check in {d.check for d in await world.read(proof.prove)}
