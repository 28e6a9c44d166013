"""Holds that others' ledgers ended twice, not at all, or could not undo.

What each entry is and where else it is shown: docs/internals/regressions.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import LiteralString

import pytest
import pytest_asyncio
from tests.withdrawals import (
    BANK,
    Earner,
    assert_proven,
    available,
    bring,
    made_in,
    new_earner,
    requested,
    state_of,
    step,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.balance import balances
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.hold import Final, Reserve, Settle, reserve, settle
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.request import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 250


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made
        await assert_proven(made)


class Held:
    """A hold of 7.00 of an earner with 10.00, below every withdrawal."""

    def __init__(self, world: World, earner: Earner) -> None:
        self.world, self.user = world, earner.user_id
        self.hold = 0

    async def make(self) -> Held:
        async def work(tx: CellTx) -> list[Posted]:
            self.hold, entry_id = tx.ids(2)
            entry = Entry(entry_id, "request", "x", recipes.request(self.user, euro(700)))
            return await reserve(tx, [Reserve(self.hold, entry, "test", "x")])

        assert [one.verdict for one in await self.world.run(work)] == [Verdict.POSTED]
        return self

    async def end(self, final: Final, minor: int = 700) -> Verdict:
        """Under an entry of its own: no copy of anything that came before."""
        money = euro(minor)
        postings = {
            "captured": lambda: recipes.paid(self.user, BANK, money, euro(0)),
            "released": lambda: recipes.release(self.user, money),
        }[final]()

        async def work(tx: CellTx) -> list[Posted]:
            entry = Entry(tx.id(), "paid" if final == "captured" else "release", "x", postings)
            return await settle(tx, [Settle(self.hold, entry, money, final)])

        (posted,) = await self.world.run(work)
        return posted.verdict

    async def stands(self) -> tuple[int, int]:
        (found,) = await self.world.read(lambda tx: balances(tx, self.user))
        return found.available.minor, found.held.minor


def euro(minor: int) -> Money:
    return Money(minor, "EUR")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def books(postgres: PostgresServer) -> AsyncIterator[World]:
    """Holds that no withdrawal made: apart from those that must belong to one."""
    async with withdrawal_world(postgres) as made:
        yield made


async def test_blnk_182_capture_of_a_released_hold(books: World) -> None:
    """A hold that was rejected could still be committed, below nought."""
    one = await Held(books, await new_earner(books, "10.00")).make()
    assert await one.end("released") is Verdict.POSTED
    # Another hold lies on the same account: there is enough to take the wrong money from.
    other = await Held(books, Earner(one.user, 0)).make()
    assert await one.end("captured") is Verdict.HOLD
    assert await one.end("captured", 1) is Verdict.HOLD
    assert await one.stands() == (300, 700)
    assert await other.end("captured") is Verdict.POSTED
    assert await one.stands() == (300, 0)


async def test_blnk_41_a_hold_is_released_once(books: World) -> None:
    """A hold could be voided twice, and gave its money twice."""
    one = await Held(books, await new_earner(books, "10.00")).make()
    assert await one.end("released") is Verdict.POSTED
    await Held(books, Earner(one.user, 0)).make()
    assert await one.end("released") is Verdict.HOLD
    assert await one.stands() == (300, 700)


@pytest.mark.parametrize("state", ["denied", "cancelled", "failed"])
async def test_blnk_182_a_withdrawal_that_gave_its_money_back_is_not_paid(
    world: World, state: str
) -> None:
    earner, withdrawal_id = await made_in(world, state)
    await requested(world, earner, "50.00")  # there is held money to take wrongly
    for event in (Event.SEND, Event.ACCEPT, Event.SETTLE, Event.RETURN):
        moved = await step(world, withdrawal_id, event, reason="late")
        assert not moved.done
    assert await state_of(world, withdrawal_id) == state
    assert await available(world, earner) == ("50.00", "50.00")


async def test_blnk_195_many_holds_are_ended_in_one_call(world: World) -> None:
    """Holds that were made in bulk could not be committed."""
    earner = await new_earner(world, f"{MANY}.00")

    async def asked(tx: CellTx) -> list[int]:
        made = await request(tx, [earner.asks("1.00")] * MANY)
        return [one.withdrawal_id or 0 for one in made]

    ids = await world.run(asked)
    assert await available(world, earner) == ("0.00", f"{MANY}.00")
    await all_of(world, ids, lambda one: Step(one, Event.SCREEN))

    async def lend(tx: CellTx) -> int:
        return await tx.execute("UPDATE withdrawal SET lease_token = 1 WHERE id = ANY(%s)", (ids,))

    assert await world.run(lend) == MANY
    await all_of(world, ids, lambda one: Step(one, Event.APPROVE, lease_token=1))
    await all_of(world, ids, lambda one: Step(one, Event.SEND, rail_account_id=BANK))
    paid = set(ids[::2])
    await all_of(
        world,
        ids,
        lambda one: Step(one, Event.SETTLE) if one in paid else Step(one, Event.REJECT, "AC01"),
    )
    assert await available(world, earner) == (f"{MANY - len(paid)}.00", "0.00")


async def all_of(world: World, ids: list[int], make: Callable[[int], Step]) -> None:
    """One call with a step for each."""

    async def work(tx: CellTx) -> list[Moved]:
        return await move(tx, [make(one) for one in ids])

    moved = await world.run(work)
    assert len(moved) == len(ids)
    assert all(one.done for one in moved)


async def test_midaz_1265_what_was_captured_is_returned_once(world: World) -> None:
    """Undoing a committed hold was an error 500."""
    earner, withdrawal_id = await made_in(world, "paid")
    assert await available(world, earner) == ("59.50", "0.00")
    await bring_back(world, withdrawal_id, done=True)
    assert await state_of(world, withdrawal_id) == "returned"
    assert await available(world, earner) == ("99.50", "0.00"), "the fee is kept"
    await bring_back(world, withdrawal_id, done=False)
    assert await available(world, earner) == ("99.50", "0.00")


async def bring_back(world: World, withdrawal_id: int, *, done: bool) -> None:
    moved = await step(world, withdrawal_id, Event.RETURN, reason="AC04")
    assert moved.done is done


async def test_polar_the_destination_of_a_request_is_never_exchanged(world: World) -> None:
    """The payout account was swapped while the payout was held: the money went to the new one.

    A replaced destination cancels what waits for it (tests/store/test_pinned.py); here, that no
    right of the application changes where a withdrawal goes, or how much of it.
    """
    import psycopg

    earner = await new_earner(world)
    (made,) = await world.run(lambda tx: request(tx, [earner.asks("10.00")]))
    assert made.withdrawal_id is not None
    await bring(world, made.withdrawal_id, "approved")
    for column in ("destination_id", "user_id", "amount", "fee", "payout_amount", "asset"):

        async def change(tx: CellTx, column: LiteralString = column) -> None:
            await tx.execute(
                f"UPDATE withdrawal SET {column} = {column} WHERE id = %s",
                (made.withdrawal_id,),
            )

        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await world.run(change)
