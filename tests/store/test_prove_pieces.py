"""The proofs of rewards and withdrawals in pieces, while both go on; strays are named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.earning import Earning, earning_world, event
from tests.withdrawals import PATHS, bring, made_in, withdrawal_world
from tests.world import PostgresServer, World

from paymaster.db.snapshots import Pieces
from paymaster.earn import proof as earn_proof
from paymaster.earn import reward
from paymaster.kernel.ids import text_id
from paymaster.ledger.proof import Difference, prove_books
from paymaster.withdraw import proof as withdraw_proof

ONCE = {"kind": "count", "event": "done"}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(withdraw_proof, "PAGE", 3)
    monkeypatch.setattr(withdraw_proof, "ENTRIES_PAGE", 7)
    monkeypatch.setattr(earn_proof, "PAGE", 3)
    monkeypatch.setattr(earn_proof, "ENTRIES_PAGE", 7)


async def during(
    act: Callable[[], Awaitable[None]], look: Callable[[], Awaitable[list[Difference]]]
) -> int:
    """Look again and again while `act` runs; how often."""
    acting, looked = asyncio.ensure_future(act()), 0
    while not acting.done():
        assert await look() == []
        looked += 1
    await acting
    assert await look() == []
    return looked


async def test_withdrawals_that_move_meanwhile_are_no_differences(postgres: PostgresServer) -> None:
    async with withdrawal_world(postgres) as world:
        pieces = Pieces(world.cell)

        async def act() -> None:
            for state in [*PATHS, *PATHS]:
                await made_in(world, state)

        async def look() -> list[Difference]:
            return await withdraw_proof.prove_in(pieces) + (await prove_books(pieces)).differences

        assert await during(act, look) > 1


async def test_withdrawals_that_are_gone_leave_strays(postgres: PostgresServer) -> None:
    async with withdrawal_world(postgres) as world:
        for state in PATHS:
            await made_in(world, state)
        _, withdrawal_id = await made_in(world, "sent")
        entry_id, hold_id = alter(
            world,
            "DELETE FROM withdrawal WHERE id = %s RETURNING entry_request, hold_id",
            withdrawal_id,
        )
        found = await withdraw_proof.prove_in(Pieces(world.cell))
        assert {(each.check, each.subject) for each in found} == {
            ("withdrawal-postings", text_id("en", 1, entry_id)),
            ("withdrawal-hold", text_id("ho", 1, hold_id)),
            ("withdrawal-moves", text_id("wd", 1, withdrawal_id)),
        }


async def test_a_withdrawal_far_from_its_entries_is_found_all_the_same(
    postgres: PostgresServer,
) -> None:
    async with withdrawal_world(postgres) as world:
        for state in PATHS:
            await made_in(world, state)
        _, withdrawal_id = await made_in(world, "in_review")
        (moved,) = alter(
            world,
            "WITH moved AS (UPDATE withdrawal_move SET withdrawal_id = 77 WHERE withdrawal_id = %s)"
            " UPDATE withdrawal SET id = 77 WHERE id = %s RETURNING id",
            withdrawal_id,
            withdrawal_id,
        )
        assert moved == 77
        assert await withdraw_proof.prove_in(Pieces(world.cell)) == []


def alter(world: World, statement: str, *params: object) -> tuple[int, ...]:
    """Past all rights; what the statement returned."""
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute("SET session_replication_role TO replica")
        row = connection.execute(statement.encode(), params).fetchone()
        assert row is not None
        return row


def archive(world: World, through: datetime) -> None:
    """As if everything recorded until then had left for an archive."""
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute(
            "INSERT INTO archive (month, low_id, high_id, entries, postings, last_seq,"
            " recorded_through, chain_sum, link_sum, file, sha256, actor, archived_at, commit_id,"
            " ordinal) VALUES ('2026-10-01', 0, 1, 1, 1, 1, %s, 0, 0, 'x', '', 'x', %s, 1, 0)",
            (through, through),
        )
        gone = "SELECT e.id FROM entry e JOIN commit c ON c.id = e.commit_id"
        gone += " WHERE c.recorded_at <= %s"
        connection.execute(f"DELETE FROM posting WHERE entry_id IN ({gone})".encode(), (through,))
        connection.execute(f"DELETE FROM entry WHERE id IN ({gone})".encode(), (through,))


async def test_withdrawals_of_an_archived_month_need_no_entries(postgres: PostgresServer) -> None:
    async with withdrawal_world(postgres) as world:
        for state in PATHS:
            await made_in(world, state)
        _, waiting = await made_in(world, "requested")
        archive(world, world.clock.now())
        world.clock.advance(timedelta(hours=1))
        await bring(world, waiting, "paid")
        _, young = await made_in(world, "paid")
        pieces = Pieces(world.cell)
        assert await withdraw_proof.prove_in(pieces) == []
        # What was posted later must be there.
        for withdrawal_id, entry in ((waiting, "entry_paid"), (young, "entry_request")):
            alter(
                world,
                "DELETE FROM entry WHERE id = (SELECT " + entry + " FROM withdrawal WHERE id = %s)"
                " RETURNING id",
                withdrawal_id,
            )
            found = await withdraw_proof.prove_in(pieces)
            assert text_id("wd", 1, withdrawal_id) in {each.subject for each in found}


async def offered(earning: Earning, budget: str, users: int, **changes: Any) -> None:
    """A campaign with a task that one event completes, and users for it."""
    campaign = await earning.put_campaign(**changes)
    await earning.put_task(ONCE, reward="1.00")
    await earning.fund(campaign.number, budget)
    await earning.add_users(*(f"u{number}" for number in range(1, users + 1)))


async def complete(earning: Earning, number: int) -> None:
    (outcome,) = await earning.send(event(f"e{number}", f"u{number}", "done"))
    assert outcome.reward_id is not None


async def test_rewards_that_are_earned_meanwhile_are_no_differences(
    postgres: PostgresServer,
) -> None:
    async with earning_world(postgres) as earning:
        world, pieces = earning.world, Pieces(earning.world.cell)
        await offered(earning, "90.00", 12, vesting_seconds=60)

        async def act() -> None:
            for number in range(1, 13):
                await complete(earning, number)
                world.clock.advance(timedelta(seconds=20))
                await world.run(reward.mature_due)

        async def look() -> list[Difference]:
            return await earn_proof.prove_in(pieces) + (await prove_books(pieces)).differences

        assert await during(act, look) > 1


async def test_rewards_of_an_archived_month_need_no_entries(postgres: PostgresServer) -> None:
    async with earning_world(postgres) as earning:
        world, pieces = earning.world, Pieces(earning.world.cell)
        await offered(earning, "9.00", 4, vesting_seconds=60)
        await complete(earning, 1)
        world.clock.advance(timedelta(seconds=60))
        await world.run(reward.mature_due)
        await complete(earning, 2)
        archive(world, world.clock.now())
        world.clock.advance(timedelta(seconds=60))
        await world.run(reward.mature_due)
        await complete(earning, 3)
        assert await earn_proof.prove_in(pieces) == []
        alter(world, "DELETE FROM entry WHERE kind = 'reward' RETURNING id")
        found = await earn_proof.prove_in(pieces)
        assert {each.check for each in found} == {"earn-reward-entries", "earn-spent"}
        assert len(found) == 2


async def test_money_that_left_a_budget_for_no_reward_is_named(postgres: PostgresServer) -> None:
    async with earning_world(postgres) as earning:
        await offered(earning, "9.00", 4)
        for number in range(1, 5):
            await complete(earning, number)
        (entry_id,) = alter(
            earning.world,
            "UPDATE reward SET entry_credit = 5 WHERE id = (SELECT max(id) FROM reward)"
            " RETURNING (SELECT max(id) FROM entry WHERE kind = 'reward')",
        )
        found = await earn_proof.prove_in(Pieces(earning.world.cell))
        assert {(each.check, each.derived) for each in found} >= {("earn-spent", "no reward")}
        assert text_id("en", 1, entry_id) in {each.subject for each in found}
