"""A reward is reversed while its money is in a withdrawal that then comes to nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.withdrawals import CAMPAIGN, Earner, assert_proven, made_in, withdrawal_world
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.balance import balances
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.withdraw.machine import Event, State
from paymaster.withdraw.moves import Step, move
from paymaster.withdraw.request import request


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made


async def reverse(world: World, earner: Earner, amount: str) -> None:
    money = Money.parse(amount, "EUR")
    nothing = Money.zero("EUR")

    async def work(tx: CellTx) -> None:
        postings = recipes.reverse(CAMPAIGN, earner.user_id, money, nothing)
        [result] = await post(tx, [Entry(tx.id(), "reverse", "rw_x", postings)])
        assert result.done

    await world.run(work)


async def shown(world: World, earner: Earner) -> tuple[str, str]:
    [found] = await world.read(lambda tx: balances(tx, earner.user_id))
    return found.available.text(), found.debt.text()


@pytest.mark.parametrize(
    ("state", "event", "freed"),
    [
        (State.REQUESTED, Event.CANCEL, "100.00"),
        (State.SENDING, Event.REJECT, "100.00"),
        (State.PAID, Event.RETURN, "99.50"),
    ],
)
async def test_money_that_comes_free_pays_the_debt_first(
    world: World, state: State, event: Event, freed: str
) -> None:
    """It used to stay available beside the debt, which no later earning could ever reach."""
    earner, withdrawal_id = await made_in(world, state)
    before, nothing = await shown(world, earner)
    assert nothing == "0.00"
    await reverse(world, earner, "80.00")
    _, debt = await shown(world, earner)
    assert debt == str(Money.parse("80.00", "EUR") - Money.parse(before, "EUR")).split()[0]
    [moved] = await world.run(lambda tx: move(tx, [Step(withdrawal_id, event, reason="because")]))
    assert moved.done
    left = Money.parse(freed, "EUR") - Money.parse("80.00", "EUR")
    assert await shown(world, earner) == (left.text(), "0.00")
    [again] = await world.run(lambda tx: request(tx, [earner.asks("1.00")]))
    assert again.slug is None
    await assert_proven(world)
