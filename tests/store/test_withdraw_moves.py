from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import psycopg.errors
import pytest
import pytest_asyncio
from tests.withdrawals import (
    BANK,
    TOKEN,
    Earner,
    assert_proven,
    available,
    bring,
    new_earner,
    requested,
    state_of,
    step,
    withdrawal_world,
)
from tests.world import ACTOR, PostgresServer, World

from paymaster.db import audit
from paymaster.db.tx import Actor, CellTx
from paymaster.kernel.errors import Conflict, NotFound, PaymasterError, Unprocessable
from paymaster.kernel.ids import new_trace_id, text_id
from paymaster.kernel.machine import Move
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Verdict
from paymaster.ledger.hold import Settle, settle
from paymaster.withdraw import machine, moves
from paymaster.withdraw.machine import WITHDRAWAL, Event, State
from paymaster.withdraw.moves import Moved, Step, move
from paymaster.withdraw.request import request

pytestmark = pytest.mark.asyncio(loop_scope="module")

Work = Callable[[CellTx], Awaitable[object]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres, connections=16) as made:
        yield made


async def made_in(world: World, state: str, amount: str = "40.00") -> tuple[Earner, int]:
    earner = await new_earner(world)
    withdrawal_id = await requested(world, earner, amount, "0.50")
    await bring(world, withdrawal_id, state)
    return earner, withdrawal_id


async def racing(world: World, *works: Work) -> list[object]:
    """All at once, each in its own transaction; a refusal is its own result."""

    async def one(work: Work) -> object:
        try:
            return await world.dbs.cell(1).run(ACTOR, new_trace_id(), work)
        except PaymasterError as error:
            return error

    return await asyncio.gather(*(one(work) for work in works))


def ready(move: Move, withdrawal_id: int) -> Step:
    """A step that has everything its move may need."""
    return Step(
        withdrawal_id,
        Event(move.event),
        reason="because",
        rail_account_id=BANK if move.event in machine.CHOOSES_RAIL else None,
        lease_token=TOKEN if (move.source, move.event) in machine.LEASED else None,
    )


async def lend(world: World, withdrawal_id: int, token: int = TOKEN) -> None:
    async def work(tx: CellTx) -> None:
        await tx.execute(
            "UPDATE withdrawal SET lease_token = %s WHERE id = %s", (token, withdrawal_id)
        )

    await world.run(work)


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
        ("held", "cancel", "cancelled"),
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
async def test_the_application_may_not_rewrite_what_happened(world: World, statement: str):
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
    world: World, statement: str, slug: str
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


# --------------------------------------------------------------------------------------- races


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


# ---------------------------------------------------------------------------- people's own doors


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
