"""The api process does not grow: after ten times as many requests it is as large as before.

PAYMASTER_REQUESTS is how many are sent in all (a million in the full run); the first reading is
taken after a tenth of them. They are mixed: withdrawals accepted, refused and repeated, events new,
known and unknown, reads, and requests that are wrong in ever new ways.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.live import ACTOR, Connection, Live, Person, fund, live, people

from paymaster.compose import Deps
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post

REQUESTS = int(os.environ.get("PAYMASTER_REQUESTS", "20000"))
CONNECTIONS, USERS = 256, 200
MOST_GROWTH = 1.1
SEED = int(os.environ.get("PAYMASTER_SEED", "20261121"))

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(120 + REQUESTS // 50),
    pytest.mark.skipif(sys.platform != "linux", reason="reads the size in /proc"),
]


def resident_kib(pid: int) -> int:
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"process {pid} has no size")


@dataclass
class Load:
    """Sends the mix; `left` is how many requests are still to be sent in this part."""

    made: Live
    who: list[Person]
    left: int = 0
    number: int = 0
    counted: Counter[str] = field(default_factory=Counter)

    async def send(self, count: int) -> None:
        self.left = count
        await asyncio.gather(*(self._connection(n) for n in range(CONNECTIONS)))

    async def _connection(self, place: int) -> None:
        rng = random.Random(f"{SEED}/{place}/{self.number}")
        connection = Connection(self.made.port, self.made.key)
        keys: list[tuple[str, bytes]] = []
        stories: list[str] = []
        while self.left > 0:
            self.left -= 1
            self.number += 1
            await self._one(connection, rng, keys, stories)
            del keys[:-50], stories[:-50]
        connection.close()

    async def _one(
        self,
        connection: Connection,
        rng: random.Random,
        keys: list[tuple[str, bytes]],
        stories: list[str],
    ) -> None:
        person, what = rng.choice(self.who), rng.randrange(100)
        if what < 75:
            key, body = f"key-{self.number}", self._withdrawal(person, refused=what < 10)
            if what >= 50 and keys:
                key, body = rng.choice(keys)
            keys.append((key, body))
            status, _, answer = await self._count(
                connection, "withdrawal", "POST", "/v1/withdrawals", body, {"Idempotency-Key": key}
            )
            if status == 202:
                stories.append(json.loads(answer)["id"])
        elif what < 77:
            await self._count(connection, "events", "POST", "/v1/events", self._events(person, rng))
        elif what < 89:
            user = f"/v1/users/{person.name}"
            path = rng.choice([
                f"{user}/balances",
                f"/v1/withdrawals/{rng.choice(stories)}" if stories else user,
                f"/v1/withdrawals?user={person.name}&limit=20",
                f"{user}/statement?currency=EUR&limit=20",
            ])  # fmt: skip
            await self._count(connection, "read", "GET", path)
        else:
            await self._wrong(connection, rng)

    def _withdrawal(self, person: Person, *, refused: bool) -> bytes:
        amount = "99999999.00" if refused else "1.00"
        asked = {"user": person.name, "destination": person.destination,
                 "amount": {"amount": amount, "currency": "EUR"}}  # fmt: skip
        return json.dumps(asked).encode()

    def _events(self, person: Person, rng: random.Random) -> bytes:
        """New ones, known ones, and ones that no task takes."""
        number = self.number if rng.random() < 0.6 else self.number // 2
        task = "label" if rng.random() < 0.8 else "no-such-task"
        return json.dumps([
            {
                "event_id": f"event-{number}-{place}",
                "user": person.name,
                "campaign": "spring",
                "task": task,
                "type": "answer",
                "occurred_at": "2026-11-20T09:00:00Z",
                "payload": {"item": f"item-{rng.randrange(50)}", "response": "yes"},
            }
            for place in range(3)
        ]).encode()  # fmt: skip

    async def _wrong(self, connection: Connection, rng: random.Random) -> None:
        name = f"nobody-{self.number}"
        method, path, body = rng.choice([
            ("GET", f"/v1/users/{name}", b""),
            ("GET", f"/v1/{name}", b""),
            ("GET", f"/v1/traces/{rng.randbytes(16).hex()}", b""),
            ("POST", "/v1/withdrawals", json.dumps({name: 1}).encode()),
            ("PUT", f"/v1/users/{name}", b"{"),
        ])  # fmt: skip
        trace = f"00-{rng.randbytes(16).hex()}-{rng.randbytes(8).hex()}-01"
        headers = {"traceparent": trace, "Idempotency-Key": name, "X-Other": name}
        await self._count(connection, "wrong", method, path, body, headers)

    async def _count(
        self,
        connection: Connection,
        what: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        answered = await connection.ask(method, path, body, headers)
        assert answered[0] < 500, (method, path, answered)
        self.counted[f"{what} {answered[0]}"] += 1
        return answered


async def campaign(made: Live, deps: Deps) -> None:
    """A task that pays for right answers, and a budget that lasts."""
    connection = Connection(made.port, made.key)
    since = {"starts_at": "2025-01-01T00:00:00Z"}
    cent = {"amount": "0.01", "currency": "EUR"}
    gold = {"kind": "gold", "item": "item", "answer": "response"}
    for path, body in (
        ("/v1/sponsors/acme", {"name": "Acme"}),
        ("/v1/campaigns/spring", {"sponsor": "acme", "name": "Spring", "currency": "EUR",
                                  "when_exhausted": "wait", "vesting_seconds": 0, **since}),
        ("/v1/campaigns/spring/tasks/label", {"type": "labelling", "title": "Label", **since,
                                              "reward": cent, "verification": gold}),
        ("/v1/campaigns/spring/tasks/label/gold",
         {"items": {f"item-{n}": "yes" if n % 2 else "no" for n in range(50)}}),
    ):  # fmt: skip
        status, _, answer = await connection.ask("PUT", path, json.dumps(body).encode())
        assert status < 300, answer
    connection.close()
    number = await deps.dbs.control.read(lambda tx: tx.value("SELECT id FROM campaign"))

    async def work(tx: CellTx) -> None:
        budget = recipes.fund(1, number, Money(10**9, "EUR"))
        (posted,) = await post(tx, [Entry(tx.id(), "fund", "x", budget)])
        assert posted.done

    await deps.dbs.cell(1).run(ACTOR, new_trace_id(), work)


async def test_the_api_is_as_large_after_ten_times_as_many_requests(tmp_path: Path) -> None:
    async with live(tmp_path) as (made, deps):
        who = await people(deps, USERS)
        await fund(deps, who, 10**9)
        await campaign(made, deps)
        load = Load(made, who)
        sizes: list[int] = []
        assert made.process is not None
        for part in range(10):
            await load.send(REQUESTS // 10)
            assert made.process.poll() is None
            sizes.append(resident_kib(made.process.pid))
            print(f"after {(part + 1) * (REQUESTS // 10)}: {sizes[-1]} KiB")  # noqa: T201
        told = dict(sorted(load.counted.items()))
        print(told)  # noqa: T201
        assert {"withdrawal 202", "withdrawal 422", "events 200", "read 200"} <= told.keys()
        assert sizes[-1] <= MOST_GROWTH * sizes[0], sizes
