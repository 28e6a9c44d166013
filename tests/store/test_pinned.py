"""A withdrawal goes where it was asked to go: a closed destination cancels what waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.withdrawals import (
    Earner,
    assert_proven,
    available,
    bring,
    insert_destination,
    made_in,
    requested,
    state_of,
    withdrawal_world,
)
from tests.world import PostgresServer, World, owner_rows

from paymaster.kernel.errors import Conflict, NotFound
from paymaster.kernel.ids import text_id
from paymaster.withdraw import holds, pinned
from paymaster.withdraw.machine import WAITING, State

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made
        await assert_proven(made)


async def closed(world: World, earner: Earner, **more: int) -> str:
    view = await world.run(lambda tx: pinned.close(tx, earner.destination_id, "moved away", **more))
    return view.state


@pytest.mark.parametrize("state", WAITING)
async def test_what_waits_is_cancelled_and_refunded(world: World, state: str) -> None:
    earner, number = await made_in(world, state)
    assert await closed(world, earner) == "closed"
    assert await state_of(world, number) == "cancelled"
    assert await available(world, earner) == ("100.00", "0.00")
    name = text_id("wd", 1, number)
    acts = owner_rows(
        world, "SELECT reason, detail ->> 'state' FROM audit WHERE subject = %s"
        " AND action = 'withdrawal.cancel'", name,
    )  # fmt: skip
    assert acts == [(pinned.REASON, "cancelled")]
    commits = owner_rows(
        world,
        "SELECT count(DISTINCT commit_id) FROM audit WHERE subject IN (%s, %s)"
        " AND action IN ('withdrawal.cancel', 'destination.close')",
        name,
        text_id("de", 1, earner.destination_id),
    )
    assert commits == [(1,)], "in one transaction"


@pytest.mark.parametrize("state", sorted({one.value for one in State} - set(WAITING)))
async def test_what_was_sent_or_is_over_stays_as_it_is(world: World, state: str) -> None:
    earner, number = await made_in(world, state)
    before = await available(world, earner)
    assert await closed(world, earner) == "closed"
    assert await state_of(world, number) == state
    assert await available(world, earner) == before


async def test_only_what_goes_there(world: World) -> None:
    earner, number = await made_in(world, "approved")
    other = await world.run(lambda tx: insert_destination(tx, earner.user_id))
    elsewhere = await requested(world, Earner(earner.user_id, other), "10.00")
    sent = await requested(world, earner, "5.00")
    await bring(world, sent, "sending")
    assert await closed(world, earner, user_id=earner.user_id) == "closed"
    found = [await state_of(world, one) for one in (number, elsewhere, sent)]
    assert found == ["cancelled", "requested", "sending"]
    assert await available(world, earner) == ("85.00", "15.00")
    assert await closed(world, earner) == "closed", "again is harmless"


@pytest.mark.parametrize("kind", ["user", "destination", "withdrawal"])
async def test_nothing_is_closed_while_an_order_freezes_it(world: World, kind: str) -> None:
    earner, number = await made_in(world, "approved")
    second = await requested(world, earner, "5.00")
    ids = {"user": earner.user_id, "destination": earner.destination_id, "withdrawal": second}
    row = await world.run(lambda tx: holds.place(tx, kind, ids[kind], "1 Gs 1", "served"))
    with pytest.raises(Conflict, match="held-by-order"):
        await closed(world, earner)
    assert [await state_of(world, one) for one in (number, second)] == ["approved", "requested"]
    await world.run(lambda tx: holds.lift(tx, row.id, "over"))
    assert await closed(world, earner) == "closed"
    assert [await state_of(world, one) for one in (number, second)] == ["cancelled"] * 2


async def test_a_stranger_closes_nothing(world: World) -> None:
    earner, number = await made_in(world, "approved")
    stranger, _ = await made_in(world, "requested")
    for user_id in (stranger.user_id, 4711):
        with pytest.raises(NotFound, match="destination-unknown"):
            await closed(world, earner, user_id=user_id)
    assert await state_of(world, number) == "approved"


async def test_a_dead_destination_is_closed_whatever_is_frozen(world: World) -> None:
    earner, held = await made_in(world, "approved")
    free = await requested(world, earner, "5.00")
    await world.run(lambda tx: holds.place(tx, "withdrawal", held, "1 Gs 1", "served"))
    await world.run(lambda tx: pinned.close_dead(tx, earner.destination_id, "AC04"))
    assert [await state_of(world, one) for one in (held, free)] == ["approved", "cancelled"]
    state = await world.read(
        lambda tx: tx.value("SELECT state FROM destination WHERE id = %s", (earner.destination_id,))
    )
    assert state == "closed"
