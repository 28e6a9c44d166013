"""What is written down of a request, what an earner is told, and what a lifted hold wakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.quoting import PLAN, abroad, ask, quoted
from tests.withdrawals import made_in, new_earner, withdrawal_world
from tests.world import PostgresServer, World, owner_rows

from paymaster.kernel.errors import Conflict
from paymaster.kernel.ids import Ref
from paymaster.kernel.money import Money
from paymaster.ledger.balance import Balance, balances
from paymaster.people.factors.binding import Purpose
from paymaster.people.factors.policy import Policy, Rule
from paymaster.people.factors.proof import Shown
from paymaster.withdraw import automatic, holds, refused, view
from paymaster.withdraw.automatic_schedule import Plan
from paymaster.withdraw.fee_plans import NO_PLANS, Plans
from paymaster.withdraw.request import RequestWithdrawal, request
from paymaster.withdraw.whereabouts import Whereabouts


@pytest.fixture
async def world(postgres: PostgresServer) -> AsyncIterator[World]:
    async with withdrawal_world(postgres) as made:
        yield made


def details(world: World) -> list[dict[str, Any]]:
    rows = owner_rows(
        world,
        "SELECT detail FROM audit WHERE action = 'withdrawal.request' ORDER BY detail ? 'fee'",
    )
    return [row[0] for row in rows]


async def test_the_fee_of_a_request_is_in_the_audit_trail(world: World) -> None:
    for plans in (NO_PLANS, Plans(1, (PLAN,))):
        earner = await new_earner(world)
        wanted = RequestWithdrawal(earner.user_id, earner.destination_id, Money(1000, "EUR"))
        (made,) = await world.run(lambda tx, w=wanted, p=plans: request(tx, [w], plans=p))
        assert made.withdrawal_id is not None
    rows = owner_rows(world, "SELECT amount, fee, payout_amount FROM withdrawal ORDER BY fee")
    assert rows == [(1000, 0, 1000), (1000, 35, 1000)]
    plain, charged = details(world)
    assert plain["amount"] == charged["amount"] == {"amount": "10.00", "currency": "EUR"}
    assert "fee" not in plain
    assert "fee_plan" not in plain
    assert (charged["fee"], charged["fee_plan"]) == (
        {"amount": "0.35", "currency": "EUR"}, "normal/1",
    )  # fmt: skip
    assert "quote" not in charged


async def test_the_quote_of_a_request_is_in_the_audit_trail(world: World) -> None:
    one = await quoted(world, await abroad(world))
    (made,) = await ask(world, one.asks())
    assert made.withdrawal_id is not None
    (found,) = details(world)
    assert found["quote"].startswith("qt_")
    assert found["payout"] == {"amount": "43.08", "currency": "USD"}


@pytest.mark.parametrize("state", ["requested", "screening", "challenged", "approved", "queued"])
async def test_what_a_lifted_hold_kept_waiting_goes_on_at_once(world: World, state: str) -> None:
    _, withdrawal = await made_in(world, state)
    hold = await world.run(lambda tx: holds.place(tx, "withdrawal", withdrawal, "12 Gs", "served"))
    later = world.clock.now() + timedelta(minutes=15)
    owner_rows(world, "UPDATE withdrawal SET due_at = %s, tries = 3 RETURNING 1", later)
    await world.run(lambda tx: holds.lift(tx, hold.id, "ended"))
    ((due_at, tries),) = owner_rows(world, "SELECT due_at, tries FROM withdrawal")
    assert (due_at, tries) == (world.clock.now(), 0)


async def test_holds_are_listed_newest_first_in_pages(world: World) -> None:
    _, withdrawal = await made_in(world, "requested")
    placed: list[int] = []
    for number in range(3):
        world.clock.advance(timedelta(seconds=1))
        hold = await world.run(
            lambda tx, n=number: holds.place(tx, "withdrawal", withdrawal, f"12 Gs {n}", "served")
        )
        placed.insert(0, hold.id)

    async def page(**asked: Any) -> list[int]:
        return [row.id for row in await world.read(lambda tx: holds.listing(tx, **asked))]

    assert await page() == placed
    assert await page(limit=2) == placed[:2]
    assert await page(below=placed[1]) == placed[2:]
    assert await page(limit=0) == placed[:1]


async def test_withdrawals_are_listed_newest_first_in_pages(world: World) -> None:
    earner = await new_earner(world)
    made: list[int] = []
    for _ in range(3):
        world.clock.advance(timedelta(seconds=1))
        wanted = RequestWithdrawal(earner.user_id, earner.destination_id, Money(100, "EUR"))
        (one,) = await world.run(lambda tx, w=wanted: request(tx, [w], plans=NO_PLANS))
        made.insert(0, one.withdrawal_id or 0)

    async def page(**asked: Any) -> list[int]:
        found = await world.read(lambda tx: view.of_user(tx, earner.user_id, **asked))
        return [each.ref.id for each in found]

    assert await page() == made
    assert await page(limit=2) == made[:2]
    assert await page(before=made[1]) == made[2:]
    assert await page(limit=-1) == made[:1]


async def test_a_message_of_a_move_names_all_amounts(world: World) -> None:
    await made_in(world, "paid", "41.37")
    rows = owner_rows(world, "SELECT payload FROM outbox WHERE topic = 'withdrawal.paid'")
    (told,) = [row[0] for row in rows]
    assert told["id"].startswith("wd_")
    assert (told["amount"], told["fee"], told["payout"]) == (
        {"amount": "41.37", "currency": "EUR"},
        {"amount": "0.50", "currency": "EUR"},
        {"amount": "41.37", "currency": "EUR"},
    )
    assert (told["previous_state"], told["state"]) == ("sending", "paid")


async def test_a_default_that_nobody_confirmed_pays_nothing_where_that_is_asked(
    world: World,
) -> None:
    earner = await new_earner(world, "42.00")
    daily = Plan("schedule", Money(1000, "EUR"), None, "day")
    assert await world.run(lambda tx: automatic.adopt(tx, daily, 0)) is None
    world.clock.advance(timedelta(days=1))
    rules = automatic.Rules(steps=Policy((Rule(Purpose.WITHDRAWAL, "EUR", 2000),)))
    assert await world.run(lambda tx: automatic.run_scheduled(tx, rules, 100)) == 1
    (row,) = await world.read(lambda tx: automatic.listing(tx, earner.user_id))
    assert row.last_slug == "automatic-unproven"


async def test_thresholds_are_looked_at_in_pages(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(automatic, "LOOKED_AT", 2)
    reached = Plan("threshold", Money(1000, "EUR"))
    users: list[int] = []
    for _ in range(3):
        earner = await new_earner(world, "42.00")
        users.append(earner.user_id)
        choice = automatic.Choice(reached, earner.destination_id)
        shown = Shown(required=False)
        await world.run(
            lambda tx, u=earner.user_id, c=choice, s=shown: automatic.choose(tx, u, c, s)
        )
    first, second, third = sorted(users)
    ready, after = await world.read(lambda tx: automatic.reached(tx, (0, "")))
    assert ready == [(first, "EUR"), (second, "EUR")]
    assert after == (second, "EUR")
    found = await world.read(lambda tx: automatic.reached(tx, after or (0, "")))
    assert found == ([(third, "EUR")], None)


async def test_what_was_never_booked_is_zero(world: World) -> None:
    earner = await new_earner(world, "42.00")
    (found,) = await world.read(lambda tx: balances(tx, earner.user_id))
    zero, seq = Money.zero("EUR"), found.as_of_seq
    assert found == Balance("EUR", Money(4200, "EUR"), zero, zero, zero, seq, 0)
    assert await world.read(lambda tx: balances(tx, earner.user_id + 1)) == []
    assert seq > 0


def test_where_money_is_that_was_never_there_and_where_some_is_owed() -> None:
    def wire(*balances: Balance) -> dict[str, Any]:
        nothing: Any = None
        found = Whereabouts(Ref(1, 5), balances, [], [], [], [], [], {})
        return found.wire("en", nothing, nothing)

    assert wire()["as_of_seq"] == 0
    zero, none = Money.zero("EUR"), Money.zero("USD")
    sound = Balance("EUR", Money(300, "EUR"), zero, zero, zero, 7)
    indebted = Balance("USD", Money(300, "USD"), none, none, Money(700, "USD"), 9)
    told = wire(sound, indebted)
    assert told["as_of_seq"] == 9
    euro, dollar = told["data"]
    assert euro["debt"] == {"total": {"amount": "0.00", "currency": "EUR"}, "message": None}
    assert dollar["debt"]["total"] == {"amount": "7.00", "currency": "USD"}
    assert dollar["debt"]["message"]
    assert euro["withdrawable"]["amount"] == "3.00"
    assert dollar["withdrawable"]["amount"] == "0.00"


def test_an_earner_is_told_no_names_and_of_no_authority() -> None:
    plain = Conflict("illegal-move", "It is paid.", extra={"state": "paid"})
    assert refused.for_earner(plain) is plain
    held = Conflict("held-by-order", "12 Gs", extra={"moved_by": "person:pe_1"})
    assert refused.for_earner(held).slug == "account-under-review"
    assert "Gs" not in refused.for_earner(held).detail
    by_staff = Conflict(
        "illegal-move",
        "It was denied by kim.",
        extra={"moved_by": "person:pe_1", "moved_at": "2026-11-20T09:00:00Z", "state": "denied"},
    )
    told = refused.for_earner(by_staff)
    assert (told.slug, told.extra["state"]) == ("illegal-move", "denied")
    assert "pe_1" not in str(told.extra)
    assert "kim" not in told.detail
    assert told.detail == "It is denied since 2026-11-20T09:00:00Z; this was not done."


def test_an_app_is_told_of_an_order_but_not_of_which() -> None:
    plain = Conflict("illegal-move", "It is paid.")
    assert refused.for_app(plain) is plain
    told = refused.for_app(Conflict("held-by-order", "12 Gs 3/26"))
    assert told.slug == "held-by-order"
    assert "Gs" not in told.detail
