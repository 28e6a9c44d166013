"""Orders that were made before an authority's order came, and have not left or may go again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from tests.gates import one_after_the_other
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail, FileRail
from tests.withdrawals import Earner, assert_proven
from tests.world import PostgresServer

from paymaster.dispatch import resolve
from paymaster.dispatch.desk import Order
from paymaster.kernel.errors import NeverSent, RailUnknown
from paymaster.withdraw import holds
from paymaster.withdraw.holds import LOOK_AGAIN

AWAY = NeverSent("provider-unreachable", "No connection.")


@pytest.fixture
def wallet() -> AskableRail:
    return AskableRail("wallet")


@pytest.fixture
def bank() -> FileRail:
    return FileRail("bank", kinds=frozenset({"sandbox-wallet"}))


@pytest.fixture
async def payouts(
    postgres: PostgresServer, wallet: AskableRail, bank: FileRail
) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, wallet, bank) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def place(payouts: Payouts, kind: str, number: int) -> int:
    row = await payouts.world.run(lambda tx: holds.place(tx, kind, number, "12 Gs 3", "served"))
    return row.id


async def go_on(payouts: Payouts, times: int = 4) -> None:
    dispatcher = payouts.dispatcher()
    for _ in range(times):
        payouts.world.clock.advance(LOOK_AGAIN)
        await payouts.run(dispatcher)


async def unsent(payouts: Payouts, wallet: AskableRail) -> tuple[Earner, int]:
    """A withdrawal whose order was made, and of which nothing has left."""
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    wallet.before = [AWAY]
    await payouts.deliver(await payouts.claim())
    assert await payouts.states(withdrawal) == ("sending", ["sending"])
    return earner, withdrawal


@pytest.mark.parametrize("kind", ["user", "destination", "withdrawal"])
async def test_what_has_not_left_does_not_leave(
    payouts: Payouts, wallet: AskableRail, kind: str
) -> None:
    earner, withdrawal = await unsent(payouts, wallet)
    subjects = {
        "user": earner.user_id, "destination": earner.destination_id, "withdrawal": withdrawal,
    }  # fmt: skip
    hold = await place(payouts, kind, subjects[kind])
    await go_on(payouts)
    assert sum(wallet.paid.values()) == 0
    assert (await payouts.states(withdrawal))[0] == "queued", "set aside as before"
    await payouts.world.run(lambda tx: holds.lift(tx, hold, "ended"))
    await go_on(payouts)
    assert (await payouts.states(withdrawal))[0] == "paid"


async def test_what_is_held_keeps_nobody_else_in_its_order_waiting(
    payouts: Payouts, bank: FileRail
) -> None:
    earners = [await new_payee(payouts, number, kind="sandbox-wallet") for number in (1, 2, 3)]
    made = [await approved(payouts, each, "10.00") for each in earners]
    bank.before = [AWAY]
    await payouts.deliver(await payouts.claim())
    await place(payouts, "user", earners[1].user_id)
    await go_on(payouts)
    states = [(await payouts.states(each))[0] for each in made]
    assert states == ["sent", "queued", "sent"]
    assert await payouts.key_of(made[1]) not in bank.paid


async def test_nothing_is_sent_again(payouts: Payouts, wallet: AskableRail) -> None:
    earner = await new_payee(payouts, 1)
    withdrawal = await approved(payouts, earner, "30.00")
    wallet.before = [RailUnknown("provider-silent", "No answer.")]
    await payouts.deliver(await payouts.claim())
    hold = await place(payouts, "user", earner.user_id)
    await go_on(payouts)
    assert sum(wallet.paid.values()) == 0
    assert await payouts.states(withdrawal) == ("unknown", ["unknown"])
    await payouts.world.run(lambda tx: holds.lift(tx, hold, "ended"))
    await go_on(payouts)
    assert await payouts.states(withdrawal) == ("paid", ["paid"])


async def test_a_hold_that_races_the_claim_of_an_order_that_never_left(
    payouts: Payouts, wallet: AskableRail
) -> None:
    earner, _ = await unsent(payouts, wallet)
    payouts.world.clock.advance(timedelta(minutes=5))
    desk, account = payouts.desk, payouts.accounts["wallet"]

    async def claim() -> list[Order]:
        return await payouts.world.run(lambda tx: resolve.claim_prepared(tx, desk, account, 10))

    async def hold() -> list[Order]:
        await place(payouts, "user", earner.user_id)
        return []

    _, orders = await one_after_the_other(payouts.world, hold, claim)
    assert orders == [], "the order of the authority was there first"
