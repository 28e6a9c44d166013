"""One posting a call, by many callers at once: merged into batches, or one transaction each.

The reference is what a service does that opens a transaction for every request: the same `post`,
the same guards, a pool of 16 connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Self

from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id
from paymaster.ledger.entry import Entry, Posted
from paymaster.ledger.post import post
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.caller import History
from paymaster_bench.calls import Patient, closed_loop, open_loop, settle_memory
from paymaster_bench.measure import Series, Slice, in_turn
from paymaster_bench.report import Check, Findings, Row
from paymaster_bench.workload import Accounts, Batch, Move, Shape, Traffic
from paymaster_bench.world import ACTOR, CELL, open_databases

ROWS = ("single_256", "single_256_p99", "single_256_p99_open")
CALLERS, POOL = 256, 16
FEW = 3
"""Connections of a smaller pool. Every commit takes its place in the order of commits, so many
open transactions wait for one another: the note tells what fewer of them do."""

BATCH_LIMIT, QUEUE_LIMIT = 2000, 8192
OPEN_SHARE = 0.6
"""Of what the reference does at most: a load that both can carry."""

_UNMERGED = "one transaction per call, pool of 16"


@dataclass(slots=True)
class Singles:
    """Commands ready to be sent, and the answers, for the model."""

    traffic: Traffic
    most_a_second: float
    history: History = field(default_factory=History)
    _ready: deque[tuple[Entry, Move]] = field(default_factory=deque[tuple[Entry, Move]])
    _answered: list[tuple[Entry, Move, Posted]] = field(
        default_factory=list[tuple[Entry, Move, Posted]]
    )

    def prepare(self, seconds: float) -> None:
        """Have enough commands for so many seconds, and put the last answers away."""
        self.put_away()
        missing = int(self.most_a_second * seconds) + CALLERS - len(self._ready)
        if missing > 0:
            [batch] = self.traffic.batches(Shape(missing), 1)
            self._ready.extend(zip(batch.entries, batch.moves, strict=True))
        settle_memory()

    def put_away(self) -> None:
        """Move the answers into the history."""
        for entry, move, answer in self._answered:
            self.history.add(Batch([entry], [move]), [answer])
        self._answered.clear()

    def call(self, send: Callable[[Entry], Awaitable[Posted]]) -> Callable[[], Awaitable[None]]:
        """Send the next command. Raises IndexError when there is none left."""
        patient = Patient(send)

        async def one() -> None:
            entry, move = self._ready.popleft()
            self._answered.append((entry, move, await patient(entry)))

        return one


def unmerged(cell: CellDb) -> Callable[[Entry], Awaitable[Posted]]:
    """Each entry in a transaction of its own."""

    async def send(entry: Entry) -> Posted:
        async def work(tx: CellTx) -> list[Posted]:
            return await post(tx, [entry])

        return (await cell.run(ACTOR, new_trace_id(), work))[0]

    return send


async def traffic_of(bench: Bench, cell: CellDb, random: Random) -> Traffic:
    """Traffic whose ids this process makes."""
    return Traffic(Accounts(bench.size.users), random, await cell.workers.maker())


class Merged:
    """The contestant: every call goes through one coalescer."""

    def __init__(self, cell: CellDb, traffic: Traffic, callers: int = CALLERS) -> None:
        self._callers = callers
        self.singles = Singles(traffic, 40_000.0)
        self._accounts = traffic.accounts
        self._coalescer: Coalescer[Entry, Posted] = Coalescer(
            in_cell(cell, ACTOR, post), batch_limit=BATCH_LIMIT, queue_limit=QUEUE_LIMIT
        )
        self.call = self.singles.call(self._coalescer.submit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._coalescer.close()
        self.singles.put_away()

    def closed_loop(self) -> Slice:
        """One posting a call, by so many callers."""
        return closed_loop(self.call, self._callers, self.singles.prepare)

    async def checks(
        self, name: str, app: str, owner: str, others: Sequence[History] = ()
    ) -> list[Check]:
        """Verdicts and balances by the model, and the proof."""
        told = [self.singles.history, *others]
        return [
            *checks.compare_verdicts(name, owner, self._accounts, told),
            await checks.prove(name, app, ledger_only=True),
        ]


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Measure both in turn, closed loop, then on a schedule when that is wanted."""
    database = await bench.copy("single")
    app, owner = bench.server.app_dsn(database), bench.server.owner_dsn(database)
    size, callers = bench.size, bench.size.callers(CALLERS)
    async with (
        open_databases(app, POOL) as dbs,
        open_databases(app, FEW) as few_dbs,
        open_databases(app, 2) as merged_dbs,
    ):
        traffic = await traffic_of(bench, merged_dbs.cell(CELL), Random(bench.seed()))
        async with Merged(merged_dbs.cell(CELL), traffic) as merged:
            alone = Singles(traffic, 6_000.0)
            calls = {
                "merged": (merged.call, merged.singles.prepare),
                "alone": (alone.call(unmerged(dbs.cell(CELL))), alone.prepare),
                "few": (alone.call(unmerged(few_dbs.cell(CELL))), alone.prepare),
            }
            bench.say(f"single calls, {callers} callers")
            bench.server.checkpoint()
            closed = await in_turn(
                {name: closed_loop(call, callers, ready) for name, (call, ready) in calls.items()},
                size.rounds,
                size.seconds,
            )
            scheduled: dict[str, Series] = {}
            if "single_256_p99_open" in wanted:
                rate = closed["alone"].rate * OPEN_SHARE
                scheduled = await in_turn(
                    {
                        name: open_loop(call, lambda: rate, ready, QUEUE_LIMIT // 2)
                        for name, (call, ready) in calls.items()
                        if name != "few"
                    },
                    size.rounds,
                    size.seconds,
                )
        alone.put_away()
        return Findings(
            rows=[r for r in _rows(closed, scheduled) if r.name in wanted],
            checks=await merged.checks("single", app, owner, [alone.history]),
        )


def _rows(closed: dict[str, Series], scheduled: dict[str, Series]) -> list[Row]:
    fast, slow = closed["merged"], closed["alone"]
    rows = [
        Row(
            "single_256",
            fast.rate,
            "postings/s",
            _UNMERGED,
            slow.rate,
            4,
            note=f"closed loop; p50 {fast.quantile_ms(0.5):.1f} ms against"
            f" {slow.quantile_ms(0.5):.1f} ms, spread {fast.spread:.0%} and {slow.spread:.0%};"
            f" one transaction per call with a pool of {FEW}: {closed['few'].rate:,.0f}/s",
        ),
        Row(
            "single_256_p99",
            fast.quantile_ms(0.99),
            "ms",
            _UNMERGED,
            slow.quantile_ms(0.99),
            1,
            note="closed loop, each at its own full throughput; less is better",
        ),
    ]
    if scheduled:
        one, other = scheduled["merged"], scheduled["alone"]
        rows.append(
            Row(
                "single_256_p99_open",
                one.quantile_ms(0.99),
                "ms",
                _UNMERGED,
                other.quantile_ms(0.99),
                1,
                note=f"arrivals on a schedule, {other.rate:,.0f}/s for both, in process;"
                " less is better",
            )
        )
    return rows
