"""Everything real, everything killed: afterwards the providers' books equal ours to the cent.

`paymaster up` with all its roles, the sandbox as a process of its own, load on the API; meanwhile
a random role or PostgreSQL is killed (-9) and the network to the providers is cut. When it is over,
every withdrawal that was acknowledged exists once, has reached an end, and the providers paid
exactly those that the books call paid, once, with the right amount.

PAYMASTER_ROUNDS says how many rounds (20 before a release); PAYMASTER_SEED repeats the choices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from tests.e2e.test_demo import descendants, postgres_of
from tests.wire import Wire

from paymaster.cli.demo import accounts, payees, world
from paymaster.cli.demo.client import Client
from paymaster.cli.demo.scene import BANK, WALLET
from paymaster.cli.demo.state import State
from paymaster.compose import Deps, build
from paymaster.db.tx import Actor, CellTx
from paymaster.installation import secrets_directory, stop_embedded
from paymaster.kernel.clock import WallClock, monotonic_seconds
from paymaster.kernel.errors import Busy, Refusal
from paymaster.kernel.ids import new_trace_id, parse_text_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.proof import prove_cell
from paymaster.settings import load_settings

ROUNDS = int(os.environ.get("PAYMASTER_ROUNDS", "2"))
SEED = int(os.environ.get("PAYMASTER_SEED", "20261121"))
USERS, CALLERS, GRANT = 24, 24, 4_000
ROLES = ("api", "hooks", "screen", "dispatch", "settle", "relay", "reconcile", "intake", "notify")
ENDED = {"paid", "failed", "returned", "denied", "cancelled"}
ACTOR = Actor("test")

pytestmark = [pytest.mark.long, pytest.mark.timeout(420 + 60 * ROUNDS)]


@dataclass
class Scene:
    """What is running, how to reach it, and what was promised to callers."""

    folder: Path
    app: Client
    operator: Client
    sandbox: Client
    deps: Deps
    wires: list[Wire]
    users: dict[str, tuple[str, str]] = field(default_factory=dict)
    """A user's id and destination, by name."""
    accepted: dict[str, int] = field(default_factory=dict)
    """Minor units of every acknowledged withdrawal, by id."""
    told: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    """A data folder; the settings that the processes get through the environment end with it."""
    before = dict(os.environ)
    world.configure(tmp_path, 1)
    os.environ["PAYMASTER__ROLES__LEASE_SECONDS"] = "5"
    os.environ["PAYMASTER__LIMITS__REQUESTS_PER_MINUTE"] = "10000000"
    yield tmp_path
    stop_embedded(load_settings())
    os.environ.clear()
    os.environ.update(before)


@asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Scene]:
    """Everything up, the way to the providers through wires that can be cut."""
    today = WallClock().now().date()
    state = State("chaos", str(today - timedelta(days=2)), str(today - timedelta(days=1)))
    await world.prepare(state, 1, "UTC")
    async with contextlib.AsyncExitStack() as stack:
        day = today - timedelta(days=1)
        addresses = await stack.enter_async_context(world.running(folder, SEED, day, 1))
        accounts.keep_secrets(addresses, secrets_directory(load_settings()))
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=60, trust_env=False))
        deps = await stack.enter_async_context(build(load_settings()))
        wires = [
            await stack.enter_async_context(Wire.to(port))
            for port in (port_of(addresses.sandbox), addresses.sftp_port, port_of(addresses.hooks))
        ]
        by_wire = replace(
            addresses,
            sandbox=f"http://127.0.0.1:{wires[0].port}",
            sftp_port=wires[1].port,
            hooks=f"http://127.0.0.1:{wires[2].port}",
        )
        made = Scene(
            folder,
            Client(http, addresses.api, state.app_key),
            Client(http, addresses.api, state.operator_key),
            Client(http, addresses.sandbox),
            deps,
            wires,
        )
        await open_accounts(made, by_wire)
        yield made


def port_of(url: str) -> int:
    """The port of an address."""
    return int(url.rpartition(":")[2])


async def open_accounts(made: Scene, addresses: world.Addresses) -> None:
    """Both rails with money on them; users with a destination on either."""
    ours = payees.german_iban(payees.OUR_IBAN_NUMBER)
    provider = payees.german_iban(payees.PROVIDER_IBAN_NUMBER)
    plenty = "1000000.00"
    await made.sandbox.post(
        "/_control/accounts",
        {"iban": ours, "currency": "EUR", "opening_balance": plenty, "holder": "Test Rewards"},
    )
    hook = f"{addresses.hooks}/v1/hooks/{world.TENANT}/{world.MODE}/{WALLET}"
    merchant = {"currency": "EUR", "iban": provider, "webhook_url": hook}
    await made.sandbox.post("/_control/wallet-merchant", {**merchant, "opening_balance": plenty})
    bank = {
        "iban": ours, "holder": "Test Rewards", "transport": "sftp", "user": "paymaster",
        "host": addresses.sftp_host, "port": str(addresses.sftp_port),
        "host_key": addresses.host_key,
    }  # fmt: skip
    wallet = {"url": addresses.sandbox, "topup_iban": provider, "holder": "Sandpay"}
    secrets = {"api_key": "sandpay-api-key", "webhook_secret": "sandpay-webhook-secret"}
    for name, rail, settings, kept in (
        (BANK, "iso20022-unique", bank, {"client_key": "sandbank-client-key"}),
        (WALLET, "sandbox-wallet", wallet, secrets),
    ):
        await made.operator.put(
            f"/v1/rail-accounts/{name}",
            {
                "rail": rail, "currency": "EUR", "time_zone": "UTC", "payout_window": "always",
                "settings": settings, "secrets": kept,
            },
        )  # fmt: skip
    rules = [{"rule": "standing"}, {"rule": "minimum", "parameters": {"amounts": {"EUR": "0.10"}}}]
    await made.operator.put("/v1/screening/rules", {"based_on": 1, "rules": rules})
    for number in range(USERS):
        name = f"user-{number}"
        user = await made.app.put(f"/v1/users/{name}", {})
        kind = "iban" if number % 3 == 0 else "sandbox-wallet"
        details = (
            {"iban": payees.iban(name), "holder": name}
            if kind == "iban"
            else {"wallet": payees.wallet(name)}
        )
        body = {"kind": kind, "currency": "EUR", "details": details}
        place = await made.app.post(f"/v1/users/{name}/destinations", body)
        made.users[name] = user["id"], place["id"]


async def again(work: Callable[[], Awaitable[Any]]) -> Any:
    """Until the database is there."""
    for _ in range(200):
        try:
            return await work()
        except Busy:
            await asyncio.sleep(0.2)
    raise AssertionError("the database does not come back")


async def fund(made: Scene) -> None:
    """A gift of the house for everybody."""
    house, amount = Account("loss", HOUSE, "EUR"), Money(GRANT, "EUR")
    cell = made.deps.dbs.cell(1)
    owners = [parse_text_id("us", user).id for user, _ in made.users.values()]
    ids: list[int] = await again(
        lambda: cell.run(ACTOR, new_trace_id(), lambda tx: _ids(tx, len(owners)))
    )

    async def work(tx: CellTx) -> None:
        entries = [
            Entry(one, "gift", "x", (Posting(house, Account("available", owner, "EUR"), amount),))
            for one, owner in zip(ids, owners, strict=True)
        ]
        assert all(each.done for each in await post(tx, entries))

    await again(lambda: cell.run(ACTOR, new_trace_id(), work))


async def _ids(tx: CellTx, count: int) -> list[int]:
    return list(tx.ids(count))


async def caller(made: Scene, rng: Random, label: str, stop: asyncio.Event) -> None:
    """Ask for withdrawals, each under its key until there is an answer."""
    number = 0
    while not stop.is_set():
        number += 1
        name = rng.choice(list(made.users))
        minor = rng.randint(10, 300)
        body = {
            "user": name,
            "destination": made.users[name][1],
            "amount": {"amount": f"{minor // 100}.{minor % 100:02}", "currency": "EUR"},
        }
        answer = None
        while answer is None:
            with contextlib.suppress(Refusal):
                answer = await made.app.send(
                    "POST",
                    "/v1/withdrawals",
                    body,
                    headers={"Idempotency-Key": f"{label}-{number}"},
                    accept=(422,),
                )
        if answer.status_code == 202:
            made.accepted[answer.json()["id"]] = minor
        else:
            assert answer.json()["code"] == "insufficient-funds", answer.text
        made.told[str(answer.status_code)] += 1
        await asyncio.sleep(rng.uniform(0, 0.3))


async def trouble(made: Scene, rng: Random) -> None:
    """Three blows at random moments."""
    for _ in range(3):
        await asyncio.sleep(rng.uniform(0.3, 1.5))
        blow = rng.choice(["role", "role", "postgres", "network", "network"])
        made.told[f"{blow} struck"] += 1
        if blow == "role":
            role = rng.choice(ROLES)
            below = descendants(os.getpid())
            for pid in [p for p, line in below.items() if f"paymaster.roles\0{role}\0" in line]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                made.told["processes killed"] += 1
        elif blow == "postgres":
            for server in postgres_of(made.folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server, signal.SIGKILL)
                made.told["processes killed"] += 1
        else:
            wire = rng.choice(made.wires)
            wire.cut()
            await asyncio.sleep(rng.uniform(0.2, 2))
            wire.mend()


async def all_ended(made: Scene) -> None:
    """Every withdrawal reaches an end once the providers have closed their day."""
    states, closed, deadline = Counter[str](), False, monotonic_seconds() + 300
    while monotonic_seconds() < deadline:
        found = await made.app.all("/v1/withdrawals")
        states = Counter(one["state"] for one in found)
        if set(states) <= ENDED:
            return
        for one in found:
            if one["state"] == "in_review":
                path = f"/v1/withdrawals/{one['id']}/approve"
                await made.operator.post(path, {"reason": "seen by the test"})
        at_the_bank = set(states) <= ENDED | {"sent"}
        books = await made.sandbox.get("/_control/books")
        if at_the_bank and not closed and books["pending"] == 0:
            day = str(WallClock().now().date() - timedelta(days=1))
            await made.sandbox.post("/_control/close-day", {"date": day, "advance": False})
            closed = True
        await asyncio.sleep(0.5)
    raise AssertionError(f"stuck: {states}")


async def compare(made: Scene) -> None:
    """Acknowledged = there, once; the providers' books = ours."""
    found = await made.app.all("/v1/withdrawals")
    ours = {one["id"]: one for one in found}
    assert set(made.accepted) == set(ours)
    truth = await made.sandbox.get("/_control/books")
    assert truth["duplicates"] == []
    paid_minor, references = 0, Counter[str]()
    for text, minor in made.accepted.items():
        story = await made.operator.get(f"/v1/withdrawals/{text}")
        assert story["amount"]["amount"] == f"{minor // 100}.{minor % 100:02}"
        out = [one for one in story["attempts"] if one["key"] in truth["references"]]
        if story["state"] == "paid":
            assert len(out) == 1, text
            paid_minor += minor
        elif story["state"] != "returned":
            assert out == [], (text, story["state"])
        references.update(one["key"] for one in out)
    assert references == Counter(truth["references"])
    assert truth["paid_minor"].get("EUR", 0) == paid_minor
    proof = await again(lambda: made.deps.dbs.cell(1).read(prove_cell))
    assert list(proof.differences) == []


async def test_after_rounds_of_kills_and_cuts_both_books_are_equal(folder: Path) -> None:
    rng = Random(SEED)
    async with scene(folder) as made:
        for number in range(ROUNDS):
            await fund(made)
            stop = asyncio.Event()
            callers = [
                asyncio.create_task(caller(made, Random(rng.random()), f"{number}-{n}", stop))
                for n in range(CALLERS)
            ]
            await trouble(made, rng)
            stop.set()
            await asyncio.gather(*callers)
            print(f"round {number}: {dict(made.told)}", flush=True)  # noqa: T201
        await all_ended(made)
        await compare(made)
        print(json.dumps({"rounds": ROUNDS, "seed": SEED, **made.told}))  # noqa: T201
        assert made.told["202"] > CALLERS
        assert made.told["processes killed"] or made.told["network struck"]
