"""The end of a run: the faults stop, people do their work, and within days all must be over."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from paymaster.db import seal_verify
from paymaster.db.pool import CellDb, ControlDb
from paymaster.proof import prove_cell
from paymaster_sim import checks, checks_terms
from paymaster_sim.checks import ENDS, Violation
from paymaster_sim.clock import DAY_SECONDS, seconds
from paymaster_sim.place import CELLS

if TYPE_CHECKING:
    from paymaster_sim.world import World

DAYS = 14
"""Within so many days after the last fault everything must have come to an end."""

_BOOKED_AFTER_DAYS = 2
_BACK_AFTER_DAYS = 3
_BLOCKS = 2
"""The first block of a chain only says that it begins."""

_FLOAT_MINOR = 400_000


async def finish(world: World) -> None:
    """Let it end, and check all that can be checked then. Raises Violation."""
    _calm(world)
    for _ in range(_BLOCKS):
        await world.seal()
    quiet, lay = 0, world.outside.balances()
    for day in range(DAYS + _BACK_AFTER_DAYS + _BOOKED_AFTER_DAYS):
        await _day(world)
        seen, lies = world.eye.withdrawals(), world.outside.balances()
        open_ones = any(one.state not in ENDS for one in seen) or world.clients.waiting()
        # What was paid can come back days later, and its line is on the bill of that day.
        quiet = 0 if open_ones or lies != lay else quiet + 1
        lay = lies
        if quiet > _BOOKED_AFTER_DAYS or (day >= DAYS and open_ones):
            break
    for role in world.roles.values():
        await role.idle()
    seen, orders, paid = world.eye.withdrawals(), world.eye.orders(), world.outside.paid()
    checks.ended(world.eye, seen)
    checks.payments(seen, orders, paid)
    checks.agreed(seen, orders, paid)
    checks.acknowledged(seen, world.clients.promised(), world.clients.possible)
    checks.history(world.eye)
    checks.cash(world.eye, world.outside, world.cast.accounts)
    checks_terms.charged(world.eye, world.cast)
    checks_terms.automatic(world.eye)
    checks_terms.held(world.eye)
    if world.outside.yuan is not None:
        checks.matched(world.eye)
        checks.sealed(world.eye, world.outside.yuan.packages())
    await _prove(world)
    await _verify(world)


def _calm(world: World) -> None:
    world.strikes.calm()
    world.outside.calm()
    world.site.wire.refusals = world.site.wire.delays = 0
    for role in world.roles.values():
        role.skew(timedelta(0))


async def _day(world: World) -> None:
    """A day on which people do what is to be done."""
    start = seconds(world.ground.clock)
    midnight = start + DAY_SECONDS - start % DAY_SECONDS
    if any(one.state == "queued" for one in world.eye.withdrawals()):
        await world.staff.top_up(_FLOAT_MINOR)
    await world.staff.decide_all()
    await world.staff.find_out_all()
    world.outside.world.send_reports_again()
    await world.step([])
    await world.wait(midnight)
    world.outside.close_day(world.ground.clock)
    await world.step([])


async def _prove(world: World) -> None:
    api = world.roles["api"]
    await api.up()
    for number in CELLS:
        proof = await api.call(api.deps.dbs.cell(number).read(prove_cell))
        for one in proof.differences:
            raise Violation(
                f"prove:{one.check}",
                f"cell {proof.cell}: {one.subject} is {one.stored}, derived {one.derived}",
            )


async def _verify(world: World) -> None:
    relay = world.roles["relay"]
    for _ in range(_BLOCKS):
        await world.seal()
        await relay.idle()
    await relay.up()
    dbs = relay.deps.dbs
    places: list[CellDb | ControlDb] = [dbs.control, *(dbs.cell(n) for n in CELLS)]
    for place in places:
        report = await relay.call(seal_verify.verify(place))
        for finding in report.findings:
            raise Violation(
                "chain", f"{finding.chain}: {finding.table} {finding.key} {finding.what}"
            )
        if not report.blocks:
            raise Violation("chain", f"{report.chain} was never sealed")
