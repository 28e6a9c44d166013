"""Events from bytes to money: read, held against the rules, credited; against COPY of their rows.

`intake` is a pattern (five events of a kind make a reward): every event is verified, every fifth
is credited. `intake_gold` compares each answer with the known one and credits nearly every event.
The limit is COPY of the very event rows, and of nothing else, in commits of the same size, into a
table without the index by which patterns are counted: whoever only stores events needs none.
`intake_indexed` is held against COPY into the table as it is.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

import psycopg
from psycopg import sql

from paymaster.db.cells import Databases
from paymaster.db.tx import CellTx, ControlTx
from paymaster.earn import campaign, task
from paymaster.earn import proof as earn_proof
from paymaster.earn.campaign import PutCampaign
from paymaster.earn.event import Status
from paymaster.earn.ingest import ingest
from paymaster.earn.intake import Limits, parse
from paymaster.earn.record import MAX_BATCH
from paymaster.earn.task import PutTask
from paymaster.kernel.clock import WallClock
from paymaster.kernel.errors import Broken
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.secrets.opening import open_secrets
from paymaster.secrets.sealing import Sealer
from paymaster_bench import checks
from paymaster_bench.bench import Bench
from paymaster_bench.calls import settle_memory
from paymaster_bench.measure import Sample, Series, Slice, in_turn, now_seconds
from paymaster_bench.people import OPENING, Person
from paymaster_bench.report import Check, Findings, Row
from paymaster_bench.server import owner_rows
from paymaster_bench.workload import ASSET, RAIL_ACCOUNT
from paymaster_bench.world import ACTOR, CELL, ENVIRONMENT, open_databases

ROWS = ("intake", "intake_indexed", "intake_gold")
BODY_EVENTS = 10_000
EVENTS_OF_PATTERN = 5
ITEMS, ANSWERS, WRONG = 20_000, 7, 0.03
REWARD = Money(2, ASSET)
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_LIMITS = Limits(body_bytes=1 << 28, events=BODY_EVENTS)
_MOST_A_SECOND = {"intake": 60_000, "intake_gold": 40_000}
_CAMPAIGN, _SOURCE, _GOLD = "bench", "app", "gold"
_CONTESTANT = {"intake_indexed": "intake"}
"""Whose figure a row shows, where it has none of its own."""

_CREDITED = {"intake": "every fifth event is credited", "intake_gold": "97 % are credited"}
_PROOFS = (ledger_proof.prove, earn_proof.prove)


@dataclass(slots=True)
class Body:
    """NDJSON, its first and last event id, and how many rewards it must bring by the model."""

    data: bytes
    first: str
    last: str
    count: int
    rewarded: int


@dataclass(slots=True)
class Events:
    """Makes bodies; knows what each must bring, and to whom."""

    dbs: Databases
    people: Sequence[Person]
    random: Random
    body_events: int
    earned: Counter[int] = field(default_factory=Counter[int])
    """Rewards by user id."""

    _made: int = 0
    _patterns: int = 0
    _waiting: deque[tuple[Person, str]] = field(default_factory=deque[tuple[Person, str]])
    _seen: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])

    async def body(self, name: str) -> Body:
        """The next body of a row."""
        lines: list[bytes] = []
        rewarded, first = 0, self._event_id(self._made)
        for _ in range(self.body_events):
            if name == "intake":
                line, person, paid = await self._opened()
            else:
                line, person, paid = self._answered()
            lines.append(line)
            if paid:
                rewarded += 1
                self.earned[person.user_id] += 1
        last = self._event_id(self._made - 1)
        return Body(b"\n".join(lines), first, last, len(lines), rewarded)

    async def _opened(self) -> tuple[bytes, Person, bool]:
        """One event of a pattern: five of each user to a task, in any order."""
        if not self._waiting:
            self._patterns += 1
            name = f"pattern-{self._patterns}"
            rule = {"kind": "count", "event": "opened", "count": EVENTS_OF_PATTERN}
            await put_task(self.dbs, name, rule)
            wave = [(person, name) for person in self.people] * EVENTS_OF_PATTERN
            self.random.shuffle(wave)
            self._waiting.extend(wave)
        person, name = self._waiting.popleft()
        self._seen[person.user_id, name] += 1
        line = self._line(person, name, "opened", {"screen": "home"})
        return line, person, self._seen[person.user_id, name] == EVENTS_OF_PATTERN

    def _answered(self) -> tuple[bytes, Person, bool]:
        """One answer to a gold item that this user was not asked before."""
        at, size = self._made, len(self.people)
        item = (at // size * 7919 + at) % ITEMS
        right = self.random.random() >= WRONG
        answer = str(item % ANSWERS if right else ANSWERS)
        person = self.people[at * 7919 % size]
        payload = {"item": f"item-{item}", "answer": answer}
        return self._line(person, _GOLD, "answer", payload), person, right

    def _line(self, person: Person, name: str, kind: str, payload: dict[str, str]) -> bytes:
        number, self._made = self._made, self._made + 1
        return json.dumps(
            {
                "event_id": self._event_id(number),
                "user": person.external_id,
                "campaign": _CAMPAIGN,
                "task": name,
                "type": kind,
                "occurred_at": f"2026-01-02T12:{number // 60 % 60:02d}:{number % 60:02d}Z",
                "payload": payload,
            }
        ).encode()

    @staticmethod
    def _event_id(number: int) -> str:
        return f"ev-{number:012d}"


@dataclass(slots=True)
class Intake:
    """A contestant: one caller, one body after the other; what it stored is told to `stored`."""

    name: str
    dbs: Databases
    sealer: Sealer
    events: Events
    stored: list[Body] = field(default_factory=list[Body])
    """Of the last slice."""

    rows: list[bytes] = field(default_factory=list[bytes])
    """What is stored of them, as binary COPY data, once it was asked for."""

    parse_seconds: float = 0.0
    total_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list[str])
    _ready: deque[Body] = field(default_factory=deque[Body])

    async def slice(self, seconds: float) -> Sample:
        """Take events in for so long, from their bytes on."""
        wanted = int(_MOST_A_SECOND[self.name] * seconds / self.events.body_events) + 1
        while len(self._ready) < wanted:
            self._ready.append(await self.events.body(self.name))
        self.stored, self.rows = [], []
        settle_memory()
        begun, count = now_seconds(), 0
        while self._ready and now_seconds() - begun < seconds:
            body = self._ready.popleft()
            await self._take(body)
            count += body.count
        elapsed = now_seconds() - begun
        self.total_seconds += elapsed
        return Sample(count, count / elapsed)

    async def finish(self) -> None:
        """Take in what was made but not sent, so that the model knows all."""
        while self._ready:
            await self._take(self._ready.popleft())

    async def _take(self, body: Body) -> None:
        start = now_seconds()
        parsed = parse(body.data, _SOURCE, WallClock().now(), limits=_LIMITS)
        self.parse_seconds += now_seconds() - start
        report = await ingest(
            self.dbs, self.sealer, ENVIRONMENT, ACTOR, new_trace_id(), _SOURCE, parsed
        )
        found = Counter(outcome.status for outcome in report.outcomes)
        expected = Counter({Status.REWARDED: body.rewarded})
        expected[Status.RECORDED] = body.count - body.rewarded
        if +found != +expected:
            self.wrong.append(f"{body.first}: {dict(found)}, by the model {dict(expected)}")
        self.stored.append(body)


def copying(intake: Intake, source: str, target: str) -> Slice:
    """The reference: COPY the event rows of the last slice, in commits of as many events."""

    async def measure(_seconds: float) -> Sample:
        if not intake.rows:
            with psycopg.connect(source, autocommit=True) as connection:
                connection.execute("SET search_path TO cell_1")
                for body in intake.stored:
                    intake.rows += _chunks(connection, body)
        with psycopg.connect(target, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            connection.execute("SELECT count(*) FROM event WHERE source = ''")
            begun = now_seconds()
            for rows in intake.rows:
                with connection.cursor().copy("COPY event FROM STDIN BINARY") as copy:
                    copy.write(rows)
            elapsed = now_seconds() - begun
        count = sum(body.count for body in intake.stored)
        return Sample(count, count / elapsed if count else 0.0)

    return measure


def _chunks(connection: psycopg.Connection[tuple[object, ...]], body: Body) -> list[bytes]:
    """The rows of a body as binary COPY data, split as `ingest` splits them."""
    first, last = int(body.first[3:]), int(body.last[3:])
    found: list[bytes] = []
    for start in range(first, last + 1, MAX_BATCH):
        end = min(start + MAX_BATCH - 1, last)
        query = sql.SQL(
            "COPY (SELECT * FROM event WHERE source = {} AND event_id BETWEEN {} AND {})"
            " TO STDOUT BINARY"
        ).format(
            sql.Literal(_SOURCE), sql.Literal(f"ev-{start:012d}"), sql.Literal(f"ev-{end:012d}")
        )
        with connection.cursor().copy(query) as copy:
            found.append(b"".join(bytes(part) for part in copy))
    return found


async def run(bench: Bench, wanted: frozenset[str]) -> Findings:
    """Measure each wanted row in turn with COPY of its own rows."""
    database, people = await bench.people("intake")
    server = bench.server
    app, owner = server.app_dsn(database), server.owner_dsn(database)
    bare, indexed = [
        server.owner_dsn((await bench.people(name))[0]) for name in ("events", "events_indexed")
    ]
    with psycopg.connect(bare, autocommit=True) as connection:
        connection.execute("DROP INDEX cell_1.event_counted")
    sealer = open_secrets(bench.settings()).sealer
    async with open_databases(app, 4) as dbs:
        await _prepare(dbs)
        size = min(BODY_EVENTS, 5 * len(people))
        events = Events(dbs, people, Random(bench.seed()), size)
        names = {_CONTESTANT.get(name, name): None for name in ROWS if name in wanted}
        intakes = [Intake(name, dbs, sealer, events) for name in names]
        contestants: dict[str, Slice] = {}
        for one in intakes:
            contestants[one.name] = one.slice
            contestants[f"copy:{one.name}"] = copying(one, owner, bare)
            if one.name == "intake" and "intake_indexed" in wanted:
                contestants["copy:intake_indexed"] = copying(one, owner, indexed)
        bench.say(f"events: {', '.join(contestants)}")
        server.checkpoint()
        series = await in_turn(contestants, bench.size.rounds, bench.size.seconds)
        shares = {one.name: one.parse_seconds / one.total_seconds for one in intakes}
        for one in intakes:
            await one.finish()
    found = Findings()
    found.rows = [_row(name, series, shares) for name in ROWS if name in wanted]
    found.checks = [
        _check(owner, events, intakes),
        await checks.prove_with("intake", app, _PROOFS),
    ]
    return found


def _row(name: str, series: Mapping[str, Series], shares: Mapping[str, float]) -> Row:
    own = _CONTESTANT.get(name, name)
    rate, share = series[own].rate, shares[own]
    table = (
        "the same table, all its indexes" if name == "intake_indexed" else "a table with its key"
    )
    return Row(
        name,
        rate,
        "events/s",
        f"COPY of the same event rows, commits of {MAX_BATCH}, into {table}",
        series[f"copy:{name}"].rate,
        None if name == "intake_indexed" else 0.1,
        note=f"every event is verified, {_CREDITED[own]}; one caller, from bytes"
        f" (reading them is {share:.0%}, without it {rate / (1 - share):,.0f}/s)",
    )


async def put_task(dbs: Databases, name: str, rule: Mapping[str, object]) -> str:
    """A task of the campaign; its text id."""

    async def work(tx: ControlTx) -> str:
        wanted = PutTask(name, "custom", "A task", REWARD, rule, _LONG_AGO)
        view, _ = await task.put_task(tx, ENVIRONMENT, _CAMPAIGN, wanted)
        return view.id

    return await dbs.control.run(ACTOR, new_trace_id(), work)


async def _prepare(dbs: Databases) -> None:
    """A campaign with money and a task with gold answers."""

    async def campaign_of(tx: ControlTx) -> int:
        await campaign.put_sponsor(tx, ENVIRONMENT, CELL, "bench", "Bench")
        wanted = PutCampaign(_CAMPAIGN, "bench", "A campaign", ASSET, _LONG_AGO)
        return (await campaign.put_campaign(tx, ENVIRONMENT, CELL, wanted))[0].number

    number = await dbs.control.run(ACTOR, new_trace_id(), campaign_of)

    async def fund(tx: CellTx) -> None:
        money = recipes.fund(RAIL_ACCOUNT, number, Money(10**14, ASSET))
        [result] = await post(tx, [Entry(tx.id(), "fund", "bench", money)])
        if not result.done:
            raise Broken("bench-opening", "The campaign could not be funded.")

    await dbs.cell(CELL).run(ACTOR, new_trace_id(), fund)
    gold = await put_task(dbs, _GOLD, {"kind": "gold"})
    for start in range(0, ITEMS, 5000):
        answers = {f"item-{n}": str(n % ANSWERS) for n in range(start, start + 5000)}

        async def put(tx: ControlTx, answers: dict[str, str] = answers) -> None:
            await task.put_gold(tx, ENVIRONMENT, gold, answers)

        await dbs.control.run(ACTOR, new_trace_id(), put)


def _check(dsn: str, events: Events, intakes: Sequence[Intake]) -> Check:
    """Every body's outcomes, every event stored once, every user's money, by the model."""
    wrong = [text for one in intakes for text in one.wrong]
    stored: dict[int, int] = dict(
        owner_rows(
            dsn,
            "SELECT owner_id, sum(balance)::bigint FROM account"
            " WHERE kind IN ('available', 'vesting') GROUP BY 1",
        )
    )
    for person in events.people:
        expected = OPENING.minor + events.earned[person.user_id] * REWARD.minor
        if stored.get(person.user_id) != expected and len(wrong) < 10:
            wrong.append(
                f"user {person.user_id} has {stored.get(person.user_id)}, by the model {expected}"
            )
    [(count, rewards)] = owner_rows(
        dsn, "SELECT (SELECT count(*) FROM event), (SELECT count(*) FROM reward)"
    )
    rewarded = events.earned.total()
    if rewards != rewarded:
        wrong.append(f"{rewards} rewards, by the model {rewarded}")
    return Check("intake: outcomes and balances equal the model's", not wrong, count, wrong[:10])
