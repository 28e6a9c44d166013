"""What dispatch does beside paying: warnings of unknown payments, and automatic payouts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from paymaster.compose import Deps
from paymaster.db.cells import Environment
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx, ControlRead
from paymaster.dispatch import choosing, policy, unknowns
from paymaster.kernel.ids import new_trace_id
from paymaster.payin import late
from paymaster.people.factors import policy as step_up_policy
from paymaster.roles.lanes import Lane
from paymaster.screen import activate
from paymaster.screen.defaults import default_rule_set
from paymaster.withdraw import automatic, automatic_schedule, fee_plans
from paymaster.withdraw.automatic import Rules

T = TypeVar("T")
ACTOR = Actor("role:dispatch")
WARN_SECONDS, DEFAULTS_SECONDS = 15.0, 300.0
WARN_ITEMS, CONFORM_ITEMS = 500, 5000


def lanes(deps: Deps) -> list[Lane]:
    """The lanes, over all cells."""
    found: list[Lane] = []
    sweep = deps.settings.payouts.automatic_sweep_seconds
    for environment in deps.dbs.environments():
        for row in deps.dbs.cells(environment.id):
            number, cell = row.number, deps.dbs.cell(row.number)
            one = Automatic(deps, environment, cell)
            found += [
                Lane(f"unknowns:{number}", _warning(deps, cell), WARN_SECONDS),
                Lane(f"automatic:{number}", one.scheduled, min(sweep, 5.0)),
                Lane(f"automatic-thresholds:{number}", one.thresholds, sweep),
                Lane(f"automatic-defaults:{number}", one.defaults, DEFAULTS_SECONDS),
            ]
    return found


def _warning(deps: Deps, cell: CellDb) -> Callable[[], Awaitable[int]]:
    after = [timedelta(minutes=each) for each in deps.settings.payouts.unknown_alert_minutes]

    silent = timedelta(hours=deps.settings.payouts.silent_alert_hours)

    awaiting = timedelta(hours=deps.settings.payouts.awaiting_alert_hours)

    async def work(tx: CellTx) -> int:
        warned = await unknowns.warn(tx, after, WARN_ITEMS)
        warned += await unknowns.warn_silent(tx, silent, WARN_ITEMS)
        warned += await late.warn_charges(tx, after, WARN_ITEMS)
        warned += await late.warn_refunds(tx, after, silent, WARN_ITEMS)
        return warned + await unknowns.warn_awaiting(tx, awaiting, WARN_ITEMS)

    async def step() -> int:
        return await cell.run(ACTOR, new_trace_id(), work)

    return step


@dataclass(slots=True)
class Automatic:
    """The automatic payouts of a cell. Where a sweep stands is only known here."""

    deps: Deps
    environment: Environment
    cell: CellDb
    _after: tuple[int, str] = (0, "")
    _adopting: list[tuple[str, int]] | None = field(default=None)

    async def scheduled(self) -> int:
        """Carry out schedules that are due."""
        rules, limit = await self._rules(), self.deps.settings.payouts.automatic_batch_items
        return await self._run(lambda tx: automatic.run_scheduled(tx, rules, limit))

    async def thresholds(self) -> int:
        """Pay out what has reached its threshold, among the next ones; 0 at the end of a sweep."""
        ready, after = await self.cell.read(lambda tx: automatic.reached(tx, self._after))
        limit = self.deps.settings.payouts.automatic_batch_items
        rules = await self._rules() if ready else Rules()
        for start in range(0, len(ready), limit):
            part = ready[start : start + limit]
            await self._run(lambda tx, some=part: automatic.run_reached(tx, rules, some))
        self._after = after or (0, "")
        return 0 if after is None else 1

    async def defaults(self) -> int:
        """Let those without a choice of their own follow the environment's default."""
        found = await policy.load(self.deps.dbs, self.environment.id)
        plans = automatic_schedule.defaults(found.automatic)
        if self._adopting is None:
            changed = await self._run(lambda tx: automatic.conform(tx, plans, CONFORM_ITEMS))
            self._adopting = [(a, 0) for a, plan in plans.items() if plan.mode != "off"]
            return changed + len(self._adopting)
        if not self._adopting:
            self._adopting = None
            return 0
        asset, after = self._adopting.pop()
        plan = plans.get(asset)
        if plan is None:
            return 1
        last = await self._run(lambda tx: automatic.adopt(tx, plan, after))
        if last is not None:
            self._adopting.append((asset, last))
        return 1

    async def _run(self, work: Callable[[CellTx], Awaitable[T]]) -> T:
        return await self.cell.run(ACTOR, new_trace_id(), work)

    async def _rules(self) -> Rules:
        """What requests are held against now."""

        async def work(tx: ControlRead) -> Rules:
            number = self.environment.id
            found = await activate.current(tx, number) or default_rule_set()
            return Rules(
                activate.limits(found),
                await choosing.with_routes(
                    tx, number, await fee_plans.current(tx, number), self.deps.rails
                ),
                await step_up_policy.current(tx, number),
            )

        return await self.deps.dbs.control.read(work)
