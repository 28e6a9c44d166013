from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from tests.withdrawals import (
    PATHS,
    assert_proven,
    made_in,
    new_earner,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellRead, CellTx
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.hold import Settle, settle
from paymaster.ledger.post import post
from paymaster.ledger.proof import Difference
from paymaster.withdraw import proof

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made


async def told_of(world: World, withdrawal_id: int) -> list[Difference]:
    subject = text_id("wd", 1, withdrawal_id)
    return [d for d in await world.read(proof.prove) if d.subject == subject]


async def new_ids(tx: CellTx) -> list[int]:
    return tx.ids(1)


def as_owner(world: World, statement: str, *params: object) -> None:
    """Past every right of the application, as somebody with the owner's password would."""
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute("SET session_replication_role TO replica")
        assert connection.execute(statement.encode(), params).rowcount == 1


async def test_every_state_is_proven(world: World):
    for state in PATHS:
        await made_in(world, state)
    await assert_proven(world)


@pytest.mark.parametrize(
    ("state", "written", "checks"),
    [
        ("sent", "paid", {"withdrawal-postings", "withdrawal-hold", "withdrawal-moves"}),
        ("paid", "failed", {"withdrawal-postings", "withdrawal-hold", "withdrawal-moves"}),
        ("paid", "returned", {"withdrawal-postings", "withdrawal-moves"}),
        ("denied", "in_review", {"withdrawal-postings", "withdrawal-hold", "withdrawal-moves"}),
        ("denied", "cancelled", {"withdrawal-moves"}),
    ],
)
async def test_a_state_that_was_written_past_the_machine_is_found(
    world: World, state: str, written: str, checks: set[str]
):
    _, withdrawal_id = await made_in(world, state)
    as_owner(world, "UPDATE withdrawal SET state = %s WHERE id = %s", written, withdrawal_id)
    assert {d.check for d in await told_of(world, withdrawal_id)} == checks


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        (
            (
                "UPDATE withdrawal SET amount = amount - 1, payout_amount = payout_amount - 1"
                " WHERE id = %s"
            ),
            "withdrawal-postings",
        ),
        ("UPDATE withdrawal SET rail_account_id = 99 WHERE id = %s", "withdrawal-postings"),
        (
            (
                "UPDATE posting SET amount = amount + 1"
                " WHERE entry_id = (SELECT entry_request FROM withdrawal WHERE id = %s)"
            ),
            "withdrawal-postings",
        ),
        (
            (
                "DELETE FROM posting"
                " WHERE entry_id = (SELECT entry_returned FROM withdrawal WHERE id = %s)"
            ),
            "withdrawal-postings",
        ),
        (
            (
                "UPDATE hold SET state = 'released'"
                " WHERE id = (SELECT hold_id FROM withdrawal WHERE id = %s)"
            ),
            "withdrawal-hold",
        ),
        (
            "DELETE FROM hold WHERE id = (SELECT hold_id FROM withdrawal WHERE id = %s)",
            "withdrawal-hold",
        ),
        ("DELETE FROM withdrawal_move WHERE withdrawal_id = %s AND number = 2", "withdrawal-moves"),
        ("DELETE FROM withdrawal_move WHERE withdrawal_id = %s AND number = 5", "withdrawal-moves"),
        (
            "UPDATE withdrawal_move SET source = 'held' WHERE withdrawal_id = %s AND number = 3",
            "withdrawal-moves",
        ),
    ],
)
async def test_what_was_altered_is_found(world: World, statement: str, check: str):
    _, withdrawal_id = await made_in(world, "returned")
    assert await told_of(world, withdrawal_id) == []
    as_owner(world, statement, withdrawal_id)
    assert check in {d.check for d in await told_of(world, withdrawal_id)}


async def test_a_posting_that_stands_twice_is_found(world: World):
    _, withdrawal_id = await made_in(world, "paid")
    (posting_id,) = await world.run(new_ids)
    as_owner(
        world,
        "INSERT INTO posting SELECT %s, entry_id, source_id, destination_id, amount, asset,"
        " requested, source_previous, source_number, source_balance, destination_previous,"
        " destination_number, destination_balance FROM posting"
        " WHERE entry_id = (SELECT entry_paid FROM withdrawal WHERE id = %s) AND amount = 4000",
        posting_id,
        withdrawal_id,
    )
    # Outside of the entry's range of ids nobody reads it; the proof of the books names it.
    assert await told_of(world, withdrawal_id) == []
    strays = [d for d in await world.read(ledger_proof.prove) if d.check == "posting-entry"]
    assert [d.subject for d in strays] == [str(posting_id)]
    as_owner(
        world,
        "UPDATE entry SET last_posting_id = %s"
        " WHERE id = (SELECT entry_paid FROM withdrawal WHERE id = %s)",
        posting_id,
        withdrawal_id,
    )
    (difference,) = await told_of(world, withdrawal_id)
    assert (difference.check, difference.derived) == ("withdrawal-postings", "nothing")


async def test_money_given_back_under_another_entry_is_found(world: World):
    earner, withdrawal_id = await made_in(world, "sent")
    total = Money.parse("40.50", "EUR")

    async def give(tx: CellTx) -> int:
        hold_id = await tx.value("SELECT hold_id FROM withdrawal WHERE id = %s", (withdrawal_id,))
        entry = Entry(tx.id(), "release", "x", recipes.release(earner.user_id, total))
        (posted,) = await settle(tx, [Settle(hold_id, entry, total, "released")])
        assert posted.done
        return entry.id

    subject = text_id("en", 1, await world.run(give))
    (difference,) = [d for d in await world.read(proof.prove) if d.subject == subject]
    assert (difference.check, difference.derived) == ("withdrawal-postings", "nothing")
    assert difference.stored.startswith("release: held ")
    assert difference.stored.endswith(" 4050 EUR")
    assert {d.check for d in await told_of(world, withdrawal_id)} == {"withdrawal-hold"}


async def test_a_payment_that_no_withdrawal_asked_for_is_found(world: World):
    earner = await new_earner(world)
    amount = Money.parse("1.00", "EUR")

    async def pay(tx: CellTx) -> int:
        entry = Entry(tx.id(), "returned", "x", recipes.returned(earner.user_id, 7, amount))
        (posted,) = await post(tx, [entry])
        assert posted.done
        return entry.id

    entry_id = await world.run(pay)
    found = await world.read(proof.prove)
    assert text_id("en", 1, entry_id) in {d.subject for d in found}


DAMAGE: dict[str, str] = {
    "UPDATE hold SET amount = amount + 1, remaining = remaining + 1": "withdrawal-hold",
    "UPDATE hold SET expires_at = created_at": "withdrawal-hold",
    "UPDATE hold SET held_id = (SELECT held_id FROM hold WHERE id <> {hold} LIMIT 1)": (
        "withdrawal-hold"
    ),
    "UPDATE withdrawal_move SET source = 'paid', machine = 'reward'": "withdrawal-legal",
}


async def test_the_proof_names_what_was_altered_past_the_rights(world: World):
    await made_in(world, "sent")
    _, withdrawal_id = await made_in(world, "sent")
    subject = text_id("wd", 1, withdrawal_id)
    assert await told_of(world, withdrawal_id) == []
    async with await psycopg.AsyncConnection.connect(world.owner_dsn) as owner:
        for damage, check in DAMAGE.items():
            await owner.execute("SET LOCAL search_path TO cell_1")
            await owner.execute("SET LOCAL session_replication_role TO replica")
            hold = f"(SELECT hold_id FROM withdrawal WHERE id = {withdrawal_id})"
            one = f"id = {hold}" if "hold SET" in damage else f"withdrawal_id = {withdrawal_id}"
            done = await owner.execute(f"{damage.format(hold=hold)} WHERE {one}".encode())
            assert done.rowcount > 0
            tx = CellRead(owner, world.clock.now(), 1, "Europe/Berlin")
            found = await proof.prove(tx)
            await owner.rollback()
            assert (check, subject) in {(one.check, one.subject) for one in found}, damage
