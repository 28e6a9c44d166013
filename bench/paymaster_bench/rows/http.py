"""Withdrawal requests over HTTP, one API process, against a constant behind the same key check."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from paymaster.db.tx import ControlTx
from paymaster.kernel.ids import new_trace_id, text_id
from paymaster.kernel.money import Money
from paymaster.people import credentials
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.loadgen import Aim, Shot, compile_into, shoot, shoot_in_python
from paymaster_bench.measure import Sample, Series, Slice, in_turn
from paymaster_bench.people import OPENING, Person
from paymaster_bench.processes import start_workers
from paymaster_bench.report import Check, Findings, Row, skipped
from paymaster_bench.rows.requests import PROOFS, TOO_MUCH
from paymaster_bench.served import PATH, Site, await_port, free_port
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import ASSET, Zipf
from paymaster_bench.world import ACTOR, CELL, ENVIRONMENT, open_databases

ROWS = ("request_http", "request_http_p99")
CONNECTIONS = 64
OPEN_SHARE = 0.5
"""Of what the API does at most in the closed loop of the same run."""

_REFERENCE = "a bare Starlette and msgspec constant behind the same key check"
_BODIES = 20_000


@dataclass(slots=True)
class Sent:
    """What one site was sent. Requests are numbered; the model knows each one's body."""

    aim: Aim
    program: Path | None
    checked: bool
    first: int = 0
    run: int = 0
    shots: list[tuple[int, Shot]] = field(default_factory=list[tuple[int, Shot]])

    def slice(self, rate: float = 0.0) -> Slice:
        """A slice of the closed loop, or of so many a second."""

        async def measure(seconds: float) -> Sample:
            self.run += 1
            send = shoot_in_python if self.program is None else shoot
            shot = await send(
                self.program,
                self.aim,
                connections=CONNECTIONS,
                seconds=seconds,
                rate=rate,
                run=self.run,
                first=self.first,
            )
            self.shots.append((self.first, shot))
            self.first += shot.sent
            return Sample(shot.answered, shot.rate, [shot.p99_ms / 1000] if shot.p99_ms else [])

        return measure


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Serve both, load them in turn."""
    database, people = await bench.people("http")
    app, owner = bench.server.app_dsn(database), bench.server.owner_dsn(database)
    program = compile_into(bench.folder)
    bodies = bench.folder / "bodies.txt"
    model = _write_bodies(bodies, people, Random(bench.seed()))
    token = await _issue_key(app)
    with ExitStack() as stack:
        sent: dict[str, Sent] = {}
        for kind in ("api", "constant"):
            port = free_port()
            settings = bench.settings(
                database={"url": app},
                api={"port": port},
                limits={"requests_per_minute": 10_000_000},
            )
            site = Site(kind, settings, bench.folder / f"{kind}.log")
            stack.enter_context(start_workers("paymaster_bench.served:main", [site]))
            await_port(port)
            sent[kind] = Sent(Aim(port, PATH, token, bodies), program, checked=kind == "api")
        bench.say(f"requests over HTTP, {CONNECTIONS} connections")
        bench.server.checkpoint()
        size = bench.size
        closed = await in_turn(
            {kind: one.slice() for kind, one in sent.items()}, size.rounds, size.seconds
        )
        scheduled: dict[str, Series] = {}
        if program is not None and "request_http_p99" in wanted:
            rate = closed["api"].rate * OPEN_SHARE
            scheduled = await in_turn(
                {kind: one.slice(rate) for kind, one in sent.items()}, size.rounds, size.seconds
            )
    return Findings(
        rows=[row for row in _rows(closed, scheduled, program) if row.name in wanted],
        checks=[
            _check(owner, model, sent["api"].shots),
            await checks.prove_with("request_http", app, PROOFS),
        ],
    )


def _rows(
    closed: dict[str, Series], scheduled: dict[str, Series], program: Path | None
) -> list[Row]:
    one, other = closed["api"], closed["constant"]
    by = "a generator in C" if program else "a client in Python (no C compiler)"
    rows = [
        Row(
            "request_http",
            one.rate,
            "requests/s",
            _REFERENCE,
            other.rate,
            0.35,
            note=f"{CONNECTIONS} connections, closed loop by {by} on the same cores,"
            f" spread {one.spread:.0%} and {other.spread:.0%}",
        )
    ]
    if scheduled:
        one, other = scheduled["api"], scheduled["constant"]
        rows.append(
            Row(
                "request_http_p99",
                one.quantile_ms(0.99),
                "ms",
                _REFERENCE,
                other.quantile_ms(0.99),
                note=f"arrivals on a schedule, {one.rate:,.0f}/s and {other.rate:,.0f}/s answered,"
                " latency from when each was due; less is better",
            )
        )
    else:
        rows.append(skipped("request_http_p99", "no C compiler was found, or it was not asked for"))
    return rows


@dataclass(frozen=True, slots=True)
class Line:
    """What the model knows of a body."""

    user_id: int
    amount: Money


def _write_bodies(path: Path, people: Sequence[Person], random: Random) -> list[Line]:
    """Requests of users drawn by Zipf, one in a hundred for more than anybody has."""
    lines: list[Line] = []
    with path.open("w", encoding="utf-8") as out:
        for who in Zipf(len(people), random).draw(_BODIES):
            person = people[who]
            amount = Money(random.randint(100, 200), ASSET)
            if random.random() < TOO_MUCH:
                amount = OPENING + Money(1, ASSET)
            body = {
                "user": person.external_id,
                "destination": text_id("de", CELL, person.destination_id),
                "amount": {"amount": amount.text(), "currency": ASSET},
            }
            out.write(json.dumps(body) + "\n")
            lines.append(Line(person.user_id, amount))
    return lines


async def _issue_key(app_dsn: str) -> str:
    async def work(tx: ControlTx) -> str:
        return (await credentials.issue(tx, ENVIRONMENT, "bench", ["withdrawals", "read"])).key

    async with open_databases(app_dsn, 2) as dbs:
        return await dbs.control.run(ACTOR, new_trace_id(), work)


def _check(dsn: str, lines: Sequence[Line], shots: Sequence[tuple[int, Shot]]) -> Check:
    """Every answer's status, every sampled answer, every balance, by the model."""
    wrong: list[str] = []
    spent: defaultdict[int, int] = defaultdict(int)
    accepted = looked_at = 0
    for first, shot in shots:
        expected: defaultdict[int, int] = defaultdict(int)
        for number in range(first, first + shot.sent):
            line = lines[number % len(lines)]
            fits = line.amount <= OPENING
            expected[202 if fits else 422] += 1
            if fits:
                accepted += 1
                spent[line.user_id] += line.amount.minor
        if shot.statuses != dict(expected) or shot.broken:
            wrong.append(f"{shot.statuses} and {shot.broken} broken, by the model {dict(expected)}")
        wrong += [text for one in shot.samples if (text := _sample_fault(lines, *one))]
        looked_at += shot.answered
    stored: dict[int, int] = dict(
        owner_rows(dsn, "SELECT owner_id, balance FROM account WHERE kind = 'available'")
    )
    wrong += [
        f"available {user}: {stored.get(user)}, by the model {OPENING.minor - amount}"
        for user, amount in spent.items()
        if stored.get(user) != OPENING.minor - amount
    ]
    [(withdrawals,)] = owner_rows(dsn, "SELECT count(*) FROM withdrawal")
    if withdrawals != accepted:
        wrong.append(f"{withdrawals} withdrawals, by the model {accepted}")
    what = "request_http: answers and balances equal the model's"
    return Check(what, not wrong, looked_at, wrong[:10])


def _sample_fault(lines: Sequence[Line], number: int, status: int, body: str) -> str | None:
    line = lines[number % len(lines)]
    told = json.loads(body)
    if line.amount > OPENING:
        right = status == 422 and told["code"] == "insufficient-funds"
    else:
        right = (
            status == 202
            and told["amount"] == {"amount": line.amount.text(), "currency": ASSET}
            and told["user"] == text_id("us", CELL, line.user_id)
        )
    return None if right else f"request {number}: {status} {body[:200]}"
