from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from tests.withdrawals import (
    BANK,
    assert_proven,
    available,
    made_in,
    new_earner,
    state_of,
    step,
    withdrawal_world,
)
from tests.world import ACTOR, PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, NotFound, PaymasterError
from paymaster.kernel.ids import new_trace_id
from paymaster.withdraw import moves
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.request import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

Work = Callable[[CellTx], Awaitable[object]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


async def racing(world: World, *works: Work) -> list[Any]:
    """All at once, each in its own transaction; a refusal is its own result."""

    async def one(work: Work) -> object:
        try:
            return await world.dbs.cell(1).run(ACTOR, new_trace_id(), work)
        except PaymasterError as error:
            return error

    return await asyncio.gather(*(one(work) for work in works))


async def test_cancel_racing_approve_ends_in_one_of_the_two_orders(world: World):
    for turn in range(8):
        earner, withdrawal_id = await made_in(world, "in_review")
        works: list[Work] = [
            lambda tx, e=earner, w=withdrawal_id: moves.cancel(tx, e.user_id, w),
            lambda tx, w=withdrawal_id: moves.approve(tx, w, "looks fine"),
        ]
        results = await racing(world, *(works if turn % 2 else works[::-1]))
        states = {r.state for r in results if isinstance(r, Moved)}
        refused = [r.slug for r in results if isinstance(r, Conflict)]
        assert (states, refused) in (
            ({"cancelled", "approved"}, []),  # approved, then cancelled
            ({"cancelled"}, ["illegal-move"]),
        )
        assert await state_of(world, withdrawal_id) == "cancelled"
        assert await available(world, earner) == ("100.00", "0.00")
    await assert_proven(world)


async def test_cancel_racing_send_ends_in_exactly_one(world: World):
    for turn in range(8):
        earner, withdrawal_id = await made_in(world, "approved")
        go = Step(withdrawal_id, Event.SEND, rail_account_id=BANK)
        works: list[Work] = [
            lambda tx, e=earner, w=withdrawal_id: moves.cancel(tx, e.user_id, w),
            lambda tx, go=go: move(tx, [go]),
        ]
        results = await racing(world, *(works if turn % 2 else works[::-1]))
        state = await state_of(world, withdrawal_id)
        stopped = any(isinstance(result, Conflict) for result in results)
        assert state == ("sending" if stopped else "cancelled")
        held = "40.50" if state == "sending" else "0.00"
        assert (await available(world, earner))[1] == held
    await assert_proven(world)


async def test_capture_racing_release_ends_in_exactly_one(world: World):
    for turn in range(8):
        earner, withdrawal_id = await made_in(world, "unknown")
        yes, no = Step(withdrawal_id, Event.SETTLE), Step(withdrawal_id, Event.REJECT, "AC01")
        steps = [yes, no] if turn % 2 else [no, yes]
        results = await racing(world, *(lambda tx, s=s: move(tx, [s]) for s in steps))
        done = [moved.done for result in results for moved in result]
        assert sorted(done) == [False, True]
        state = await state_of(world, withdrawal_id)
        assert await available(world, earner) == {
            "paid": ("59.50", "0.00"), "failed": ("100.00", "0.00"),
        }[state]  # fmt: skip
    await assert_proven(world)


@pytest.mark.parametrize(
    ("state", "event", "left"),
    [
        ("in_review", Event.DENY, ("100.00", "0.00")),
        ("sent", Event.REJECT, ("100.00", "0.00")),
        ("sent", Event.SETTLE, ("59.50", "0.00")),
        ("paid", Event.RETURN, ("99.50", "0.00")),
        ("requested", Event.CANCEL, ("100.00", "0.00")),
    ],
)
async def test_the_same_event_racing_itself_moves_money_once(
    world: World, state: str, event: Event, left: tuple[str, str]
):
    earner, withdrawal_id = await made_in(world, state)
    one = Step(withdrawal_id, event, reason="because")
    results = await racing(world, *(lambda tx: move(tx, [one]) for _ in range(6)))
    slugs = sorted(str(moved.slug) for result in results for moved in result)
    assert slugs == ["None", *["already"] * 5]
    assert await available(world, earner) == left
    await assert_proven(world)


async def test_batches_that_cross_do_not_deadlock_and_agree(world: World):
    ids = [(await made_in(world, "sent"))[1] for _ in range(6)]
    forward = [Step(i, Event.SETTLE) for i in ids]
    backward = [replace(one, event=Event.REJECT, reason="x") for one in reversed(forward)]
    results = await racing(
        world,
        *(lambda tx, s=s: move(tx, s) for s in (forward, backward, forward, backward)),
    )
    done = [moved.withdrawal_id for result in results for moved in result if moved.done]
    assert sorted(done) == sorted(ids)
    await assert_proven(world)


async def test_an_approval_that_is_faster_than_the_request_finds_nothing(world: World):
    """It must neither wait for a row that may never come nor leave a hold without an owner."""
    earner = await new_earner(world)
    inside, finish = asyncio.Event(), asyncio.Event()
    found: list[int] = []

    async def slow(tx: CellTx) -> None:
        (outcome,) = await request(tx, [earner.asks("10.00")])
        assert outcome.withdrawal_id is not None
        found.append(outcome.withdrawal_id)
        inside.set()
        await finish.wait()

    making = asyncio.create_task(world.run(slow))
    await inside.wait()
    with pytest.raises(NotFound):
        await world.run(lambda tx: moves.approve(tx, found[0], "quick"))
    finish.set()
    await making
    assert await state_of(world, found[0]) == "requested"
    assert (await step(world, found[0], Event.CANCEL)).done
    await assert_proven(world)
