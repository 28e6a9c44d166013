"""A hold, then its capture, one a call, by many callers at once: what every payout goes through."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry, Posted, Verdict
from paymaster.ledger.hold import Reserve, Settle, reserve, settle
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.calls import Patient, closed_loop, settle_memory
from paymaster_bench.measure import in_turn
from paymaster_bench.report import Check, Findings, Row
from paymaster_bench.rows.single import BATCH_LIMIT, CALLERS, POOL, QUEUE_LIMIT
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import ASSET, RAIL_ACCOUNT, USER_OPENING, Zipf
from paymaster_bench.world import ACTOR, CELL, open_databases

ROWS = ("hold_capture_256", "hold_capture_256_p99")

TIGERBEETLE_FLOWS = 5_500
"""Flows a second of TigerBeetle through its Python client; see `posting.TIGERBEETLE`."""

_REFERENCE = "the same two calls, one transaction each, pool of 16"

Hold = Callable[[Reserve], Awaitable[Posted]]
Capture = Callable[[Settle], Awaitable[Posted]]


@dataclass(slots=True)
class Flows:
    """Pairs of commands ready to be sent, and what was moved for whom."""

    users: Zipf
    random: Random
    make_ids: Callable[[int], list[int]]
    most_a_second: float
    ready: deque[tuple[int, int, Reserve, Settle]] = field(
        default_factory=deque[tuple[int, int, Reserve, Settle]]
    )
    moved: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    done: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def prepare(self, seconds: float) -> None:
        """Have enough flows for so many seconds."""
        missing = int(self.most_a_second * seconds) + CALLERS - len(self.ready)
        if missing > 0:
            ids = iter(self.make_ids(3 * missing))
            for user in self.users.draw(missing):
                self.ready.append(self._flow(user + 1, next(ids), next(ids), next(ids)))
        settle_memory()

    def _flow(
        self, owner: int, hold_id: int, request_id: int, paid_id: int
    ) -> tuple[int, int, Reserve, Settle]:
        money = Money(self.random.randint(1, 20), ASSET)
        subject = f"flow-{hold_id}"
        held = Entry(request_id, "request", subject, recipes.request(owner, money))
        paid = recipes.paid(owner, RAIL_ACCOUNT, money, Money.zero(ASSET))
        return (
            owner,
            money.minor,
            Reserve(hold_id, held, "bench", subject),
            Settle(hold_id, Entry(paid_id, "paid", subject, paid), money, "captured"),
        )

    def call(self, hold: Hold, capture: Capture) -> Callable[[], Awaitable[None]]:
        """One flow: two calls, one after the other."""
        holding, capturing = Patient(hold), Patient(capture)

        async def one() -> None:
            owner, amount, first, second = self.ready.popleft()
            held = (await holding(first)).verdict
            taken = (await capturing(second)).verdict
            if held is not Verdict.POSTED or taken is not Verdict.POSTED:
                self.wrong.append(f"{first.subject}: {held}, {taken}, by the model posted twice")
            self.moved[owner] += amount
            self.done += 1

        return one


def _alone(cell: CellDb) -> tuple[Hold, Capture]:
    async def hold(command: Reserve) -> Posted:
        async def work(tx: CellTx) -> list[Posted]:
            return await reserve(tx, [command])

        return (await cell.run(ACTOR, new_trace_id(), work))[0]

    async def capture(command: Settle) -> Posted:
        async def work(tx: CellTx) -> list[Posted]:
            return await settle(tx, [command])

        return (await cell.run(ACTOR, new_trace_id(), work))[0]

    return hold, capture


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Measure both in turn."""
    database = await bench.copy("holds")
    app, owner = bench.server.app_dsn(database), bench.server.owner_dsn(database)
    async with open_databases(app, POOL) as dbs, open_databases(app, 3) as merged_dbs:
        cell = merged_dbs.cell(CELL)
        make, random = await cell.workers.maker(), Random(bench.seed())
        callers = bench.size.callers(CALLERS)
        users = Zipf(bench.size.users, random)
        holds: Coalescer[Reserve, Posted] = Coalescer(
            in_cell(cell, ACTOR, reserve), batch_limit=BATCH_LIMIT, queue_limit=QUEUE_LIMIT
        )
        captures: Coalescer[Settle, Posted] = Coalescer(
            in_cell(cell, ACTOR, settle), batch_limit=BATCH_LIMIT, queue_limit=QUEUE_LIMIT
        )
        fast, slow = Flows(users, random, make, 15_000.0), Flows(users, random, make, 3_000.0)
        bench.say(f"hold and capture, {callers} callers")
        bench.server.checkpoint()
        series = await in_turn(
            {
                "merged": closed_loop(
                    fast.call(holds.submit, captures.submit), callers, fast.prepare
                ),
                "alone": closed_loop(slow.call(*_alone(dbs.cell(CELL))), callers, slow.prepare),
            },
            bench.size.rounds,
            bench.size.seconds,
        )
        await holds.close()
        await captures.close()
    one, other = series["merged"], series["alone"]
    note = f"closed loop; TigerBeetle's Python client elsewhere {TIGERBEETLE_FLOWS:,}"
    rows = [
        Row("hold_capture_256", one.rate, "flows/s", _REFERENCE, other.rate, 3, note=note),
        Row(
            "hold_capture_256_p99",
            one.quantile_ms(0.99),
            "ms",
            _REFERENCE,
            other.quantile_ms(0.99),
            note="of both calls together, closed loop; less is better",
        ),
    ]
    return Findings(
        rows=[row for row in rows if row.name in wanted],
        checks=[
            *_checks(owner, fast, slow),
            await checks.prove("holds", app, ledger_only=True),
        ],
    )


def _checks(dsn: str, *groups: Flows) -> list[Check]:
    """Every hold captured in full; every account as the model has it."""
    wrong = [text for group in groups for text in group.wrong]
    expected: defaultdict[int, int] = defaultdict(int)
    for group in groups:
        for user, amount in group.moved.items():
            expected[user] += amount
    done = sum(group.done for group in groups)
    states: dict[str, int] = dict(owner_rows(dsn, "SELECT state, count(*) FROM hold GROUP BY 1"))
    if states != {"captured": done}:
        wrong.append(f"holds {states}, by the model {done} captured")
    stored: dict[int, int] = dict(
        owner_rows(dsn, "SELECT owner_id, balance FROM account WHERE kind = 'available'")
    )
    wrong += [
        f"available {user}: {stored.get(user)}, by the model {USER_OPENING - amount}"
        for user, amount in expected.items()
        if stored.get(user) != USER_OPENING - amount
    ]
    [(clearing,)] = owner_rows(
        dsn, "SELECT coalesce(sum(balance), 0)::bigint FROM account WHERE kind = 'clearing'"
    )
    if clearing != sum(expected.values()):
        wrong.append(f"clearing {clearing}, by the model {sum(expected.values())}")
    return [Check("holds: flows equal the model's", not wrong, done, wrong[:10])]
