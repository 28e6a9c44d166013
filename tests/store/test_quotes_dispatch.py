"""An exchange on its way out: the payout leaves in its own currency, and is booked in it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.contract.support import payee_iban
from tests.payouts import Payouts, approve, new_payee, payout_world
from tests.quoting import accepted, position, quoted, wallet
from tests.scripted_rails import AskableRail
from tests.withdrawals import Earner, assert_proven
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.people import destinations
from paymaster.rails.base import Outcome, Verdict
from paymaster.reconcile import proof as reconcile_proof


async def abroad(payouts: Payouts, number: int) -> Earner:
    """An earner of euros with an account in dollars."""
    earner = await new_payee(payouts, number)

    async def work(tx: CellTx) -> int:
        made = await destinations.add(
            tx,
            payouts.sealer,
            earner.user_id,
            payee_iban(number).kind,
            "USD",
            payee_iban(number).details,
            cooling=timedelta(0),
        )
        return made.ref.id

    return replace(earner, destination_id=await payouts.world.run(work))


@pytest.mark.parametrize("verdict", [Verdict.PAID, Verdict.REJECTED])
async def test_the_payout_leaves_in_the_currency_of_the_destination(
    postgres: PostgresServer, verdict: Verdict
):
    euros, dollars = AskableRail("euros"), AskableRail("dollars")
    async with payout_world(postgres, euros) as payouts:
        payouts.rails["dollars"] = dollars
        await payouts.add_account("dollars", "dollars", currency="USD")
        earner = await abroad(payouts, 1)
        one = await quoted(payouts.world, earner)
        withdrawal_id = await accepted(payouts.world, one)
        await approve(payouts, withdrawal_id)
        [order] = await payouts.claim()
        assert order.account.rail.name == "dollars"
        await payouts.deliver([order])
        [attempt] = await payouts.world.read(
            lambda tx: tx.tuples("SELECT amount, asset, key FROM attempt")
        )
        assert attempt[:2] == (4308, "USD")
        outcome = Outcome(attempt[2], verdict, amount=Money(4308, "USD"))
        [applied] = await payouts.hear("dollars", outcome)
        assert applied.done, applied
        if verdict is Verdict.PAID:
            assert await position(payouts.world) == {"EUR": 4000, "USD": -4308}
            assert await wallet(payouts.world, earner) == (5_935, 0)
            clearing = await payouts.world.read(reconcile_proof.prove)
            assert "clearing" not in {one.check for one in clearing}
            await payouts.hear("dollars", Outcome(attempt[2], Verdict.RETURNED))
            assert await wallet(payouts.world, earner) == (9_935, 0)
            assert await position(payouts.world) == {"EUR": 0, "USD": 0}
        else:
            assert await wallet(payouts.world, earner) == (10_000, 0)
            assert await position(payouts.world) == {}
        await assert_proven(payouts.world)
        differences = await payouts.world.read(reconcile_proof.prove)
        assert [one for one in differences if one.check == "clearing"] == []
        assert not euros.orders
