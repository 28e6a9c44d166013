from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.withdrawals import (
    BANK,
    bring,
    new_earner,
    requested,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, reference
from paymaster.screen import default_rule_set
from paymaster.screen.decide import claim, decide
from paymaster.withdraw import moves, view
from paymaster.withdraw.machine import Event, State
from paymaster.withdraw.moves import Step, move

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, cells=3) as made:
        yield made


async def attempt(world: World, withdrawal_id: int) -> str:
    """An attempt as dispatch makes them; its key."""

    async def work(tx: CellTx) -> str:
        attempt_id, batch_id = tx.ids(2)
        key = reference(tx.cell, attempt_id)
        await tx.execute(
            "INSERT INTO batch (id, batch_key, rail_account_id, sealed, digest, items, total,"
            " asset, state, tries, lease_token, created_at, trace_id, version)"
            " VALUES (%s, %s, %s, 'x', 'x', 1, 4000, 'EUR', 'sent', 1, 0, %s, %s, 1)",
            (batch_id, f"B{key}", BANK, tx.now, tx.trace_id),
        )
        await tx.execute(
            "INSERT INTO attempt (id, withdrawal_id, number, batch_id, rail_account_id, key,"
            " amount, asset, state, provider_id, tries, lease_token, created_at, trace_id, version)"
            " VALUES (%s, %s, 1, %s, %s, %s, 4000, 'EUR', 'sent', 'p-77', 1, 0, %s, %s, 1)",
            (attempt_id, withdrawal_id, batch_id, BANK, key, tx.now, tx.trace_id),
        )
        return key

    return await world.run(work)


async def test_one_withdrawal_tells_its_whole_story(world: World):
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, "40.00", "0.50")
    taken = await world.run(lambda tx: claim(tx, 10))
    await world.run(lambda tx: decide(tx, taken, default_rule_set()))
    await world.run(lambda tx: move(tx, [Step(withdrawal_id, Event.SEND, rail_account_id=BANK)]))
    key = await attempt(world, withdrawal_id)
    await world.run(lambda tx: move(tx, [Step(withdrawal_id, Event.SETTLE)]))
    await world.run(lambda tx: moves.reverse(tx, withdrawal_id, "recall 99"))

    story = await world.read(lambda tx: view.story(tx, withdrawal_id))
    wire = json.loads(json.dumps(story.wire()))
    assert wire["state"] == "returned"
    assert wire["amount"] == {"amount": "40.00", "currency": "EUR"}
    assert wire["destination_mask"] == "DE** 1234"
    assert wire["external_id"] == f"user-{earner.user_id}"
    assert [(m["from"], m["event"], m["to"]) for m in wire["moves"]] == [
        ("requested", "screen", "screening"),
        ("screening", "approve", "approved"),
        ("approved", "send", "sending"),
        ("sending", "settle", "paid"),
        ("paid", "return", "returned"),
    ]
    assert [m["number"] for m in wire["moves"]] == [1, 2, 3, 4, 5]
    order = [m["seq"] for m in wire["moves"]]
    assert order == sorted(order)
    assert [(a["key"], a["provider_id"], a["state"]) for a in wire["attempts"]] == [
        (key, "p-77", "sent")
    ]
    assert [(v["outcome"], v["reasons"], v["rule_set_version"]) for v in wire["verdicts"]] == [
        ("approved", [], 1)
    ]
    assert [(e["kind"], e["amount"]["amount"]) for e in wire["entries"]] == [
        ("request", "40.50"),
        ("paid", "40.50"),
        ("returned", "40.00"),
    ]
    assert [(a["action"], a["reason"]) for a in wire["acts"]] == [
        ("withdrawal.request", None),
        ("withdrawal.return", "recall 99"),
    ]
    traces = await world.read(
        lambda tx: tx.tuples(
            "SELECT DISTINCT payload->>'trace_id' FROM outbox WHERE payload->>'id' = %s",
            (wire["id"],),
        )
    )
    assert traces == [(wire["trace_id"],)]


async def test_a_user_sees_only_their_own(world: World):
    earner, other = await new_earner(world), await new_earner(world)
    withdrawal_id = await requested(world, earner, "1.00")
    mine = await world.read(lambda tx: view.one(tx, withdrawal_id, user_id=earner.user_id))
    assert mine.ref == Ref(1, withdrawal_id)
    for work in (
        lambda tx: view.one(tx, withdrawal_id, user_id=other.user_id),
        lambda tx: view.story(tx, withdrawal_id, user_id=other.user_id),
        lambda tx: view.story(tx, 77),
    ):
        with pytest.raises(NotFound):
            await world.read(work)


async def test_a_users_list_is_paged_newest_first(world: World):
    earner = await new_earner(world)
    ids = [await requested(world, earner, "1.00") for _ in range(7)]
    seen: list[int] = []
    before = None
    while page := await world.read(
        lambda tx, b=before: view.of_user(tx, earner.user_id, before=b, limit=3)
    ):
        assert len(page) <= 3
        seen += [one.ref.id for one in page]
        before = seen[-1]
    assert seen == ids[::-1]


async def test_the_list_of_an_environment_is_its_cells_merged_without_gap_or_double(world: World):
    made: list[Ref] = []
    for turn in range(12):
        cell = turn % 3 + 1
        earner = await new_earner(world, cell=cell)
        made.append(Ref(cell, await requested(world, earner, "1.00")))
    for ref in made:
        await world.run(lambda tx, r=ref: move(tx, [Step(r.id, Event.HOLD, "order 7")]), ref.cell)
    seen: list[Ref] = []
    before: Ref | None = None
    while True:
        pages = [
            await world.read(
                lambda tx, b=before: view.in_state(tx, State.HELD, before=b, limit=5), cell.number
            )
            for cell in world.dbs.cells(1)
        ]
        page = view.merge(pages, 5)
        if not page:
            break
        seen += [one.ref for one in page]
        before = seen[-1]
    assert sorted(seen, key=lambda r: (r.id, r.cell)) == seen[::-1]
    assert set(seen) == set(made)
    assert len(seen) == len(made)


async def test_equal_ids_in_two_cells_are_both_listed(world: World):
    """Ids are unique within a cell only."""
    for cell in (2, 3):
        earner = await new_earner(world, cell=cell)
        withdrawal_id = await requested(world, earner, "1.00")
        await world.run(
            lambda tx, i=withdrawal_id: tx.execute(
                "INSERT INTO withdrawal SELECT 4242, user_id, destination_id, amount, fee, asset,"
                " 'queued', number, %s, %s, %s, %s, %s, rail_account_id, reason, due_at, tries,"
                " lease_token, requested_at, trace_id, version, payout_amount, payout_asset,"
                " fee_payer, fee_back FROM withdrawal WHERE id = %s",
                (*tx.ids(5), i),
            ),
            cell,
        )

    async def page(before: Ref | None) -> list[Ref]:
        pages = [
            await world.read(
                lambda tx: view.in_state(tx, State.QUEUED, before=before, limit=1), cell
            )
            for cell in (2, 3)
        ]
        return [one.ref for one in view.merge(pages, 1)]

    assert await page(None) == [Ref(3, 4242)]
    assert await page(Ref(3, 4242)) == [Ref(2, 4242)]
    assert await page(Ref(2, 4242)) == []


async def test_states_are_counted(world: World):
    before = dict(await world.read(view.counts))
    earner = await new_earner(world)
    await bring(world, await requested(world, earner, "1.00"), "unknown")
    after = await world.read(view.counts)
    assert after["unknown"] == before.get("unknown", 0) + 1
    everything = await world.read(lambda tx: view.in_state(tx, None, limit=500))
    assert len(everything) == sum(after.values())
