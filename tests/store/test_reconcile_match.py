"""Lines against payouts on a real database: what a statement proves, and what it does not."""

from __future__ import annotations

from tests.statements import came_back, office, paid, sheet
from tests.world import PostgresServer


async def test_a_payment_is_booked_and_paid(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", paid(payout)))
        await desk.settle()
        assert await desk.cash() == "90.00"
        assert await desk.withdrawal(payout) == "paid"
        assert (await desk.balance("clearing", 7)).minor == 0
        assert await desk.breaks() == []
        await desk.assert_proven()


async def test_a_return_may_overtake_its_payment(postgres: PostgresServer) -> None:
    async with office(postgres) as desk:
        payout = await desk.payout("10.00")
        await desk.store(sheet("100.00", came_back(payout, "1"), paid(payout, "2")))
        await desk.settle()
        assert await desk.cash() == "100.00"
        assert await desk.withdrawal(payout) == "returned"
        assert (await desk.balance("available", payout.user_id)).text() == "10.00"
        await desk.assert_proven()
