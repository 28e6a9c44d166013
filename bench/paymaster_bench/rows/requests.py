"""Withdrawal requests, single calls in one process: merged, or one transaction each.

Each is complete: the caller's key, the checks, the hold with its posting, the withdrawal, outbox
and audit. One in a hundred asks for more than anybody has and one in a hundred repeats an earlier
key, and both must be answered so.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.idempotency import Answer, Key
from paymaster.db.pool import CellDb
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import proof as ledger_proof
from paymaster.withdraw import proof as withdraw_proof
from paymaster.withdraw.request import BATCH_LIMIT, RequestWithdrawal
from paymaster.withdraw.request_keyed import Keyed, request_many, request_once
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.calls import Patient, closed_loop, open_loop, settle_memory
from paymaster_bench.measure import Series, in_turn
from paymaster_bench.people import OPENING, Person
from paymaster_bench.report import Check, Findings, Row
from paymaster_bench.rows.single import OPEN_SHARE, POOL, QUEUE_LIMIT
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import ASSET, Zipf
from paymaster_bench.world import ACTOR, CELL, open_databases

ROWS = ("request_512", "request_512_p99", "request_512_p99_open")
CALLERS = 512
CREDENTIAL, ROUTE = 1, "POST /v1/withdrawals"
TOO_MUCH, REPEATED = 0.01, 0.01
PROOFS = (ledger_proof.prove, withdraw_proof.prove)
"""What is proven where users' money is made up and no event stands behind it."""

_REFERENCE = "one transaction per call, pool of 16"


@dataclass(slots=True)
class Asked:
    """Requests ready to be sent, and what the model says of the answers."""

    people: Sequence[Person]
    random: Random
    name: str
    most_a_second: float
    spent: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))
    accepted: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list[str])
    _zipf: Zipf = field(init=False)
    _ready: deque[Keyed] = field(default_factory=deque[Keyed])
    _told: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    _earlier: deque[Keyed] = field(default_factory=lambda: deque(maxlen=1000))
    _made: int = 0

    def __post_init__(self) -> None:
        self._zipf = Zipf(len(self.people), self.random)

    def prepare(self, seconds: float) -> None:
        """Have enough requests for so many seconds."""
        missing = int(self.most_a_second * seconds) + CALLERS - len(self._ready)
        if missing > 0:
            self._ready.extend(self._new(who) for who in self._zipf.draw(missing))
        settle_memory()

    def _new(self, who: int) -> Keyed:
        person, self._made = self.people[who], self._made + 1
        money = Money(self.random.randint(1, 100), ASSET)
        if self.random.random() < TOO_MUCH:
            money = OPENING + Money(1, ASSET)
        command = RequestWithdrawal(person.user_id, person.destination_id, money)
        body = f"{person.external_id} {person.destination_id} {money}".encode()
        return Keyed(Key.of(CREDENTIAL, ROUTE, f"{self.name}-{self._made}", body), command)

    def call(self, send: Callable[[Keyed], Awaitable[Answer]]) -> Callable[[], Awaitable[None]]:
        """Send the next request, or an earlier one again."""
        patient = Patient(send)

        async def one() -> None:
            again = self._earlier and self.random.random() < REPEATED
            keyed = self.random.choice(self._earlier) if again else self._ready.popleft()
            answer = await patient(keyed)
            self._check(keyed, answer)

        return one

    def _check(self, keyed: Keyed, answer: Answer) -> None:
        self.answered += 1
        name, command = keyed.key.key_hash, keyed.command
        before = self._told.get(name)
        if before is not None:
            if before != answer.answer:
                self.wrong.append(f"a repeated key was answered {answer.answer!r}, not {before!r}")
            return
        self._earlier.append(keyed)
        self._told[name] = answer.answer
        expected = 202 if command.amount <= OPENING else 422
        if answer.status != expected:
            self.wrong.append(f"{command.amount}: {answer.status}, by the model {expected}")
        if answer.status == 202:
            self.accepted += 1
            self.spent[command.user_id] += command.amount.minor


def check_requests(name: str, dsn: str, groups: Sequence[Asked]) -> Check:
    """Every answer, every balance and the number of withdrawals, by the model."""
    wrong = [text for group in groups for text in group.wrong]
    spent: defaultdict[int, int] = defaultdict(int)
    for group in groups:
        for user, amount in group.spent.items():
            spent[user] += amount
    stored: dict[int, int] = dict(
        owner_rows(dsn, "SELECT owner_id, balance FROM account WHERE kind = 'available'")
    )
    wrong += [
        f"available {user}: {stored.get(user)}, by the model {OPENING.minor - amount}"
        for user, amount in spent.items()
        if stored.get(user) != OPENING.minor - amount
    ]
    accepted = sum(group.accepted for group in groups)
    [(withdrawals, holds)] = owner_rows(
        dsn,
        "SELECT (SELECT count(*) FROM withdrawal),"
        " (SELECT count(*) FROM hold WHERE state = 'open')",
    )
    if (withdrawals, holds) != (accepted, accepted):
        wrong.append(f"{withdrawals} withdrawals, {holds} holds, {accepted} were accepted")
    looked_at = sum(group.answered for group in groups)
    return Check(
        f"{name}: answers and balances equal the model's", not wrong, looked_at, wrong[:10]
    )


def _alone(cell: CellDb) -> Callable[[Keyed], Awaitable[Answer]]:
    async def send(keyed: Keyed) -> Answer:
        async def work(tx: CellTx) -> Answer:
            return await request_once(tx, keyed.key, keyed.command)

        return await cell.run(ACTOR, new_trace_id(), work)

    return send


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Measure both in turn, closed loop, then on a schedule when that is wanted."""
    database, people = await bench.people("requests")
    app, owner = bench.server.app_dsn(database), bench.server.owner_dsn(database)
    size, random = bench.size, Random(bench.seed())
    callers = size.callers(CALLERS)
    async with open_databases(app, POOL) as dbs, open_databases(app, 2) as merged_dbs:
        merged: Coalescer[Keyed, Answer] = Coalescer(
            in_cell(merged_dbs.cell(CELL), ACTOR, request_many),
            batch_limit=BATCH_LIMIT,
            queue_limit=QUEUE_LIMIT,
        )
        fast = Asked(people, random, "merged", 25_000.0)
        slow = Asked(people, random, "alone", 4_000.0)
        calls = {
            "merged": (fast.call(merged.submit), fast.prepare),
            "alone": (slow.call(_alone(dbs.cell(CELL))), slow.prepare),
        }
        bench.say(f"withdrawal requests, {callers} callers")
        bench.server.checkpoint()
        closed = await in_turn(
            {name: closed_loop(call, callers, ready) for name, (call, ready) in calls.items()},
            size.rounds,
            size.seconds,
        )
        scheduled: dict[str, Series] = {}
        if "request_512_p99_open" in wanted:
            rate = closed["alone"].rate * OPEN_SHARE
            scheduled = await in_turn(
                {
                    name: open_loop(call, lambda: rate, ready, QUEUE_LIMIT // 2)
                    for name, (call, ready) in calls.items()
                },
                size.rounds,
                size.seconds,
            )
        await merged.close()
    return Findings(
        rows=[row for row in _rows(closed, scheduled) if row.name in wanted],
        checks=[
            check_requests("requests", owner, [fast, slow]),
            await checks.prove_with("requests", app, PROOFS),
        ],
    )


def _rows(closed: dict[str, Series], scheduled: dict[str, Series]) -> list[Row]:
    one, other = closed["merged"], closed["alone"]
    rows = [
        Row(
            "request_512",
            one.rate,
            "requests/s",
            _REFERENCE,
            other.rate,
            3.5,
            note=f"closed loop; p50 {one.quantile_ms(0.5):.1f} ms against"
            f" {other.quantile_ms(0.5):.1f} ms, spread {one.spread:.0%} and {other.spread:.0%}",
        ),
        Row(
            "request_512_p99",
            one.quantile_ms(0.99),
            "ms",
            _REFERENCE,
            other.quantile_ms(0.99),
            0.25,
            note="closed loop, each at its own full throughput; less is better",
        ),
    ]
    if scheduled:
        one, other = scheduled["merged"], scheduled["alone"]
        rows.append(
            Row(
                "request_512_p99_open",
                one.quantile_ms(0.99),
                "ms",
                _REFERENCE,
                other.quantile_ms(0.99),
                note=f"arrivals on a schedule, {other.rate:,.0f}/s for both; less is better",
            )
        )
    return rows
