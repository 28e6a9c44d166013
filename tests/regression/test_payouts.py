"""Payouts that others left stuck, or whose sum was not that of their parts.

What each entry is and where else it is shown: docs/internals/regressions.md.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import LiteralString

import psycopg
import pytest
import pytest_asyncio
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail, FileRail
from tests.withdrawals import assert_proven, available
from tests.world import PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.rails.base import Outcome, Verdict

pytestmark = pytest.mark.asyncio(loop_scope="module")

_numbers = itertools.count(100)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bank() -> FileRail:
    return FileRail("bank", batch_items=10)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payouts(postgres: PostgresServer, bank: FileRail) -> AsyncIterator[Payouts]:
    wallet = AskableRail("wallet", kinds=frozenset({"sandbox-wallet"}))
    async with payout_world(postgres, bank, wallet) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


MEANWHILE = {
    "user-suspended": "UPDATE app_user SET status = 'suspended' WHERE id = %(user)s",
    "user-closed": "UPDATE app_user SET status = 'closed' WHERE id = %(user)s",
    "destination-paused": "UPDATE destination SET state = 'paused' WHERE id = %(destination)s",
    "destination-closed": "UPDATE destination SET state = 'closed' WHERE id = %(destination)s",
    "destination-cooling": "UPDATE destination SET usable_at = now() + interval '99 years'"
    " WHERE id = %(destination)s",
    "account-paused": "UPDATE control.rail_account SET state = 'paused' WHERE %(user)s > 0",
}
"""What would refuse a request, and must not refuse the end of one that was made before it."""


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.PAID])
@pytest.mark.parametrize("changed", MEANWHILE)
async def test_gumroad_7569_no_rule_stands_in_the_way_of_an_end(
    payouts: Payouts, changed: str, verdict: Verdict
) -> None:
    """Marking a payout as failed was refused by a validation, and its money was stuck."""
    payee = await new_payee(payouts, next(_numbers), kind="sandbox-wallet")
    withdrawal = await approved(payouts, payee, "30.00")
    await payouts.claim()
    key = await payouts.key_of(withdrawal)
    names = {"user": payee.user_id, "destination": payee.destination_id}
    with psycopg.connect(payouts.world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute(MEANWHILE[changed].encode(), names)
    await payouts.reload()
    try:
        if verdict is Verdict.PAID:
            wallet = payouts.rails["wallet"]
            assert isinstance(wallet, AskableRail)
            wallet.paid[key] += 1
        (applied,) = await payouts.hear("wallet", Outcome(key, verdict, code="no"))
        assert applied.done, applied
        state, left = {
            Verdict.REJECTED: ("failed", ("100.00", "0.00")),
            Verdict.PAID: ("paid", ("70.00", "0.00")),
        }[verdict]
        assert (await payouts.states(withdrawal))[0] == state
        assert await available(payouts.world, payee) == left
    finally:
        owner_rows(payouts.world, "UPDATE control.rail_account SET state = 'active' RETURNING 1")
        await payouts.reload()


async def test_dub_the_sum_of_an_order_is_that_of_its_payments(
    payouts: Payouts, bank: FileRail
) -> None:
    """The sum of a payout was kept beside its items: a job had to put it right every minute."""
    bank.unwritable = {200}
    amounts = ["1.00", "2.00", "3.00", "4.00"]
    withdrawals = [
        await approved(payouts, await new_payee(payouts, next(_numbers)), amount)
        for amount in amounts
    ]
    await payouts.deliver(await payouts.claim())
    states = [(await payouts.states(one))[0] for one in withdrawals]
    assert states == ["sent", "failed", "sent", "sent"]
    assert await sums(payouts) == [(800, 800, 3, 3)]
    key = await payouts.key_of(withdrawals[0])
    bank.paid[key] = 0  # it took the order in and paid the others only
    await payouts.hear("bank", Outcome(key, Verdict.REJECTED, code="AC01"))
    assert await sums(payouts) == [(800, 800, 3, 3)], "what was ordered stays what was ordered"


async def sums(payouts: Payouts) -> list[tuple[int, int, int, int]]:
    """Of every order of the bank: its sum and that of its payments, its count and theirs."""
    account = payouts.accounts["bank"].id
    return owner_rows(
        payouts.world,
        "SELECT b.total, sum(a.amount)::bigint, b.items, count(*) FROM batch b"
        " JOIN attempt a ON a.batch_id = b.id WHERE b.rail_account_id = %s"
        " GROUP BY b.id ORDER BY b.id",
        account,
    )


@pytest.mark.parametrize(
    "column", ["withdrawal.amount", "withdrawal.fee", "attempt.amount", "batch.total"]
)
async def test_dub_no_amount_is_changed_after_it_was_ordered(
    payouts: Payouts, column: LiteralString
) -> None:
    table, name = column.split(".")
    statement = f"UPDATE {table} SET {name} = {name} + 1"

    async def work(tx: CellTx) -> None:
        await tx.execute(statement)

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await payouts.world.run(work)
