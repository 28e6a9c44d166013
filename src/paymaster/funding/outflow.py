"""What left each account on each business day, counted once when the day is over."""

from __future__ import annotations

from datetime import date, timedelta

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx
from paymaster.funding import store
from paymaster.funding.figures import Flow
from paymaster.kernel.clock import business_day, milliseconds, start_of_day
from paymaster.kernel.ids import new_trace_id, time_floor

ACTOR = Actor("role:relay")


async def count(cell: CellDb, zone: str, assets: dict[int, str], days: int) -> int:
    """Count one of the last `days` days that is not yet counted; 0 when all are.

    Accounts that nothing left are written down with 0: that is knowledge too.
    """
    today = business_day(cell.clock.now(), zone)
    for ago in range(1, days + 1):
        day = today - timedelta(days=ago)
        if assets and not await cell.read(lambda tx, d=day: store.is_counted(tx, d)):
            await cell.run(ACTOR, new_trace_id(), lambda tx, d=day: _keep(tx, d, zone, assets))
            return 1
    return 0


async def _keep(tx: CellTx, day: date, zone: str, assets: dict[int, str]) -> None:
    first, end = (
        time_floor(milliseconds(start_of_day(one, zone))) for one in (day, day + timedelta(days=1))
    )
    flows = await store.outflow(tx, first, end)
    seen = {(one.rail_account_id, one.asset) for one in flows}
    flows += [Flow(number, asset, 0, 0) for number, asset in assets.items()
              if (number, asset) not in seen]  # fmt: skip
    await store.keep_outflow(tx, day, flows)


async def histories(
    dbs: Databases, environment_id: int, days: int
) -> tuple[date, dict[tuple[int, str], dict[date, int]]]:
    """Today's business day, and by account and currency what left on the days before it.

    Days before an account's first payment are left out.
    """
    environment = dbs.environment(environment_id)
    today = business_day(dbs.clock_of(environment_id).now(), environment.time_zone)
    found: dict[tuple[int, str], dict[date, int]] = {}
    for cell in dbs.cells(environment_id):
        rows = await dbs.cell(cell.number).read(
            lambda tx: store.history(tx, today - timedelta(days=days))
        )
        for (account, asset, day), amount in rows.items():
            at = found.setdefault((account, asset), {})
            at[day] = at.get(day, 0) + amount
    return today, {key: _since_first(of) for key, of in found.items()}


def _since_first(days: dict[date, int]) -> dict[date, int]:
    paid = [day for day, amount in days.items() if amount]
    return {day: amount for day, amount in days.items() if paid and day >= min(paid)}
