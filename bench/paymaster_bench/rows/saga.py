"""A withdrawal's way, screening -> approved -> sending -> paid, by the roles' own lanes.

Every move writes its history and its message; screening asks all rules; the order is sealed and
stored before the rail is called, under a lease; the last move captures the hold by an entry of two
postings. The rail is in this process and answers at once.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import msgspec

from paymaster.compose import Deps
from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx, ControlTx
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import NewAccount
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.observe import Metrics
from paymaster.rails.base import Instruction, Outcome, Prepared, RailAccount, RailCaps, Verdict
from paymaster.rails.http import new_client
from paymaster.roles.lanes import run_lanes
from paymaster.roles.work import ROLES
from paymaster.secrets.opening import open_secrets
from paymaster.settings import Settings
from paymaster.withdraw.request import RequestWithdrawal, request
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.measure import Sample, in_turn, now_seconds
from paymaster_bench.people import KIND, Person
from paymaster_bench.processes import Worker, start_workers
from paymaster_bench.report import Check, Findings, Row, skipped
from paymaster_bench.rows.requests import PROOFS
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import ASSET, RAIL_ACCOUNT
from paymaster_bench.world import ACTOR, CELL, ENVIRONMENT, open_databases

ROWS = ("saga",)
AMOUNT, FEE = Money(1000, ASSET), Money(50, ASSET)
BATCH_ITEMS, POLL_SECONDS = 1000, 0.02
DBOS_MOST_A_SECOND, DBOS_AT_ONCE = 400, 32
_REQUESTED_AT_ONCE = 1000
_PATIENCE_SECONDS = 300.0


class InstantRail:
    """Pays at once, in this process."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()

    @property
    def caps(self) -> RailCaps:
        """One order a payment: the most work for the dispatcher."""
        day = timedelta(days=1)
        return RailCaps("instant", frozenset({KIND}), 1, day, timedelta(seconds=60))

    def prepare(
        self, account: RailAccount, batch_key: str, batch: Sequence[Instruction], now: datetime
    ) -> Prepared:
        """The order as it would be sent."""
        payments = [[one.key, one.amount.minor, one.payee.details] for one in batch]
        body = msgspec.json.encode(
            {"order": batch_key, "account": account.name, "at": now, "payments": payments}
        )
        return Prepared(batch_key, body, tuple(one.key for one in batch))

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        """Paid."""
        self.paid.update(prepared.keys)
        return [
            Outcome(key, Verdict.PAID, provider_id=f"po_{account.id}_{key}")
            for key in prepared.keys
        ]


class Requester:
    """Makes requested withdrawals: everybody in turn, so that no rule objects."""

    def __init__(self, dbs: Databases, people: Sequence[Person]) -> None:
        self._cell, self._people, self._next = dbs.cell(CELL), people, 0
        self.made = 0

    async def make(self, count: int) -> list[int]:
        """So many withdrawals, requested; their ids."""
        ids: list[int] = []
        while len(ids) < count:
            size = min(_REQUESTED_AT_ONCE, count - len(ids), len(self._people))
            some = [self._people[(self._next + at) % len(self._people)] for at in range(size)]
            self._next += size

            async def work(tx: CellTx, some: list[Person] = some) -> list[int]:
                outcomes = await request(
                    tx, [RequestWithdrawal(p.user_id, p.destination_id, AMOUNT, FEE) for p in some]
                )
                return [one.withdrawal_id for one in outcomes if one.withdrawal_id is not None]

            made = await self._cell.run(ACTOR, new_trace_id(), work)
            if len(made) != size:
                raise Broken("bench-request", "A request of the benchmark was refused.")
            ids += made
        self.made += len(ids)
        return ids


class Lanes:
    """The contestant: the lanes of the roles `screen` and `dispatch`, in one process."""

    def __init__(self, deps: Deps, rail: InstantRail, requester: Requester, flows: int) -> None:
        self._deps, self._rail, self._requester, self._flows = deps, rail, requester, flows

    async def slice(self, _seconds: float) -> Sample:
        """Request `flows` withdrawals off the clock, then take them all to the end."""
        wanted = self._flows
        goal = sum(self._rail.paid.values()) + wanted
        await self._requester.make(wanted)
        stop = asyncio.Event()
        works = [ROLES[name](self._deps) for name in ("screen", "dispatch")]
        lanes = [lane for work in works for lane in work.lanes]
        begun = now_seconds()
        running = asyncio.create_task(run_lanes(lanes, stop))
        while sum(self._rail.paid.values()) < goal:
            await asyncio.sleep(POLL_SECONDS)
            if running.done() or now_seconds() - begun > _PATIENCE_SECONDS:
                break
        stop.set()
        await running
        for work in works:
            for ending in work.endings:
                await ending()
        elapsed = now_seconds() - begun
        done = wanted - (goal - sum(self._rail.paid.values()))
        return Sample(done, done / elapsed)


class Workflows:
    """The reference: the same moves as a DBOS workflow, in a process of its own."""

    def __init__(self, worker: Worker, requester: Requester) -> None:
        self._worker, self._requester = worker, requester

    async def slice(self, seconds: float) -> Sample:
        """Request withdrawals off the clock, then run workflows for so long."""
        ids = await self._requester.make(int(DBOS_MOST_A_SECOND * seconds) + DBOS_AT_ONCE)
        self._worker.send(("run", ids, seconds))
        return self._worker.receive(_PATIENCE_SECONDS)


async def run(bench: Bench, _wanted: frozenset[str]) -> Findings:
    """Measure both in turn."""
    if importlib.util.find_spec("dbos") is None:
        return Findings(
            rows=[skipped("saga", "DBOS is missing: install paymaster with the extra `bench`")]
        )
    ours, people = await bench.people("saga")
    theirs, _ = await bench.people("dbos")
    server, settings = bench.server, _settings(bench)
    rail = InstantRail()
    with ExitStack() as stack:
        spec = (server.app_dsn(theirs), server.owner_dsn(theirs), RAIL_ACCOUNT)
        [worker] = stack.enter_context(start_workers("paymaster_bench.rows.saga_dbos:main", [spec]))
        async with (
            open_databases(server.app_dsn(ours), 8) as dbs,
            open_databases(server.app_dsn(theirs), 2) as their_dbs,
            new_client() as http,
        ):
            await _add_account(dbs, rail)
            secrets = open_secrets(settings)
            deps = Deps(settings, WallClock(), dbs, secrets, {"instant": rail}, http, Metrics())
            requester, their_requester = Requester(dbs, people), Requester(their_dbs, people)
            bench.say("withdrawals through four moves")
            server.checkpoint()
            series = await in_turn(
                {
                    "ours": Lanes(deps, rail, requester, bench.size.flows).slice,
                    "dbos": Workflows(worker, their_requester).slice,
                },
                bench.size.rounds,
                bench.size.seconds,
            )
    row = Row(
        "saga",
        series["ours"].rate,
        "withdrawals/s",
        "the same moves and postings as a DBOS workflow of four steps",
        series["dbos"].rate,
        40,
        note="ours with all rules, sealed orders, leases and messages; the workflow without rules"
        f" and orders, {DBOS_AT_ONCE} at once",
    )
    return Findings(
        rows=[row],
        checks=[
            _check_ours(server.owner_dsn(ours), rail, requester.made),
            await checks.prove_with("saga", server.app_dsn(ours), PROOFS),
            _check_theirs(server.owner_dsn(theirs), series["dbos"].count),
        ],
    )


def _settings(bench: Bench) -> Settings:
    roles: dict[str, Any] = {"batch_items": BATCH_ITEMS, "poll_interval_seconds": 0.05}
    return bench.settings(roles=roles)


async def _add_account(dbs: Databases, rail: InstantRail) -> None:
    settings = {"concurrency": "2000", "rate_per_second": "10000000"}

    async def work(tx: ControlTx) -> None:
        new = NewAccount("instant", "instant", ASSET, settings, {})
        await accounts.add(tx, ENVIRONMENT, CELL, new, {"instant": rail})

    await dbs.control.run(ACTOR, new_trace_id(), work)


def _check_ours(dsn: str, rail: InstantRail, made: int) -> Check:
    """Everybody was paid once, by exactly four moves, and every hold was captured."""
    [(paid, moves, attempts, holds)] = owner_rows(
        dsn,
        "SELECT (SELECT count(*) FROM withdrawal WHERE state = 'paid'),"
        " (SELECT count(*) FROM withdrawal_move),"
        " (SELECT count(*) FROM attempt WHERE state = 'paid'),"
        " (SELECT count(*) FROM hold WHERE state = 'captured')",
    )
    wrong: list[str] = []
    if (paid, attempts, holds) != (made, made, made):
        wrong.append(f"of {made}: {paid} paid, {attempts} attempts paid, {holds} holds captured")
    if moves != 4 * made:
        wrong.append(f"{moves} moves for {made} withdrawals")
    if len(rail.paid) != made or max(rail.paid.values(), default=0) > 1:
        wrong.append(f"the rail paid {len(rail.paid)} of {made}, one of them more than once")
    return Check("saga: everybody is paid once", not wrong, made, wrong)


def _check_theirs(dsn: str, done: int) -> Check:
    [(paid,)] = owner_rows(dsn, "SELECT count(*) FROM withdrawal WHERE state = 'paid'")
    wrong = [] if paid >= done else [f"{done} workflows ended, {paid} withdrawals are paid"]
    return Check("saga: the reference did its work", not wrong, done, wrong)
