from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.withdrawals import (
    assert_proven,
    available,
    made_in,
    new_earner,
    state_of,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db import audit
from paymaster.db.tx import Actor
from paymaster.kernel.errors import Conflict, NotFound, Unprocessable
from paymaster.kernel.ids import new_trace_id, text_id
from paymaster.withdraw import moves
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Step

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


async def test_people_say_why_and_are_written_down(world: World):
    _, withdrawal_id = await made_in(world, "in_review")
    clerk = Actor("staff:clerk-1", "192.0.2.7")
    with pytest.raises(Unprocessable) as refused:
        await world.run(lambda tx: moves.deny(tx, withdrawal_id, " "))
    assert refused.value.slug == "reason-missing"
    trace = new_trace_id()
    await world.dbs.cell(1).run(
        clerk, trace, lambda tx: moves.hold(tx, withdrawal_id, "court order 7")
    )
    await world.run(lambda tx: moves.release(tx, withdrawal_id, "order 7 lifted"))
    acts = await world.read(lambda tx: audit.of_subject(tx, text_id("wd", 1, withdrawal_id)))
    held = next(act for act in acts if act.action == "withdrawal.hold")
    assert (held.actor, held.origin, held.reason) == ("staff:clerk-1", "192.0.2.7", "court order 7")
    assert held.trace_id == trace
    assert held.detail == {"done": True, "state": "held", "slug": None}
    assert await state_of(world, withdrawal_id) == "requested"


async def test_doors_refuse_with_words(world: World):
    earner, withdrawal_id = await made_in(world, "sent")
    stranger = await new_earner(world)
    for work, slug in (
        (lambda tx: moves.cancel(tx, earner.user_id, withdrawal_id), "illegal-move"),
        (lambda tx: moves.hold(tx, withdrawal_id, "x"), "illegal-move"),
        (lambda tx: moves.reverse(tx, withdrawal_id, "x"), "illegal-move"),
    ):
        with pytest.raises(Conflict) as refused:
            await world.run(work)
        assert refused.value.slug == slug
        assert "sent" in refused.value.detail
    for work in (
        lambda tx: moves.cancel(tx, stranger.user_id, withdrawal_id),
        lambda tx: moves.deny(tx, 12345, "x"),
    ):
        with pytest.raises(NotFound):
            await world.run(work)


async def test_reversed_by_an_operator_and_cancelled_twice(world: World):
    earner, withdrawal_id = await made_in(world, "paid")
    moved = await world.run(lambda tx: moves.reverse(tx, withdrawal_id, "recall 99 confirmed"))
    assert moved.state == "returned"
    assert await available(world, earner) == ("99.50", "0.00")
    earner, withdrawal_id = await made_in(world, "requested")
    for slug in (None, "already"):
        moved = await world.run(lambda tx: moves.cancel(tx, earner.user_id, withdrawal_id))
        assert (moved.state, moved.slug) == ("cancelled", slug)
    await assert_proven(world)


async def test_people_do_not_speak_for_the_rail(world: World):
    _, withdrawal_id = await made_in(world, "sent")
    (moved,) = await world.run(lambda tx: moves.act(tx, [Step(withdrawal_id, Event.SETTLE)]))
    assert moved.slug == "not-for-people"
    assert await state_of(world, withdrawal_id) == "sent"
