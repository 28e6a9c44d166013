"""What a provider tells about money that came in: kept first, judged, applied once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.collecting import CAMPAIGN, TEN, Collecting, collecting_world
from tests.world import PostgresServer

from paymaster.kernel.errors import NotFound, Unauthenticated
from paymaster.kernel.ids import reference
from paymaster.kernel.money import Money
from paymaster.payin import outcome
from paymaster.rails.payin import ChargeOutcome, ChargeVerdict, RefundVerdict
from paymaster.settle import unmatched


@pytest.fixture
async def till(postgres: PostgresServer) -> AsyncIterator[Collecting]:
    async with collecting_world(postgres, cells=2) as collecting:
        yield collecting


async def unread(till: Collecting, cell: int = 1) -> list[tuple[str, str]]:
    """What lies there for people."""
    rows = await till.world.read(lambda tx: unmatched.listing(tx, 10), cell)
    return [(row.topic, row.result["slug"]) for row in rows]


async def test_twice_and_late_credits_once(till: Collecting) -> None:
    row = await till.opened()
    till.rail.pay(row.key)
    now = till.world.clock.now()
    first = till.rail.paid_notice("n1", now, row.key)
    for told in (first, first, till.rail.paid_notice("n2", now, row.key)):
        assert await till.hear(told) == b"thanks"
    done = await till.settle()
    assert (done.claimed, done.changed, done.refused) == (2, 1, 0)
    await till.later(timedelta(minutes=1))
    late = till.rail.paid_notice("n3", till.world.clock.now(), row.key)
    await till.hear(late)
    assert (await till.settle()).changed == 0
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert await unread(till) == []
    await till.assert_proven()


async def test_it_finds_the_cell_of_the_charge(till: Collecting) -> None:
    user = await till.user(2)
    row = await till.opened(user, 2, purpose="user")
    till.rail.pay(row.key)
    await till.hear(till.rail.paid_notice("n1", till.world.clock.now(), row.key))
    assert (await till.settle()).claimed == 0
    assert (await till.settle(2)).changed == 1
    assert await till.balance("available", user, 2) == 1000
    await till.assert_proven(2)


async def test_a_forged_or_stale_message_leaves_no_trace(till: Collecting) -> None:
    row = await till.opened()
    till.rail.pay(row.key)
    headers, body = till.rail.paid_notice("n1", till.world.clock.now(), row.key)
    with pytest.raises(Unauthenticated):
        await till.hear((headers, body.replace(b"10.00", b"99.00")))
    with pytest.raises(Unauthenticated):
        await till.hear(
            till.rail.paid_notice("n1", till.world.clock.now() - timedelta(hours=1), row.key)
        )
    assert (await till.settle()).claimed == 0
    assert await till.state(row) == "open"


@pytest.mark.parametrize(
    "wrong", [Money(999, "EUR"), Money(1001, "EUR"), Money(1000, "CNY"), Money(0, "EUR")]
)
async def test_another_amount_credits_nobody_and_a_person_is_told(
    till: Collecting, wrong: Money
) -> None:
    row = await till.opened()
    till.rail.pay(row.key, wrong)
    await till.hear(till.rail.paid_notice("n1", till.world.clock.now(), row.key))
    assert (await till.settle()).refused == 1
    seen = await till.see(row)
    assert (seen.state, seen.code) == ("disputed", "amount-differs")
    assert await till.balance("budget", CAMPAIGN) == 0
    assert await unread(till) == [("payin", "charge-disputed")]
    (told,) = await till.told("topup.disputed")
    assert told["code"] == "amount-differs"
    till.rail.pay(row.key, TEN)
    await till.hear(till.rail.paid_notice("n2", till.world.clock.now(), row.key))
    await till.settle()
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000
    await till.assert_proven()


async def test_a_wrong_amount_after_it_was_paid_changes_nothing(till: Collecting) -> None:
    row = await till.paid()
    till.rail.pay(row.key, Money(5000, "EUR"))
    await till.hear(till.rail.paid_notice("n1", till.world.clock.now(), row.key))
    assert (await till.settle()).refused == 1
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000
    assert await unread(till) == [("payin", "charge-disputed")]


async def test_paid_without_an_amount_is_looked_up_before_it_counts(till: Collecting) -> None:
    row = await till.opened()
    now = till.world.clock.now()
    await till.hear(till.rail.notice("n1", now, row.key, verdict="paid"))
    assert (await till.settle()).changed == 0
    assert await till.state(row) == "open"
    till.rail.pay(row.key)
    await till.later(timedelta(seconds=30))
    assert await till.state(row) == "paid"


async def test_what_is_about_nothing_of_ours_is_kept_for_people(till: Collecting) -> None:
    now = till.world.clock.now()
    nobodys = reference(1, 12345)
    foreign = reference(77, 12345)
    for number, key in enumerate((nobodys, foreign, "ORDER-17")):
        told = till.rail.notice(
            f"n{number}", now, key, verdict="paid", amount="10.00", currency="EUR"
        )
        assert await till.hear(told) == b"thanks"
    await till.settle()
    assert sorted(await unread(till)) == [
        ("payin", "charge-unknown"),
        ("payin.unmatched", "notice-unmatched"),
        ("payin.unmatched", "notice-unmatched"),
    ]


async def test_another_account_says_nothing_about_a_charge(till: Collecting) -> None:
    row = await till.opened()
    said = [ChargeOutcome(row.key, ChargeVerdict.PAID, amount=TEN)]
    (applied,) = await till.world.run(
        lambda tx: outcome.apply(tx, till.account.id + 1, said, evidence="test")
    )
    assert (applied.done, applied.slug) == (False, "charge-foreign")
    assert await till.state(row) == "open"


async def test_a_message_about_a_refund_ends_it(till: Collecting) -> None:
    row = await till.paid()
    await till.back(row)
    await till.round()
    key = (await till.refund(row)).key
    told = till.rail.notice(
        "n1",
        till.world.clock.now(),
        key,
        about="refund",
        verdict=RefundVerdict.DONE.value,
        amount="10.00",
        currency="EUR",
    )
    await till.hear(told)
    assert (await till.settle()).changed == 1
    assert (await till.refund(row)).state == "done"


async def test_closed_by_the_provider_and_then_paid_after_all(till: Collecting) -> None:
    row = await till.opened()
    now = till.world.clock.now()
    await till.hear(till.rail.notice("n1", now, row.key, verdict="closed"))
    await till.settle()
    assert await till.state(row) == "closed"
    till.rail.pay(row.key)
    await till.hear(till.rail.paid_notice("n2", now, row.key))
    await till.hear(till.rail.notice("n3", now, row.key, verdict="closed"))
    await till.settle()
    assert await till.state(row) == "paid"
    assert await till.balance("budget", CAMPAIGN) == 1000


async def test_what_the_books_refuse_waits_for_a_person(till: Collecting) -> None:
    import psycopg

    user = await till.user()
    first = await till.paid(user, purpose="user")
    assert await till.balance("available", user) == 1000
    row = await till.opened(user, purpose="user")
    with psycopg.connect(till.world.owner_dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE cell_1.account SET closed_at = now() WHERE kind = 'available'"
            " AND owner_id = %s",
            (user,),
        )
    till.rail.pay(row.key)
    await till.later(timedelta(seconds=30))
    seen = await till.see(row)
    assert (seen.state, seen.code) == ("disputed", "credit-refused")
    assert first.id != row.id
    assert len(await till.told("topup.disputed")) == 1
    await till.assert_proven()


async def test_an_account_without_such_a_rail_has_no_such_address(till: Collecting) -> None:
    from tests.scripted_rails import AskableRail

    till.payouts.rails["plain"] = AskableRail("plain")
    await till.payouts.add_account("plain", "plain")
    dbs, rails, sealer = till.world.dbs, till.payouts.rails, till.payouts.sealer
    from paymaster.settle.payin_webhook import Door

    door = Door(dbs, rails, sealer, 1)
    with pytest.raises(NotFound, match="webhook-unsupported"):
        await door.receive("plain", {}, b"{}", "t" * 32)
    refusal = Unauthenticated("webhook-signature", "no")
    assert await door.refusal("plain", refusal) is None
    answer = await door.refusal(till.account.rail.name, refusal)
    assert answer is not None
    assert answer.status == 403
