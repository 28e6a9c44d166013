"""Notices that are applied together, and what is written down when a person tries one again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random

import pytest
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.kernel.ids import new_trace_id, reference
from paymaster.rails.base import Verdict
from paymaster.settle import unmatched
from paymaster.settle.apply import Applying, apply_due
from paymaster.settle.webhook import receive

SOURCE = "webhook:wallet"


@pytest.fixture
def rail() -> AskableRail:
    return AskableRail("wallet")


@pytest.fixture
async def payouts(postgres: PostgresServer, rail: AskableRail) -> AsyncIterator[Payouts]:
    async with payout_world(postgres, rail) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def tell(
    payouts: Payouts, rail: AskableRail, key: str, event: str, batch: str | None = None
) -> None:
    more = {} if batch is None else {"batch": batch}
    call = rail.call(key, Verdict.PAID, event, payouts.world.clock.now(), **more)
    await receive(
        payouts.world.dbs, payouts.rails, payouts.sealer, 1, "wallet",
        trace_id=new_trace_id(), **call,
    )  # fmt: skip


async def apply(payouts: Payouts) -> Applying:
    return await apply_due(payouts.world.dbs.cell(1), payouts.sealer, Random(1))


async def sent(payouts: Payouts, number: int) -> tuple[int, str]:
    withdrawal = await approved(payouts, await new_payee(payouts, number), "30.00")
    await payouts.deliver(await payouts.claim())
    return withdrawal, await payouts.key_of(withdrawal)


async def test_one_about_no_order_of_ours_stops_none_behind_it(
    payouts: Payouts, rail: AskableRail
) -> None:
    first, key = await sent(payouts, 1)
    second, other = await sent(payouts, 2)
    unknown = reference(1, 4711)
    await tell(payouts, rail, key, "ev_1")
    await tell(payouts, rail, unknown, "ev_2", unknown)
    await tell(payouts, rail, other, "ev_3")
    assert await apply(payouts) == Applying(claimed=3, changed=2, refused=1)
    for withdrawal in (first, second):
        assert await payouts.states(withdrawal) == ("paid", ["paid"])
    (found,) = await payouts.world.read(lambda tx: unmatched.listing(tx, 10))
    assert found.message_id == "ev_2"
    assert found.result == {
        "changed": 0, "slug": "attempt-unknown", "detail": "No such order.", "keys": [unknown],
    }  # fmt: skip


async def test_one_that_cannot_be_opened_changes_nothing_and_is_not_counted(
    payouts: Payouts, rail: AskableRail
) -> None:
    _, key = await sent(payouts, 1)
    await tell(payouts, rail, key, "ev_1")
    owner_rows(payouts.world, "UPDATE inbox SET sealed = 'x' RETURNING 1")
    assert await apply(payouts) == Applying(claimed=1, changed=0, refused=0)
    owner_rows(
        payouts.world, "UPDATE inbox SET tries = 7, due_at = now() - interval '1 year' RETURNING 1"
    )
    assert await apply(payouts) == Applying(claimed=1, changed=0, refused=1)


async def test_who_tries_one_again_and_why_is_in_the_audit_trail(
    payouts: Payouts, rail: AskableRail
) -> None:
    await tell(payouts, rail, reference(1, 4711), "ev_1")
    await apply(payouts)
    assert await payouts.world.run(lambda tx: unmatched.again(tx, SOURCE, "ev_1", "looked at it"))
    assert not await payouts.world.run(lambda tx: unmatched.again(tx, SOURCE, "ev_2", "none"))
    acts = owner_rows(
        payouts.world, "SELECT actor, subject, reason FROM audit WHERE action = 'notice.again'"
    )
    assert acts == [("test", f"{SOURCE}#ev_1", "looked at it")]
