"""Acknowledged is applied, exactly once, whatever is killed meanwhile.

512 callers ask for withdrawals at once while the api process, PostgreSQL or both are killed (-9) at
random moments and started again. Each caller sends the same request under the same key until it
has an answer. Afterwards the books hold what was acknowledged, nothing else and nothing twice, and
every key gives its first answer again, byte for byte.

PAYMASTER_ROUNDS says how many rounds; PAYMASTER_SEED repeats the choices (not the machine's).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.live import ACTOR, Connection, Live, Lost, Person, fund, live, people

from paymaster.compose import Deps
from paymaster.db.coalesce import Coalescer, in_cell
from paymaster.db.tx import CellTx
from paymaster.kernel.errors import Busy
from paymaster.kernel.ids import new_trace_id, parse_text_id
from paymaster.kernel.money import Money
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Entry, Posted, Posting, Verdict
from paymaster.ledger.post import post
from paymaster.proof import prove_cell

CALLERS, USERS, GRANT = 512, 64, 6_000
ROUNDS = int(os.environ.get("PAYMASTER_ROUNDS", "2"))
SEED = int(os.environ.get("PAYMASTER_SEED", "20261121"))
PATH = "/v1/withdrawals"

pytestmark = [pytest.mark.long, pytest.mark.timeout(120 + 40 * ROUNDS)]


@dataclass
class Asked:
    """A request with its key and the answer that was given first."""

    person: Person
    key: str
    body: bytes
    minor: int
    status: int = 0
    answer: bytes = b""


@dataclass
class Tally:
    """What happened, for the figures."""

    counted: Counter[str] = field(default_factory=Counter)
    asked: list[Asked] = field(default_factory=list)


async def until_answered(
    made: Live, connection: Connection, asked: Asked, tally: Tally
) -> tuple[int, dict[str, str], bytes]:
    """Send the same under the same key until there is an answer."""
    for _ in range(1000):
        await made.listening.wait()
        try:
            status, headers, answer = await connection.ask(
                "POST", PATH, asked.body, {"Idempotency-Key": asked.key}
            )
        except Lost:
            tally.counted["lost"] += 1
            await asyncio.sleep(random.uniform(0, 0.1))
            continue
        if status == 503 or (status == 409 and json.loads(answer)["code"] == "in-progress"):
            assert status != 503 or int(headers["retry-after"]) > 0
            tally.counted[f"come again {json.loads(answer)['code']}"] += 1
            await asyncio.sleep(random.uniform(0.02, 0.2))
            continue
        return status, headers, answer
    raise AssertionError("never answered")


async def caller(
    made: Live, who: list[Person], rng: random.Random, name: str, stop: asyncio.Event, tally: Tally
) -> None:
    """Ask again and again until told to stop; now and then on two connections at once."""
    first, second = Connection(made.port, made.key), Connection(made.port, made.key)
    number = 0
    while number == 0 or not stop.is_set():
        number += 1
        person, minor = rng.choice(who), rng.randint(100, 900)
        wanted = {
            "user": person.name,
            "destination": person.destination,
            "amount": {"amount": f"{minor // 100}.{minor % 100:02}", "currency": "EUR"},
        }
        asked = Asked(person, f"{name}-{number}", json.dumps(wanted).encode(), minor)
        tries = [until_answered(made, first, asked, tally)]
        if rng.random() < 0.1:
            tries.append(until_answered(made, second, asked, tally))
        answers = await asyncio.gather(*tries)
        asked.status, _, asked.answer = answers[0]
        assert {(status, answer) for status, _, answer in answers} == {(asked.status, asked.answer)}
        assert asked.status in (202, 422), (asked.status, asked.answer)
        tally.asked.append(asked)
        await asyncio.sleep(rng.uniform(0, 0.2))
    first.close()
    second.close()


async def busy_for(tally: Tally, answers: int) -> None:
    """Return in the middle of the load: after so many answers more, or three seconds."""
    until, deadline = len(tally.asked) + answers, time.monotonic() + 3
    while len(tally.asked) < until and time.monotonic() < deadline:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.001)


async def kill_and_start(made: Live, rng: random.Random, tally: Tally) -> None:
    """One to three deaths, each at a random moment of the load."""
    for _ in range(rng.choice([1, 2, 3])):
        await busy_for(tally, rng.choice([1, 50, 200, 600, 1000]) + rng.randrange(50))
        victim = rng.choice(["api", "postgres", "both"])
        tally.counted[f"killed {victim}"] += 1
        if victim != "api":
            made.kill_postgres()
        if victim != "postgres":
            made.kill_api()
        await asyncio.sleep(rng.choice([0, 0, 0.2, 0.6]))
        await asyncio.to_thread(made.revive_postgres)
        await made.ready()
    await asyncio.sleep(rng.uniform(0, 0.2))


async def replay(made: Live, asked: list[Asked]) -> None:
    """Every key once more: the first answer, marked as repeated."""
    waiting = list(asked)

    async def worker() -> None:
        connection = Connection(made.port, made.key)
        while waiting:
            one = waiting.pop()
            status, headers, answer = await until_answered(made, connection, one, Tally())
            assert (status, answer) == (one.status, one.answer), one.key
            assert headers.get("idempotent-replayed") == "true"
        connection.close()

    await asyncio.gather(*(worker() for _ in range(32)))
    if asked:
        other = Asked(asked[0].person, asked[0].key, asked[0].body + b" ", 1)
        connection = Connection(made.port, made.key)
        status, _, answer = await until_answered(made, connection, other, Tally())
        assert (status, json.loads(answer)["code"]) == (422, "idempotency-key-reused")
        connection.close()


def check_rows(made: Live, who: list[Person], asked: list[Asked], granted: int) -> None:
    """The rows are those of the acknowledged requests: each once, with its hold and postings."""
    acknowledged = {
        parse_text_id("wd", json.loads(one.answer)["id"]).id: one
        for one in asked
        if one.status == 202
    }
    assert len(acknowledged) == sum(one.status == 202 for one in asked)
    refusals = {json.loads(one.answer)["code"] for one in asked if one.status != 202}
    assert refusals <= {"insufficient-funds"}
    stored = made.rows(
        """
        SELECT w.id, w.user_id, w.amount, h.remaining, h.state, count(p.id), min(p.amount)
        FROM withdrawal w JOIN hold h ON h.id = w.hold_id
            JOIN entry e ON e.id = w.entry_request
            JOIN posting p ON p.entry_id = e.id
                AND p.id BETWEEN e.first_posting_id AND e.last_posting_id
        GROUP BY w.id, h.id, e.id
        """
    )
    expected = {
        (number, one.person.ref.id, one.minor, one.minor, "open", 1, one.minor)
        for number, one in acknowledged.items()
    }
    assert len(stored) == len(expected)
    assert set(stored) == expected
    for table, what in (
        ("entry", "kind = 'request'"),
        ("hold", "true"),
        ("outbox", "topic = 'withdrawal.requested'"),
        ("audit", "action = 'withdrawal.request'"),
        ("idempotency", "status IS NOT NULL AND status = 202"),
    ):
        [(count,)] = made.rows(f"SELECT count(*) FROM {table} WHERE {what}")
        assert count == len(expected), table
    spent = Counter({person.ref.id: 0 for person in who})
    for one in acknowledged.values():
        spent[one.person.ref.id] += one.minor
    balances = made.rows(
        "SELECT owner_id, balance FROM account WHERE kind = 'available' AND owner_id = ANY(%s)",
        [person.ref.id for person in who],
    )
    assert dict(balances) == {user: granted - minor for user, minor in spent.items()}


async def clean(deps: Deps) -> None:
    for _ in range(5):
        try:
            proof = await deps.dbs.cell(1).read(prove_cell)
        except Busy:
            continue
        assert list(proof.differences) == []
        return
    raise AssertionError("the database does not answer")


async def test_what_was_acknowledged_over_http_is_applied_once(tmp_path: Path) -> None:
    rng, tally = random.Random(SEED), Tally()
    async with live(tmp_path) as (made, deps):
        who = await people(deps, USERS)
        granted = 0
        for number in range(ROUNDS):
            await fund(deps, who, GRANT)
            granted += GRANT
            stop, before = asyncio.Event(), len(tally.asked)
            callers = [
                asyncio.create_task(
                    caller(made, who, random.Random(rng.random()), f"{number}-{n}", stop, tally)
                )
                for n in range(CALLERS)
            ]
            await kill_and_start(made, rng, tally)
            stop.set()
            await asyncio.gather(*callers)
            await replay(made, tally.asked[before:])
            check_rows(made, who, tally.asked, granted)
            print(f"round {number}: {len(tally.asked)} answered", flush=True)  # noqa: T201
        await clean(deps)
        told = Counter(str(one.status) for one in tally.asked) + tally.counted
        print(f"rounds {ROUNDS} seed {SEED}: {dict(sorted(told.items()))}")  # noqa: T201
        assert told["202"]
        assert told["422"]


async def test_what_was_posted_in_process_is_in_the_books_once(tmp_path: Path) -> None:
    """The same without HTTP: 512 tasks, one posting a call, merged; PostgreSQL is killed."""
    rng, counted = random.Random(SEED), Counter[str]()
    async with live(tmp_path) as (made, deps):
        cell = deps.dbs.cell(1)
        user, house = Account("available", 7, "EUR"), Account("loss", HOUSE, "EUR")
        sink = Account("equity", HOUSE, "EUR")
        done: dict[int, bool] = {}

        async def use_case(tx: CellTx, entries: Sequence[Entry]) -> Sequence[Posted]:
            return await post(tx, entries)

        run = in_cell(cell, ACTOR, use_case)
        merged: Coalescer[Entry, Posted] = Coalescer(run, batch_limit=200, queue_limit=1000)

        async def one(rng: random.Random, stop: asyncio.Event) -> None:
            while not stop.is_set():
                entry_id = numbers.pop()
                ends = (house, user) if rng.random() < 0.4 else (user, sink)
                entry = Entry(entry_id, "test", "x", (Posting(*ends, Money(10, "EUR")),))
                while entry_id not in done:
                    try:
                        posted = await merged.submit(entry)
                    except Busy as busy:
                        counted[f"come again {busy.slug}"] += 1
                        await asyncio.sleep(0.05)
                        continue
                    counted[posted.verdict] += 1
                    assert posted.done or posted.verdict is Verdict.INSUFFICIENT
                    done[entry_id] = posted.done
                await asyncio.sleep(rng.uniform(0, 0.3))

        for number in range(ROUNDS):
            numbers = await cell.run(ACTOR, new_trace_id(), _many_ids)
            stop = asyncio.Event()
            tasks = [asyncio.create_task(one(random.Random(n), stop)) for n in range(CALLERS)]
            for _ in range(2):
                await asyncio.sleep(rng.uniform(0.05, 0.8))
                made.kill_postgres()
                await asyncio.sleep(rng.choice([0, 0.2, 0.6]))
                await asyncio.to_thread(made.revive_postgres)
            await asyncio.sleep(0.3)
            stop.set()
            await asyncio.gather(*tasks)
            stored = {row[0] for row in made.rows("SELECT id FROM entry WHERE kind = 'test'")}
            assert stored == {entry_id for entry_id, is_done in done.items() if is_done}
            print(f"round {number}: {len(done)} answered", flush=True)  # noqa: T201
        await merged.close()
        await clean(deps)
        into = await cell.read(lambda tx: account_balance(tx, sink))
        assert into + await cell.read(lambda tx: account_balance(tx, user)) == -(
            await cell.read(lambda tx: account_balance(tx, house))
        )
        print(f"rounds {ROUNDS} seed {SEED}: {dict(sorted(counted.items()))}")  # noqa: T201
        assert counted["posted"] > CALLERS


async def _many_ids(tx: CellTx) -> list[int]:
    return tx.ids(60_000)
