from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import LiteralString

import psycopg.errors
import pytest
import pytest_asyncio
from tests.withdrawals import (
    BANK,
    TOKEN,
    Earner,
    assert_proven,
    available,
    lend,
    made_in,
    step,
    withdrawal_world,
)
from tests.world import PostgresServer, World

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict
from paymaster.kernel.ids import text_id
from paymaster.kernel.machine import Move
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.hold import Settle, settle
from paymaster.withdraw import machine, moves
from paymaster.withdraw.machine import WITHDRAWAL, Event, State
from paymaster.withdraw.moves import Moved, Step, move

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


def ready(move: Move, withdrawal_id: int) -> Step:
    """A step that has everything its move may need."""
    return Step(
        withdrawal_id,
        Event(move.event),
        reason="because",
        rail_account_id=BANK if move.event in machine.CHOOSES_RAIL else None,
        lease_token=TOKEN if (move.source, move.event) in machine.LEASED else None,
    )


# ------------------------------------------------------------------------------------ the table


@pytest.mark.parametrize("one", WITHDRAWAL.moves, ids=lambda m: f"{m.source}-{m.event}")
async def test_each_move_of_the_table_happens(world: World, one: Move):
    earner, withdrawal_id = await made_in(world, one.source)
    before = await available(world, earner)
    await lend(world, withdrawal_id)
    (moved,) = await world.run(lambda tx: move(tx, [ready(one, withdrawal_id)]))
    assert moved == Moved(withdrawal_id, True, one.target, None)
    after = await available(world, earner)
    changed = {
        None: before,
        "release": ("100.00", "0.00"),
        "paid": ("59.50", "0.00"),
        "returned": ("99.50", "0.00"),
    }
    assert after == changed[one.recipe]


@pytest.mark.parametrize("state", State)
async def test_what_is_not_in_the_table_does_not_happen(world: World, state: State):
    earner, withdrawal_id = await made_in(world, state)
    before = await available(world, earner)
    await lend(world, withdrawal_id)
    events = [event for event in Event if not WITHDRAWAL.allows(state, event)]
    steps = [
        Step(withdrawal_id, e, reason="because", rail_account_id=BANK, lease_token=TOKEN)
        for e in events
    ]
    moved = await world.run(lambda tx: move(tx, steps))
    entered = machine.entered_by(state) if state != State.REQUESTED else None
    assert [m.slug for m in moved] == [
        "already" if event == entered else "illegal-move" for event in events
    ]
    assert {m.state for m in moved} == {state.value}
    assert await available(world, earner) == before


@pytest.mark.parametrize(
    ("source", "event", "target"),
    [
        ("paid", "cancel", "cancelled"),
        ("denied", "approve", "approved"),
        ("requested", "settle", "paid"),
        ("held", "approve", "approved"),
        ("screening", "approve", "paid"),
    ],
)
async def test_the_database_refuses_a_move_that_is_not_in_the_table(
    world: World, source: str, event: str, target: str
):
    _, withdrawal_id = await made_in(world, "requested")

    async def write(tx: CellTx) -> None:
        await tx.execute(
            "INSERT INTO withdrawal_move VALUES (%s, 1, 'withdrawal', %s, %s, %s, 'x', NULL, %s,"
            " %s, %s)",
            (withdrawal_id, source, event, target, tx.commit_id, tx.append(), tx.now),
        )

    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        await world.run(write)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE withdrawal_move SET target = 'paid'",
        "DELETE FROM withdrawal_move",
        "UPDATE withdrawal SET amount = 1",
        "UPDATE withdrawal SET destination_id = 1",
        "DELETE FROM withdrawal",
        "UPDATE destination SET sealed = ''",
        "UPDATE legal_move SET target = 'paid'",
    ],
)
async def test_the_application_may_not_rewrite_what_happened(
    world: World, statement: LiteralString
):
    """Nor swap the account behind a destination while money is held for it."""

    async def write(tx: CellTx) -> None:
        await tx.execute(statement)

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await world.run(write)


# ------------------------------------------------------------------------------------- batches


async def test_a_bad_step_does_not_stop_the_others(world: World):
    _, one = await made_in(world, "sent")
    _, two = await made_in(world, "cancelled")
    _, three = await made_in(world, "sent")
    moved = await world.run(
        lambda tx: move(
            tx,
            [
                Step(three, Event.SETTLE),
                Step(two, Event.SETTLE),
                Step(5, Event.SETTLE),
                Step(one, Event.REJECT, reason="AC01"),
            ],
        )
    )
    assert [(m.done, m.state, m.slug) for m in moved] == [
        (True, "paid", None),
        (False, "cancelled", "illegal-move"),
        (False, "", "not-found"),
        (True, "failed", None),
    ]
    await assert_proven(world)


async def test_steps_for_one_withdrawal_happen_one_after_the_other(world: World):
    earner, withdrawal_id = await made_in(world, "sent")
    back = Step(withdrawal_id, Event.RETURN, reason="AC04")
    moved = await world.run(lambda tx: move(tx, [Step(withdrawal_id, Event.SETTLE), back, back]))
    assert [(m.state, m.slug) for m in moved] == [
        ("paid", None), ("returned", None), ("returned", "already"),
    ]  # fmt: skip
    assert await available(world, earner) == ("99.50", "0.00")
    await assert_proven(world)


async def test_each_move_leaves_one_message_with_the_state_it_led_to(world: World):
    _, withdrawal_id = await made_in(world, "returned")
    subject = text_id("wd", 1, withdrawal_id)
    told = await world.read(
        lambda tx: tx.tuples(
            "SELECT o.topic, o.payload->>'state', (o.payload->>'number')::int, o.target_cell"
            " FROM outbox o JOIN commit c ON c.id = o.commit_id WHERE o.payload->>'id' = %s"
            " ORDER BY c.first_seq + o.ordinal",
            (subject,),
        )
    )
    life = ["requested", "screening", "approved", "sending", "paid", "returned"]
    assert told == [(f"withdrawal.{state}", state, n, None) for n, state in enumerate(life)]


# ------------------------------------------------------------------------- what a step must carry


async def test_reasons_are_asked_for(world: World):
    cases = {
        "sent": Event.REJECT,
        "unknown": Event.REJECT,
        "paid": Event.RETURN,
        "held": Event.DENY,
    }
    for state, event in cases.items():
        _, withdrawal_id = await made_in(world, state)
        for reason in (None, "", "  "):
            moved = await step(world, withdrawal_id, event, reason=reason)
            assert moved.slug == "reason-missing"
    for state in ("sending", "unknown"):
        _, withdrawal_id = await made_in(world, state)
        moved = await step(world, withdrawal_id, Event.QUEUE, rail_account_id=8)
        assert moved.slug == "reason-missing"
        moved = await step(
            world, withdrawal_id, Event.QUEUE, rail_account_id=8, reason="never left"
        )
        assert moved.state == "queued"


async def test_an_answer_from_another_account_than_the_chosen_one_moves_nothing(world: World):
    """UNKNOWN at one rail, sent anew at another: the late yes of the first must not book here."""
    earner, withdrawal_id = await made_in(world, "unknown")
    await step(world, withdrawal_id, Event.QUEUE, rail_account_id=8, reason="proven dead")
    await step(world, withdrawal_id, Event.SEND)
    moved = await step(world, withdrawal_id, Event.SETTLE, rail_account_id=BANK)
    assert moved.slug == "rail-account-differs"
    assert await available(world, earner) == ("59.50", "40.50")
    assert (await step(world, withdrawal_id, Event.SETTLE, rail_account_id=8)).done
    await assert_proven(world)


async def test_nothing_is_sent_without_an_account(world: World):
    _, withdrawal_id = await made_in(world, "approved")
    assert (await step(world, withdrawal_id, Event.SEND)).slug == "rail-account-missing"


async def test_nobody_approves_past_the_screening(world: World):
    _, withdrawal_id = await made_in(world, "screening")
    assert (await step(world, withdrawal_id, Event.APPROVE)).slug == "under-screening"
    with pytest.raises(Conflict) as refused:
        await world.run(lambda tx: moves.approve(tx, withdrawal_id, "looks fine"))
    assert refused.value.slug == "under-screening"


async def test_a_lost_lease_writes_nothing(world: World):
    _, withdrawal_id = await made_in(world, "screening")
    await lend(world, withdrawal_id, 1)
    await lend(world, withdrawal_id, 2)
    late = await step(world, withdrawal_id, Event.APPROVE, lease_token=1)
    assert (late.slug, late.state) == ("lease-lost", "screening")
    assert (await step(world, withdrawal_id, Event.APPROVE, lease_token=2)).done


async def test_anybody_elses_step_ends_the_lease(world: World):
    _, withdrawal_id = await made_in(world, "screening")
    await lend(world, withdrawal_id, 3)
    await step(world, withdrawal_id, Event.HOLD, reason="court order 7")
    await step(world, withdrawal_id, Event.RELEASE, reason="lifted")
    assert (await step(world, withdrawal_id, Event.SCREEN, lease_token=3)).slug == "lease-lost"


async def test_who_is_due_next(world: World):
    _, withdrawal_id = await made_in(world, "requested")
    later = world.clock.now() + timedelta(minutes=9)

    async def due() -> object:
        return await world.read(
            lambda tx: tx.value("SELECT due_at FROM withdrawal WHERE id = %s", (withdrawal_id,))
        )

    assert await due() == world.clock.now()
    await lend(world, withdrawal_id)
    await step(world, withdrawal_id, Event.SCREEN, lease_token=TOKEN, due_at=later)
    assert await due() == later
    await step(world, withdrawal_id, Event.APPROVE, lease_token=TOKEN)
    assert await due() == world.clock.now()
    await step(world, withdrawal_id, Event.QUEUE, rail_account_id=BANK, due_at=later)
    assert await due() == later
    await step(world, withdrawal_id, Event.SEND)
    assert await due() is None


# ------------------------------------------------------------------ user and destination change


@pytest.mark.parametrize(
    ("statement", "slug"),
    [
        ("UPDATE app_user SET status = 'suspended' WHERE id = %(user)s", "user-suspended"),
        ("UPDATE app_user SET status = 'closed' WHERE id = %(user)s", "user-closed"),
        (
            "UPDATE destination SET state = 'closed' WHERE id = %(destination)s",
            "destination-closed",
        ),
    ],
)
async def test_who_changed_meanwhile_goes_to_a_person_instead_of_the_rail(
    world: World, statement: LiteralString, slug: str
):
    for state, event in (
        ("screening", Event.APPROVE),
        ("approved", Event.SEND),
        ("queued", Event.SEND),
    ):
        earner, withdrawal_id = await made_in(world, state)
        await lend(world, withdrawal_id)

        async def change(tx: CellTx, earner: Earner = earner) -> None:
            names = {"user": earner.user_id, "destination": earner.destination_id}
            assert await tx.execute(statement, names) == 1

        await world.run(change)
        moved = await step(world, withdrawal_id, event, rail_account_id=None, lease_token=TOKEN)
        assert moved == Moved(withdrawal_id, False, "in_review", slug, diverted=True)
        stuck = await step(world, withdrawal_id, Event.APPROVE)
        assert (stuck.slug, stuck.diverted) == (slug, False)
        denied = await step(world, withdrawal_id, Event.DENY, reason=slug)
        assert denied.done
        assert await available(world, earner) == ("100.00", "0.00")
    await assert_proven(world)


# ------------------------------------------------------------------------------ books that refuse


async def test_a_hold_that_is_gone_refuses_the_move_and_is_told(world: World):
    earner, withdrawal_id = await made_in(world, "sent")
    total = Money.parse("40.50", "EUR")
    ((hold_id,),) = await world.read(
        lambda tx: tx.tuples("SELECT hold_id FROM withdrawal WHERE id = %s", (withdrawal_id,))
    )

    async def steal(tx: CellTx) -> None:
        entry = Entry(tx.id(), "release", "x", recipes.release(earner.user_id, total))
        (posted,) = await settle(tx, [Settle(hold_id, entry, total, "released")])
        assert posted.verdict is Verdict.POSTED

    async def undone(tx: CellTx) -> list[Moved]:
        await steal(tx)
        results = await move(tx, [Step(withdrawal_id, Event.SETTLE)])
        raise Undo(results)

    class Undo(Exception):
        pass

    with pytest.raises(Undo) as told:
        await world.run(undone)
    (moved,) = told.value.args[0]
    assert moved == Moved(withdrawal_id, False, "sent", "books-refused")
