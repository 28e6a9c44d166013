"""What each background role does: its lanes over the cells of the installation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from paymaster.compose import Deps
from paymaster.db import idempotency, limits, lockouts
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellTx, ControlRead, ControlTx
from paymaster.dispatch import accounts
from paymaster.dispatch.desk import Pace
from paymaster.dispatch.run import Dispatcher
from paymaster.earn import clawback, policy, reserve, reward, user_task
from paymaster.earn.campaign import funding_references
from paymaster.earn.slice import give_back_idle
from paymaster.funding.guard import FloatGuard
from paymaster.kernel.errors import RailError
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.sources import jitter
from paymaster.payin.run import Collector
from paymaster.people import destinations
from paymaster.people.factors import step_ups
from paymaster.reconcile import day, statement
from paymaster.reconcile.catalogue import Catalogue, Funding
from paymaster.reconcile.match import match_due
from paymaster.roles import funding, messages, paying, publish, rewrap, sealing, staffing
from paymaster.roles.gauges import measure
from paymaster.roles.lanes import Lane, Step
from paymaster.roles.relay import Relay
from paymaster.screen import activate, challenge, decide
from paymaster.settle import files, payin_apply
from paymaster.settle.apply import apply_due
from paymaster.withdraw import holds, quote

IDLE_SLICE = timedelta(hours=1)
HOURLY_SECONDS, GAUGE_SECONDS, RUNS_SECONDS = 3600.0, 10.0, 120.0
FORGET_ITEMS = 1000
SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """The lanes of a role, and what must be waited for after they have stopped."""

    lanes: list[Lane]
    endings: list[Callable[[], Awaitable[None]]] = field(
        default_factory=list[Callable[[], Awaitable[None]]]
    )
    info: Callable[[], Mapping[str, object]] = dict[str, object]
    """What `/readyz` tells beside the faults."""


def _each_cell(deps: Deps, name: str, make: Callable[[CellDb], Step]) -> list[Lane]:
    pause = deps.settings.roles.poll_interval_seconds
    cells = [deps.dbs.cell(cell.number) for cell in deps.dbs.cells()]
    return [Lane(f"{name}:{cell.number}", make(cell), pause) for cell in cells]


def intake(deps: Deps) -> Work:
    """Rewards mature, waiting ones get their budget, tasks expire, idle slices go home."""
    actor, limit = Actor("role:intake"), deps.settings.roles.batch_items

    def run(cell: CellDb, work: Callable[[CellTx], Awaitable[int]]) -> Step:
        return lambda: cell.run(actor, new_trace_id(), work)

    def home(cell: CellDb) -> Step:
        async def step() -> int:
            since = cell.clock.now() - IDLE_SLICE
            await cell.run(actor, new_trace_id(), lambda tx: give_back_idle(tx, since))
            return 0

        return step

    lanes = _each_cell(deps, "mature", lambda c: run(c, lambda tx: reward.mature_due(tx, limit)))
    lanes += _each_cell(
        deps, "awaiting", lambda c: run(c, lambda tx: reward.retry_awaiting(tx, limit))
    )
    lanes += _each_cell(
        deps, "expire", lambda c: run(c, lambda tx: user_task.expire_due(tx, limit))
    )
    lanes += _each_cell(
        deps, "reserve", lambda c: run(c, lambda tx: reserve.release_due(tx, limit))
    )
    lanes += _each_cell(
        deps,
        "early-reversals",
        lambda c: run(c, lambda tx: clawback.apply_due(tx, limit, holds.held_users)),
    )
    lanes += [
        Lane(
            f"earning-policies:{environment.tenant}/{environment.mode}",
            lambda e=environment.id: policy.spread(deps.dbs, e, actor, new_trace_id()),
            SWEEP_SECONDS,
        )
        for environment in deps.dbs.environments()
    ]
    idle = _each_cell(deps, "idle-slices", home)
    for lane in idle:
        lane.pause_seconds = HOURLY_SECONDS
    return Work(lanes + idle)


def screen(deps: Deps) -> Work:
    """Requested withdrawals are judged by the rules; challenges are not waited for for ever."""
    lanes = _each_cell(deps, "screen", lambda cell: lambda: _judge(deps, cell))
    asking = _each_cell(deps, "challenges", lambda cell: lambda: _unanswered(deps, cell))
    for lane in asking:
        lane.pause_seconds = SWEEP_SECONDS
    return Work(lanes + asking)


async def _unanswered(deps: Deps, cell: CellDb) -> int:
    """Remind of challenges that nobody answers, then deny; 1 to go on at once."""
    rules, limit = deps.settings.step_up, deps.settings.roles.batch_items
    until, soon = timedelta(hours=rules.answer_hours), timedelta(hours=rules.remind_hours)
    actor = Actor("role:screen")
    done = await cell.run(actor, new_trace_id(), lambda tx: challenge.end_due(tx, until, limit))
    if soon:
        done = max(
            done,
            await cell.run(
                actor, new_trace_id(), lambda tx: challenge.remind_due(tx, soon, until, limit)
            ),
        )
    return 1 if done == limit else 0


async def _judge(deps: Deps, cell: CellDb) -> int:
    actor, trace_id = Actor("role:screen"), new_trace_id()
    limit = deps.settings.roles.batch_items
    length = timedelta(seconds=deps.settings.roles.lease_seconds)
    claimed = await cell.run(actor, trace_id, lambda tx: decide.claim(tx, limit, length))
    if not claimed:
        return 0
    environment = deps.dbs.environment_of(cell.number)
    rules = await deps.dbs.control.run(
        actor, trace_id, lambda tx: activate.ensure(tx, environment.id)
    )
    ids = [one.destination_id for one in claimed]
    prints = await cell.read(lambda tx: destinations.fingerprints_of(tx, deps.secrets.sealer, ids))
    shared = await deps.dbs.control.read(
        lambda tx: destinations.shared_by(tx, environment.id, prints)
    )
    decided = await cell.run(
        actor, trace_id, lambda tx: decide.decide(tx, claimed, rules, shared, prints)
    )
    outcomes = Counter(
        one.outcome.value if one.outcome is not None else one.slug or "none" for one in decided
    )
    for outcome, count in outcomes.items():
        deps.metrics.verdicts.labels(outcome).inc(count)
    return len(decided)


def dispatch(deps: Deps) -> Work:
    """What is approved leaves; what is unknown is asked about."""
    lease = timedelta(seconds=deps.settings.roles.lease_seconds)
    pace = Pace(items=deps.settings.roles.batch_items, lease=lease, call=lease * 0.75)
    pause = deps.settings.roles.poll_interval_seconds
    work = Work([])
    for environment in deps.dbs.environments():
        dispatcher = Dispatcher(
            deps.dbs,
            environment.id,
            deps.rails,
            deps.secrets.sealer,
            metrics=deps.metrics,
            pace=pace,
            guard=(guard := FloatGuard(deps.dbs, environment.id, deps.settings.funding, lease)),
        )
        for cell in deps.dbs.cells(environment.id):
            work.lanes.append(
                Lane(
                    f"dispatch:{cell.number}",
                    lambda d=dispatcher, n=cell.number: d.work(n, pause),
                    pause,
                )
            )
        collector = Collector(deps.dbs, environment.id, deps.rails, deps.secrets.sealer)
        for cell in deps.dbs.cells(environment.id):
            step = partial(collector.tick, cell.number)
            work.lanes.append(Lane(f"payins:{cell.number}", step, pause))
        work.endings.extend((dispatcher.drain, collector.drain, guard.give_up))
    work.lanes.extend(paying.lanes(deps))
    return work


def settle(deps: Deps) -> Work:
    """Webhooks and bank answers are applied, files are fetched."""
    random = jitter()

    def applying(cell: CellDb) -> Step:
        async def step() -> int:
            limit = deps.settings.roles.batch_items
            return (await apply_due(cell, deps.secrets.sealer, random, limit=limit)).claimed

        return step

    def applying_payins(cell: CellDb) -> Step:
        async def step() -> int:
            limit = deps.settings.roles.batch_items
            sealer = deps.secrets.sealer
            return (await payin_apply.apply_due(cell, sealer, random, limit=limit)).claimed

        return step

    lanes = _each_cell(deps, "apply", applying)
    lanes += _each_cell(deps, "apply-payins", applying_payins)
    for environment in deps.dbs.environments():
        lanes.append(
            Lane(
                f"files:{environment.tenant}/{environment.mode}",
                lambda e=environment.id: _fetch(deps, e),
                deps.settings.roles.file_poll_interval_seconds,
            )
        )
    return Work(lanes)


async def _fetch(deps: Deps, environment_id: int) -> int:
    """Visit every account of an environment; one that cannot be reached stops no other."""
    brought = 0
    for account in (await accounts.load(deps.dbs, environment_id)).values():
        try:
            polled = await files.poll(
                deps.dbs, deps.rails, deps.secrets.sealer, account, statement.on_statements
            )
        except RailError:
            continue
        brought += polled.fetched + polled.read
    return brought


def reconcile(deps: Deps) -> Work:
    """Statement lines find their postings; every account and day is proven again."""
    lanes: list[Lane] = []
    for environment in deps.dbs.environments():
        name, number = f"{environment.tenant}/{environment.mode}", environment.id
        pause = deps.settings.roles.poll_interval_seconds
        lanes.append(Lane(f"match:{name}", lambda e=number: _match(deps, e), pause))
        lanes.append(Lane(f"runs:{name}", lambda e=number: _run_due(deps, e), RUNS_SECONDS))
    return Work(lanes)


async def _run_due(deps: Deps, environment_id: int) -> int:
    """Hold the books against the statements of every account and day that is not closed."""
    found = await accounts.load(deps.dbs, environment_id)
    rails = [account.rail for account in found.values()]
    actor = Actor("role:reconcile")
    await day.run_due(deps.dbs, environment_id, actor, new_trace_id(), rails)
    return 0


async def _match(deps: Deps, environment_id: int) -> int:
    async def references(tx: ControlRead) -> Catalogue:
        rows = await funding_references(tx, environment_id)
        return Catalogue({ref: Funding(number, currency) for ref, number, currency in rows})

    catalogue = await deps.dbs.control.read(references)
    cells = frozenset(cell.number for cell in deps.dbs.cells(environment_id))
    progress = await deps.dbs.treasury(environment_id).run(
        Actor("role:reconcile"),
        new_trace_id(),
        lambda tx: match_due(tx, deps.secrets.sealer, catalogue, cells),
    )
    return progress.claimed


def relay(deps: Deps) -> Work:
    """Commands travel between cells, commits are sealed, gauges measured, old keys forgotten."""
    length = timedelta(seconds=deps.settings.roles.lease_seconds)
    relays = {
        cell.number: Relay(deps.dbs, deps.dbs.cell(cell.number), length)
        for cell in deps.dbs.cells()
    }
    lanes = _each_cell(deps, "relay", lambda cell: relays[cell.number].step)

    async def gauges() -> int:
        await measure(deps.dbs, deps.metrics, deps.settings.payouts.unknown_alert_minutes)
        await staffing.measure(deps)
        return 0

    async def forget() -> int:
        kept = timedelta(days=deps.settings.limits.idempotency_days)
        places = [deps.dbs.control, *(deps.dbs.cell(cell.number) for cell in deps.dbs.cells())]
        gone = [
            await place.run(
                Actor("role:relay"),
                new_trace_id(),
                lambda tx: idempotency.forget(tx, tx.now - kept, FORGET_ITEMS),
            )
            for place in places
        ]
        return FORGET_ITEMS if FORGET_ITEMS in gone else 0

    lanes.append(Lane("gauges", gauges, GAUGE_SECONDS))
    lanes.append(Lane("forget-keys", forget, HOURLY_SECONDS))
    lanes.append(Lane("forget-step-ups", lambda: _forget_step_ups(deps), HOURLY_SECONDS))
    lanes.append(Lane("forget-quotes", lambda: _forget_quotes(deps), HOURLY_SECONDS))
    lanes.append(Lane("forget-limits", lambda: _forget_limits(deps), SWEEP_SECONDS))
    sealers = sealing.sealers(deps)
    lanes += sealing.lanes(deps, sealers)
    lanes += staffing.lanes(deps)
    lanes += funding.lanes(deps)
    rewrappers = rewrap.rewrappers(deps)
    lanes += rewrap.lanes(deps, rewrappers)
    held = (*relays.values(), *sealers.values(), *rewrappers.values())
    return Work(lanes, [one.give_up for one in held])


def notify(deps: Deps) -> Work:
    """Events go to the apps' servers and to the broker, letters to earners and operators."""
    made, told = messages.Notify(deps), publish.Publish(deps)
    return Work(made.lanes() + told.lanes(), made.endings() + told.endings(), told.info)


async def _forget_step_ups(deps: Deps) -> int:
    """Step-ups long past, and factors that were never confirmed; 1 to go on at once."""
    gone = [
        await deps.dbs.cell(cell.number).run(
            Actor("role:relay"), new_trace_id(), lambda tx: step_ups.forget(tx, FORGET_ITEMS)
        )
        for cell in deps.dbs.cells()
    ]
    return 1 if FORGET_ITEMS in gone else 0


async def _forget_quotes(deps: Deps) -> int:
    """Quotes that nobody used, long after they expired; 1 to go on at once."""
    gone = [
        await deps.dbs.cell(cell.number).run(
            Actor("role:relay"), new_trace_id(), lambda tx: quote.forget(tx, FORGET_ITEMS)
        )
        for cell in deps.dbs.cells()
    ]
    return 1 if FORGET_ITEMS in gone else 0


async def _forget_limits(deps: Deps) -> int:
    """Buckets that are full again, and failures that are long past."""

    async def work(tx: ControlTx) -> int:
        gone = await limits.sweep(tx, FORGET_ITEMS), await lockouts.sweep(tx, FORGET_ITEMS)
        return max(gone) // FORGET_ITEMS

    return await deps.dbs.control.run(Actor("role:relay"), new_trace_id(), work)


ROLES: dict[str, Callable[[Deps], Work]] = {
    "intake": intake,
    "screen": screen,
    "dispatch": dispatch,
    "settle": settle,
    "reconcile": reconcile,
    "relay": relay,
    "notify": notify,
}
"""The background roles, in the order in which the money goes."""
