"""Exchanges in the books: two legs at the quoted rate, and everything back whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import LiteralString

import psycopg
import pytest
import pytest_asyncio
from tests.quoting import (
    abroad,
    accepted,
    position,
    quoted,
    wallet,
)
from tests.withdrawals import (
    BANK,
    assert_proven,
    bring,
    state_of,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.kernel.money import Money
from paymaster.ledger import balance
from paymaster.withdraw import moves, proof, quote

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made
        await assert_proven(made)


async def used_by(world: World, quote_id: int) -> int | None:
    found = await world.read(lambda tx: quote.get(tx, quote_id))
    return found.withdrawal_id


async def test_paid_and_returned_are_two_legs_with_the_rate_recorded(world: World):
    before = await position(world)
    earner = await abroad(world)
    one = await quoted(world, earner)
    withdrawal_id = await accepted(world, one)
    await bring(world, withdrawal_id, "paid")
    after = await position(world)
    assert after["EUR"] - before.get("EUR", 0) == 4000
    assert after["USD"] - before.get("USD", 0) == -4308
    assert await wallet(world, earner) == (5_935, 0)
    clearing = await world.read(lambda tx: balance.of_kind(tx, "clearing"))
    assert (BANK, Money(4308, "USD")) in clearing
    evidence = await world.read(
        lambda tx: tx.value(
            "SELECT e.evidence FROM entry e JOIN withdrawal w ON w.entry_paid = e.id"
            " WHERE w.id = %s",
            (withdrawal_id,),
        )
    )
    assert evidence["rate"] == one.quote.rate
    assert evidence["quote"].startswith("qt_")
    step = moves.Step(withdrawal_id, moves.Event.RETURN, "account closed", BANK)
    assert (await world.run(lambda tx: moves.move(tx, [step])))[0].done
    assert await position(world) == {"EUR": 0, "USD": 0, **before}
    assert await wallet(world, earner) == (9_935, 0), "the original rate; the fee is kept"
    await assert_proven(world)


@pytest.mark.parametrize("state", ["cancelled", "denied", "failed", "held"])
async def test_an_exchange_that_is_not_paid_gives_back_exactly_what_was_held(
    world: World, state: str
):
    """Blnk #55: a hold with an exchange lost the record."""
    before = await position(world)
    earner = await abroad(world)
    one = await quoted(world, earner)
    withdrawal_id = await accepted(world, one)
    await bring(world, withdrawal_id, state)
    assert await state_of(world, withdrawal_id) == state
    held = 4_065 if state == "held" else 0
    assert await wallet(world, earner) == (10_000 - held, held)
    assert await position(world) == before
    assert await used_by(world, one.quote.id) == withdrawal_id


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE withdrawal SET payout_amount = payout_amount + 1 WHERE id = %(id)s",
        "UPDATE quote SET fee = fee + 1 WHERE withdrawal_id = %(id)s",
        "UPDATE quote SET payout_amount = payout_amount - 1 WHERE withdrawal_id = %(id)s",
        "UPDATE quote SET withdrawal_id = NULL WHERE withdrawal_id = %(id)s",
        "UPDATE quote SET rate = '1/1' WHERE withdrawal_id = %(id)s",
        "UPDATE withdrawal SET rate = '1/1' WHERE id = %(id)s",
        "UPDATE withdrawal SET fee_back = true WHERE id = %(id)s",
        "DELETE FROM quote WHERE withdrawal_id = %(id)s",
    ],
)
async def test_the_proof_finds_what_differs_from_the_quote(world: World, statement: LiteralString):
    withdrawal_id = await accepted(world, await quoted(world, await abroad(world)))
    await bring(world, withdrawal_id, "paid")
    assert await world.read(proof.prove) == []

    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute("CREATE TEMP TABLE saved AS SELECT * FROM quote")
        connection.execute(statement, {"id": withdrawal_id})
        checks = {difference.check for difference in await world.read(proof.prove)}
        connection.execute("DELETE FROM quote")
        connection.execute("INSERT INTO quote SELECT * FROM saved")
        connection.execute(
            "UPDATE withdrawal w SET payout_amount = q.payout_amount, rate = q.rate,"
            " fee_back = q.fee_back FROM quote q WHERE q.withdrawal_id = w.id"
        )
    assert "withdrawal-quote" in checks
    if "payout_amount +" in statement:
        assert "withdrawal-postings" in checks
