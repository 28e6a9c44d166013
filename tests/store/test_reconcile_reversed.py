"""What a person booked as come back, and whether it ever did."""

from __future__ import annotations

from datetime import timedelta

from tests.statements import BANK, DAY, came_back, later, office, paid, sheet
from tests.world import ACTOR, PostgresServer

from paymaster.kernel.ids import new_trace_id
from paymaster.reconcile import day
from paymaster.withdraw import moves


async def test_what_a_person_booked_as_come_back_is_a_break_until_it_comes(
    postgres: PostgresServer,
) -> None:
    """The user has the money again on a person's word; if it never comes, it is ours that is."""
    allowed = timedelta(hours=12)
    async with office(postgres) as desk:
        (one,) = await desk.payouts(["20.00"], state="paid")
        await desk.store(sheet("100.00", paid(one)))
        await desk.settle()
        await desk.world.run(lambda tx: moves.reverse(tx, one.withdrawal_id, "its desk says so"))
        await day.run_account(desk.world.dbs, 1, ACTOR, new_trace_id(), BANK, DAY, allowed)
        assert await desk.breaks() == [], "it has time until it is overdue"
        desk.world.clock.advance(timedelta(days=2))
        await desk.store(sheet("80.00", day=later(2)))
        await day.run_account(desk.world.dbs, 1, ACTOR, new_trace_id(), BANK, later(2), allowed)
        missing = ("return-missing-at-provider", one.attempt)
        assert await desk.breaks() == [missing]
        detail = await desk.world.read(lambda tx: tx.value("SELECT detail FROM break"))
        assert "as a person said" in detail
        await desk.store(sheet("80.00", came_back(one), day=later(3)))
        await desk.settle()
        await day.run_account(desk.world.dbs, 1, ACTOR, new_trace_id(), BANK, later(3), allowed)
        assert await desk.breaks() == []
        await desk.assert_proven()
