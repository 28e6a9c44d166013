"""Taking money in: opened once, credited once, whatever is lost, repeated, or late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.collecting import CAMPAIGN, TEN, Collecting, collecting_world
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Conflict, NeverSent, RailUnknown, Unprocessable
from paymaster.kernel.money import Money
from paymaster.payin import request, sealed
from paymaster.payin.machine import CHARGE, ChargeEvent, ChargeState
from paymaster.payin.run import Collector
from paymaster.rails.base import RailAccount
from paymaster.rails.payin import Charge, Checkout

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def till(postgres: PostgresServer) -> AsyncIterator[Collecting]:
    async with collecting_world(postgres) as collecting:
        yield collecting


async def test_a_sponsor_pays_and_the_budget_grows_by_exactly_that(till: Collecting) -> None:
    row = await till.opened()
    assert row.state == "open"
    secret = sealed.read(till.payouts.sealer, 1, row.id, row.sealed)
    assert secret.checkout is not None
    assert secret.checkout.content == f"https://pay.test/{row.key}"
    assert await till.balance("budget", CAMPAIGN) == 0
    till.rail.pay(row.key)
    await till.later(MINUTE)
    row = await till.see(row)
    assert (row.state, row.provider_id, row.sealed) == ("paid", f"tx_{row.key}", None)
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert await till.balance("incoming", till.account.id) == -1000
    assert [each["state"] for each in await till.told("topup.paid")] == ["paid"]
    await till.later(timedelta(days=1))
    assert await till.balance("budget", CAMPAIGN) == 1000
    await till.assert_proven()


async def test_a_user_who_owes_pays_that_back_first(till: Collecting) -> None:
    from paymaster.ledger import recipes
    from paymaster.ledger.chart import Account
    from paymaster.ledger.entry import Entry, Posting
    from paymaster.ledger.post import post

    user = await till.user()

    async def owe(tx: CellTx) -> None:
        owed = Money(300, "EUR")
        debt, budget = Account("debt", user, "EUR"), Account("budget", CAMPAIGN, "EUR")
        (done,) = await post(tx, [Entry(tx.id(), "reverse", "x", (Posting(debt, budget, owed),))])
        assert done.done

    await till.world.run(owe)
    assert recipes.__doc__
    row = await till.paid(user, purpose="user")
    assert row.state == "paid"
    assert await till.balance("available", user) == 700
    assert await till.balance("debt", user) == 0


async def test_a_call_that_never_left_is_made_again(till: Collecting) -> None:
    till.rail.before = [NeverSent("transport-unreachable", "away")] * 3
    row = await till.new()
    await till.round()
    seen = await till.see(row)
    assert (seen.state, seen.maybe_there, seen.tries) == ("requested", False, 1)
    for _ in range(4):
        await till.later(timedelta(seconds=20))
    assert await till.state(row) == "open"
    assert [what for what, _ in till.rail.calls].count("find") == 1


async def test_an_answer_that_was_lost_is_asked_for_before_the_number_is_sent_again(
    till: Collecting,
) -> None:
    till.rail.after = [RailUnknown("provider-silent", "no answer")]
    row = await till.new()
    await till.round()
    assert await till.state(row) == "unknown"
    for _ in range(3):
        await till.later(timedelta(seconds=10))
    assert await till.state(row) == "open"
    assert [what for what, _ in till.rail.calls][:3] == ["open", "find", "open"]
    assert till.rail.opened[row.key] == 2
    assert len(till.rail.known) == 1


async def test_never_sent_after_an_unknown_try_is_still_unknown(till: Collecting) -> None:
    till.rail.after = [RailUnknown("provider-silent", "no answer")]
    row = await till.new()
    await till.round()
    await till.later(timedelta(seconds=3))
    till.rail.before = [NeverSent("transport-unreachable", "away")]
    await till.later(timedelta(seconds=10))
    seen = await till.see(row)
    assert (seen.state, seen.maybe_there) == ("unknown", True)


async def test_who_opened_it_and_died_leaves_it_unknown_and_it_is_opened_under_its_number(
    till: Collecting,
) -> None:
    row = await till.new()
    reached, held = asyncio.Event(), asyncio.Event()
    opening = till.rail.open_charge

    async def hang(*args: Any) -> Checkout:
        found = await opening(*args)
        reached.set()
        await held.wait()
        return found

    till.rail.open_charge = hang  # pyright: ignore[reportAttributeAccessIssue]
    assert await till.collector.tick(1) == 1
    await reached.wait()
    await till.collector.stop()
    till.rail.open_charge = opening
    assert await till.state(row) == "opening"
    await till.later(timedelta(seconds=61))
    for _ in range(3):
        await till.later(timedelta(seconds=10))
    assert await till.state(row) == "open"
    assert len(till.rail.known) == 1


async def test_what_nobody_pays_is_closed_after_it_has_expired_and_not_before(
    till: Collecting,
) -> None:
    row = await till.opened()
    for _ in range(6):
        await till.later(4 * MINUTE)
    assert await till.state(row) == "open"
    assert "close" not in {what for what, _ in till.rail.calls}
    await till.later(7 * MINUTE)
    assert await till.state(row) == "closed"
    assert (await till.see(row)).sealed is None
    calls = len(till.rail.calls)
    await till.later(timedelta(days=2))
    assert len(till.rail.calls) == calls


async def test_who_wishes_it_closed_waits_until_the_provider_may_be_asked(till: Collecting) -> None:
    row = await till.opened()
    await till.world.run(lambda tx: request.close(tx, row.id))
    await till.round()
    assert await till.state(row) == "open"
    assert "close" not in {what for what, _ in till.rail.calls}
    await till.later(timedelta(minutes=5, seconds=11))
    assert await till.state(row) == "closed"
    again = await till.world.run(lambda tx: request.close(tx, row.id))
    assert again.state == "closed"


async def test_what_was_never_sent_is_closed_at_once(till: Collecting) -> None:
    row = await till.new()
    closed = await till.world.run(lambda tx: request.close(tx, row.id))
    assert closed.state == "closed"
    await till.later(MINUTE)
    assert till.rail.calls == []


async def test_a_payer_who_is_quicker_than_the_closing_is_credited(till: Collecting) -> None:
    row = await till.opened()
    till.rail.silent = 100
    await till.later(29 * MINUTE)
    till.rail.pay(row.key)
    till.rail.silent = 0
    await till.later(2 * MINUTE)
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000
    with pytest.raises(Conflict, match="topup-paid"):
        await till.world.run(lambda tx: request.close(tx, row.id))


async def test_paid_after_it_was_closed_is_credited_all_the_same(till: Collecting) -> None:
    from paymaster.rails.payin import ChargeVerdict

    row = await till.opened()
    await till.later(31 * MINUTE)
    assert await till.state(row) == "closed"
    till.rail.known[row.key].verdict = ChargeVerdict.OPEN
    till.rail.pay(row.key)
    assert (
        await till.hear(till.rail.paid_notice("n1", till.world.clock.now(), row.key)) == b"thanks"
    )
    await till.settle()
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000
    await till.assert_proven()


async def test_an_unknown_charge_that_the_provider_never_saw_ends_when_that_is_proven(
    till: Collecting,
) -> None:
    till.rail.before = [RailUnknown("provider-silent", "no answer")]
    row = await till.new(lasts=timedelta(minutes=5))
    await till.round()
    till.rail.off = True
    till.rail.before = [RailUnknown("provider-silent", "no answer")] * 30
    for _ in range(20):
        await till.later(timedelta(seconds=50))
    assert await till.state(row) in {"unknown", "opening"}
    till.rail.before = []
    till.rail.known.clear()
    await till.later(timedelta(minutes=20))
    await till.later(timedelta(minutes=20))
    assert await till.state(row) == "closed"


async def test_a_paused_account_opens_nothing_and_still_gets_its_answers(till: Collecting) -> None:
    from paymaster.db.tx import Actor
    from paymaster.dispatch import accounts

    before = await till.opened()
    waiting = await till.new()
    await till.world.dbs.control.run(
        Actor("test"),
        "",
        lambda tx: accounts.set_state(tx, 1, 1, till.rail.caps.name, "paused", "test"),
    )
    till.rail.pay(before.key)
    await till.later(MINUTE)
    assert await till.state(before) == "paid"
    assert await till.state(waiting) == "requested"
    await till.payouts.reload()
    with pytest.raises(Unprocessable, match="topup-unavailable"):
        await till.new()


async def test_settings_that_name_another_merchant_open_no_number_a_second_time(
    till: Collecting,
) -> None:
    from paymaster.db.tx import Actor
    from paymaster.dispatch import accounts
    from paymaster.dispatch.accounts import NewAccount

    till.rail.after = [RailUnknown("provider-silent", "no answer")]
    row = await till.new()
    await till.round()
    new = NewAccount(till.rail.caps.name, till.rail.caps.name, "EUR", {"merchant": "other"}, {})
    await till.world.dbs.control.run(
        Actor("test"), "", lambda tx: accounts.put(tx, 1, 1, new, till.payouts.rails)
    )
    till.rail.known.clear()
    for _ in range(5):
        await till.later(MINUTE)
    assert till.rail.opened[row.key] == 1
    assert await till.state(row) == "unknown"
    await till.later(timedelta(hours=1))
    assert await till.state(row) == "unknown", "another merchant's ignorance proves nothing"
    await till.later(timedelta(days=8))
    calls = len(till.rail.calls)
    await till.later(timedelta(days=8))
    assert len(till.rail.calls) == calls, "it is not asked about for ever"


@pytest.mark.parametrize(
    ("wrong", "slug"),
    [
        ({"method": "cheque"}, "topup-method"),
        ({"amount": Money(1000, "CNY")}, "topup-currency"),
        ({"amount": Money(0, "EUR")}, "topup-amount"),
        ({"lasts": timedelta(minutes=4)}, "topup-lasts"),
        ({"lasts": timedelta(hours=3)}, "topup-lasts"),
        ({"method": "app"}, "topup-payer"),
        ({"description": "bad"}, "charge-refused"),
    ],
)
async def test_what_cannot_be_asked_for(till: Collecting, wrong: dict[str, Any], slug: str) -> None:
    till.rail.refused["bad"] = "Not like that."
    with pytest.raises(Unprocessable, match=slug):
        await till.new(**wrong)
    await till.round()
    assert till.rail.calls == []


async def test_limits_of_the_account_hold(till: Collecting) -> None:
    settings = {"payin_minimum": "500", "payin_maximum": "2000"}
    till.payouts.accounts[till.rail.caps.name] = await till.payouts.add_account(
        "limited", till.rail.caps.name, settings=settings
    )
    for minor in (499, 2001):
        with pytest.raises(Unprocessable, match=r"at least 5\.00 and at most 20\.00"):
            await till.new(amount=Money(minor, "EUR"))
    for minor in (500, 2000):
        assert (await till.new(amount=Money(minor, "EUR"))).state == "requested"


async def test_a_sick_account_holds_up_no_other(
    till: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    await till.payouts.add_account("other", till.rail.caps.name)
    mine = await till.new()
    theirs = await till.new(account=till.payouts.accounts["other"])
    never, opening = asyncio.Event(), till.rail.open_charge
    written, write = asyncio.Event(), Collector._write

    async def hang(account: RailAccount, charge: Charge) -> Checkout:
        if account.name == "other":
            await never.wait()
        return await opening(account, charge)

    async def seen(*args: Any) -> None:
        await write(*args)
        written.set()

    till.rail.open_charge = hang
    monkeypatch.setattr(Collector, "_write", seen)
    await till.collector.tick(1)
    await written.wait()
    assert await till.state(mine) == "open"
    assert await till.state(theirs) == "opening"
    await till.collector.stop()


def test_every_state_can_still_be_paid_but_the_one_that_is() -> None:
    payable = set(CHARGE.sources(ChargeEvent.PAY))
    assert payable == {state.value for state in ChargeState} - {"paid"}
    assert CHARGE.terminal() == {"paid"}


async def test_the_method_decides_what_is_shown(till: Collecting) -> None:
    row = await till.opened(method="app", payer="openid", back_to="https://app.test/")
    found = sealed.read(till.payouts.sealer, 1, row.id, row.sealed)
    assert (row.shows, found.payer, found.back_to) == ("parameters", "openid", "https://app.test/")
    assert found.checkout is not None
    assert found.checkout.parameters == {"prepay": row.key}
    assert "openid" not in repr(row)
    assert row.money == TEN
