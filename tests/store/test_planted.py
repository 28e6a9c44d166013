"""Account numbers, names and secrets go in through the real doors, and lie nowhere in the clear.

Users, destinations, factors, keys, webhooks, orders, provider's answers, statements and broken
lines hold recognisable values. Then every table, the logs, the metrics, what endpoints were sent
and what the API answers are searched for them in all their shapes.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from tests.calling import NOBODY
from tests.messaging import LOOPBACK, Receiver
from tests.planted import Planted, dump, new_iban, new_word, shapes
from tests.scripted_rails import AskableRail, FileRail
from tests.served import Served, client, credit, make_deps, make_settings
from tests.stepping import seed_of
from tests.world import START, PostgresServer, World, make_world

from paymaster.api.app import build_api, build_hooks, openapi_document
from paymaster.kernel.errors import RailUnknown
from paymaster.kernel.money import Money
from paymaster.observe import configure_logs, get_logger
from paymaster.observe.metrics import metrics_response
from paymaster.people.factors import totp
from paymaster.rails.base import (
    LineKind,
    Notice,
    Outcome,
    RailAccount,
    RemoteFile,
    Statement,
    StatementLine,
    Verdict,
)
from paymaster.rails.destinations import wallet_check_character
from paymaster.roles import work
from paymaster.secrets.generated import LOCAL_KEYS

KINDS = frozenset({"iban", "wechat", "us-bank", "sandbox-wallet", "evm", "paypal"})


class Teller(AskableRail, FileRail):
    """A provider that repeats account numbers in whatever it says, as providers do."""

    def __init__(self) -> None:
        super().__init__("teller", kinds=KINDS, batch_items=1)
        self.out, self.notices, self.statements = [], {}, {}
        self.unreachable = False
        self.chatter = ""

    async def send(self, account: RailAccount, prepared: Any) -> Sequence[Outcome]:
        outcomes = await super().send(account, prepared)
        detail = f"payee {self.chatter} was accepted"
        return [
            Outcome(one.key, one.verdict, one.provider_id, one.code, detail) for one in outcomes
        ]


@dataclass
class Bank:
    """The installation with what was put in and everything it has answered."""

    served: Served
    rail: Teller
    planted: Planted = field(default_factory=Planted)
    answers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    logs: io.StringIO = field(default_factory=io.StringIO)
    receiver: Receiver = field(default_factory=Receiver)
    roles: list[work.Work] = field(default_factory=list[work.Work])

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A call whose answer must hold nothing of it."""
        answer = await self.served.api.request(method, path, json=body, **more)
        assert answer.status_code < 500, answer.text
        self.answers.append((f"{method} {path}", answer.text))
        return answer

    async def shown_once(self, method: str, path: str, body: Any) -> Any:
        """A call that shows a secret, this once."""
        return await self.served.ok(method, path, body)

    async def work_through(self, rounds: int = 4) -> None:
        """Every lane of every role, until a while has passed."""
        if not self.roles:
            self.roles += [make(self.served.deps) for make in work.ROLES.values()]
        lanes = [lane for role in self.roles for lane in role.lanes]
        for _ in range(rounds):
            for lane in lanes:
                try:
                    await lane.step()
                except Exception:  # noqa: BLE001 - as the lane itself does: told, and gone on
                    get_logger("paymaster.roles").exception("lane_failed", lane=lane.name)
            self.served.world.clock.advance(timedelta(seconds=90))


@asynccontextmanager
async def bank_of(world: World, folder: Path) -> AsyncIterator[Bank]:
    rail = Teller()
    settings = make_settings(folder, webhooks=LOOPBACK, limits={"destination_cooling_seconds": 0})
    async with httpx.AsyncClient(trust_env=False, verify=NOBODY) as http:
        deps = make_deps(settings, world.dbs, world.clock, http, {"teller": rail})
        app = build_api(deps)
        async with client(app, raises=False) as caller, client(build_hooks(deps)) as hooks:
            served = Served(world, deps, app, caller, hooks)
            caller.headers["Authorization"] = f"Bearer {await served.key()}"
            bank = Bank(served, rail)
            handlers = list(logging.getLogger().handlers)
            configure_logs("debug", stream=bank.logs)
            try:
                async with bank.receiver.answering.running():
                    yield bank
            finally:
                for role in bank.roles:
                    for ending in role.endings:
                        await ending()
                logging.getLogger().handlers[:] = handlers


@pytest.fixture
async def bank(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Bank]:
    async with make_world(postgres) as world, bank_of(world, tmp_path) as made:
        yield made


def plant_installation(bank: Bank, folder: Path) -> None:
    """The keys of the installation, and a provider's password."""
    password = bank.planted.plant("password of a provider", new_word("pw"))
    (folder / "secrets" / "teller-password").write_text(password)
    (folder / "secrets" / "teller-password").chmod(0o600)
    for name in LOCAL_KEYS:
        value = bank.served.deps.secrets.store.get(name)[0].value
        bank.planted.plant(f"key {name} in hex", value.hex())
        bank.planted.plant(f"key {name}", base64.b64encode(value).decode().rstrip("="))


def destinations(bank: Bank) -> list[dict[str, Any]]:
    """One of each kind, of people and accounts that are nowhere else."""
    plant = bank.planted.plant
    nine = "".join(new_word()[:9].upper())
    wallet = f"SW-{nine}{wallet_check_character(nine)}"
    holder = plant("holder", f"{new_word().title()} {new_word().title()}")
    return [
        {"kind": "iban", "details": {"iban": plant("iban", new_iban()), "holder": holder}},
        {
            "kind": "wechat",
            "details": {
                "appid": "wx" + base64.b16encode(new_word()[:8].encode()).decode().lower(),
                "openid": plant("openid", "o" + (new_word() + new_word())[:27]),
                "name": plant("wechat name", new_word().title()),
            },
        },
        {"kind": "sandbox-wallet", "details": {"wallet": plant("wallet", wallet)}},
        {"kind": "paypal", "details": {"email": plant("paypal", f"{new_word()}@mail.example")}},
        {
            "kind": "us-bank",
            "details": {
                "routing": "021000021",
                "account": plant("us account", str(int(new_iban()[8:20]) + 10**12)[:12]),
                "holder": plant("us holder", f"{new_word().title()} {new_word().title()}"),
            },
        },
    ]


async def plant_person(bank: Bank) -> list[str]:
    """A user with everything that a user may have; the destinations."""
    plant, served = bank.planted.plant, bank.served
    profile = {
        "city": plant("city", new_word().title()),
        "email": plant("email", f"{new_word()}@mail.example"),
        "devices": [{"id": plant("device", new_word())}],
    }
    await served.ok("PUT", "/v1/users/anna", {"profile": profile})
    user = await served.ok("GET", "/v1/users/anna")
    await credit(served, user["id"], "100.00")
    found: list[str] = []
    for spec in destinations(bank):
        body = {**spec, "currency": "EUR"}
        made = await bank.call("POST", "/v1/users/anna/destinations", body)
        assert made.status_code == 201, made.text
        found.append(made.json()["id"])
        await bank.call("POST", "/v1/users/anna/destinations", body)
    return found


async def plant_secrets(bank: Bank) -> None:
    """What the API shows once: a seed with its codes, a key, tokens, a webhook's secret."""
    plant, served = bank.planted.plant, bank.served
    body = {"kind": "totp", "name": plant("name of a factor", new_word())}
    begun = await bank.shown_once("POST", "/v1/users/anna/factors", body)
    seed = seed_of(plant("totp seed", begun["totp"]["secret"]))
    plant("totp seed in hex", seed.hex())
    code = totp.code_of(seed, totp.step_of(served.world.clock.now()))
    done = await bank.shown_once(
        "POST", f"/v1/users/anna/factors/{begun['id']}/confirm", {"code": code}
    )
    for number, one in enumerate(done["recovery_codes"]):
        plant(f"recovery code {number}", one)
    key = await bank.shown_once("POST", "/v1/keys", {"name": "planted", "scopes": ["read"]})
    plant("api key", key["key"].split("_", 3)[3])
    token = await bank.shown_once("POST", "/v1/users/anna/tokens", None)
    plant("user token", next(v for v in token.values() if str(v).count(".") == 2).split(".")[2])
    hook = {"url": bank.receiver.url, "types": ["*"]}
    endpoint = await bank.shown_once("POST", "/v1/webhook-endpoints", hook)
    secret = plant("webhook secret", endpoint["secret"].removeprefix("whsec_").rstrip("="))
    plant("webhook secret in hex", base64.b64decode(secret + "=" * (-len(secret) % 4)).hex())


async def plant_money(bank: Bank, targets: Sequence[str]) -> None:
    """Withdrawals that are sent, answered, told of by webhook and by statement."""
    served, planted = bank.served, bank.planted
    account = {
        "rail": "teller",
        "currency": "EUR",
        "secrets": {"password": "teller-password"},
        "payout_window": "always",
    }
    made = await bank.call("PUT", "/v1/rail-accounts/teller", account)
    assert made.is_success, made.text
    said = [planted.values[name] for name in ("iban", "holder", "openid", "us account")]
    bank.rail.chatter = " ".join(said)
    asked: list[str] = []
    for number, target in enumerate(targets):
        body = {
            "user": "anna",
            "amount": {"amount": f"{number + 2}.00", "currency": "EUR"},
            "destination": target,
        }
        key = {"Idempotency-Key": f"w{number}"}
        answer = await bank.call("POST", "/v1/withdrawals", body, headers=key)
        asked.append(answer.json().get("id", ""))
        await bank.call("POST", "/v1/withdrawals", body, headers=key)
    bank.rail.after = [RailUnknown("provider-silent", f"no answer about {bank.rail.chatter}")]
    await bank.work_through()
    assert bank.rail.orders, "nothing was sent"
    sent = json.loads(bank.rail.orders[0].body)["payments"][0][0]
    call = bank.rail.call(
        sent, Verdict.PAID, "ev-1", served.world.clock.now(), code="00", text=bank.rail.chatter
    )
    answer = await served.hooks.post(
        "/v1/hooks/acme/test/teller", content=call["body"], headers=call["headers"]
    )
    assert answer.is_success, answer.text
    day = (START - timedelta(days=1)).date()
    lines = [
        StatementLine(
            "L1", LineKind.INCOMING, Money.parse("5.00", "EUR"), Money.zero("EUR"), day, None,
            f"from {bank.rail.chatter}", None, planted.values["holder"],
        )
    ]  # fmt: skip
    opening, closing = Money.parse("0.00", "EUR"), Money.parse("5.00", "EUR")
    bank.rail.statements["camt.xml"] = [
        Statement("S1", "teller", day, opening, closing, tuple(lines))
    ]
    bank.rail.notices["camt.xml"] = [
        Notice("n1", Outcome(sent, Verdict.PAID, detail=bank.rail.chatter))
    ]
    bank.rail.out = [RemoteFile("camt.xml", f"<Ntry>{bank.rail.chatter}</Ntry>".encode())]
    await bank.work_through()


async def plant_faults(bank: Bank) -> None:
    """Bodies that are wrong: the answer names the place and never repeats the value."""
    values = bank.planted.values
    iban = values["iban"]
    mistyped = iban[:-1] + str((int(iban[-1]) + 1) % 10)
    bank.planted.plant("mistyped iban", mistyped)
    people = "/v1/users/anna/destinations"
    for details in (
        {"iban": mistyped, "holder": values["holder"]},
        {"iban": iban, "holder": values["holder"], "openid": values["openid"]},
        {"iban": [iban], "holder": {"x": values["holder"]}},
    ):
        await bank.call("POST", people, {"kind": "iban", "currency": "EUR", "details": details})
    await bank.call("POST", people, {"kind": iban, "currency": values["openid"], "details": {}})
    await bank.call("PUT", "/v1/users/anna", {"profile": {"city": 7, "email": iban}})
    lines = [json.dumps({"type": "task.completed", "iban": iban, "who": values["holder"]}), iban]
    answer = await bank.served.api.post(
        "/v1/events", content="\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    bank.answers.append(("POST /v1/events", answer.text))
    await bank.call("POST", "/v1/users/anna/factors", {"kind": values["totp seed"], "name": "x"})
    stranger = {"Authorization": f"Bearer pk_test_{values['api key']}"}
    answer = await bank.served.api.get("/v1/users/anna", headers=stranger)
    assert answer.status_code == 401
    bank.answers.append(("GET with a wrong key", answer.text))


OF_ANNA = ("", "/destinations", "/statement?currency=EUR", "/balances", "/factors",
           "/statement/export?currency=EUR&format=csv")  # fmt: skip
SHOWN = frozenset({"city", "email", "device", "name of a factor"})
"""What a user's own page shows to those who may read it."""


async def look_everywhere(bank: Bank) -> None:
    """All lists, and the story and trace of each withdrawal."""
    lists = [path for path, said in openapi_document()["paths"].items()
             if "get" in said and "{" not in path and path.startswith("/v1")]  # fmt: skip
    assert len(lists) > 20
    for path in lists:
        answer = await bank.call("GET", path)
        assert answer.status_code in (200, 400, 403), f"{path}: {answer.text}"
    for path in OF_ANNA:
        answer = await bank.call("GET", f"/v1/users/anna{path}")
        assert answer.is_success, f"{path}: {answer.text}"
    bank.answers.append(("GET /metrics", metrics_response(bank.served.deps.metrics)[0].decode()))
    for one in (await bank.served.ok("GET", "/v1/withdrawals"))["data"]:
        story = await bank.call("GET", f"/v1/withdrawals/{one['id']}")
        await bank.call("GET", f"/v1/traces/{story.headers['trace-id']}")


async def test_what_was_planted_is_found_nowhere(bank: Bank, tmp_path: Path) -> None:
    plant_installation(bank, tmp_path)
    targets = await plant_person(bank)
    await plant_secrets(bank)
    await plant_money(bank, targets)
    await plant_faults(bank)
    await bank.work_through()
    await look_everywhere(bank)

    tables = dump(bank.served.world.owner_dsn)
    kept = {name for name, text in tables.items() if text.strip()}
    for table in ("batch", "inbox", "rail_file", "dead_letter", "destination", "outbox", "audit",
                  "statement_line", "factor", "attempt", "withdrawal"):  # fmt: skip
        assert f"cell_1.{table}" in kept, f"nothing was written to {table}"
    texts = [
        *tables.items(),
        ("the logs", bank.logs.getvalue()),
        *((f"a webhook to {one.path}", one.body.decode()) for one in bank.receiver.got),
    ]
    assert len(bank.logs.getvalue()) > 1000
    assert bank.receiver.got, "no webhook was sent"
    leaks = {where: found for where, text in texts if (found := bank.planted.found_in(text))}
    for what, text in bank.answers:
        found = bank.planted.found_in(text)
        if what in ("GET /v1/users/anna", "GET /v1/users/anna/factors"):
            found = {one for one in found if one.partition(" (")[0] not in SHOWN}
        leaks |= {f"the answer to {what}": found} if found else {}
    assert leaks == {}


async def test_the_search_finds_what_lies_in_the_clear_in_every_shape(bank: Bank) -> None:
    """The control: a search that could find nothing would prove nothing."""
    planted = Planted()
    iban = planted.plant("iban", new_iban())
    holder = planted.plant("holder", f"{new_word().title()} {new_word().title()}")
    assert not planted.found_in("\n".join(dump(bank.served.world.owner_dsn).values()))
    for value in (iban, holder):
        for shape, text in shapes(value):
            assert planted.found_in(f"x{text}y"), shape
    with psycopg.connect(bank.served.world.owner_dsn, autocommit=True) as owner:
        for number, kept in enumerate((iban.encode(), base64.b64encode(b"ab" + iban.encode()))):
            owner.execute(
                "INSERT INTO control.idempotency (credential_id, route, key_hash, body_hash,"
                " answer, created_at) VALUES (%s, 'x', 'x', 'x', %s, %s)",
                (number, kept, START),
            )
            found = planted.found_in(dump(bank.served.world.owner_dsn)["control.idempotency"])
            assert found, number
    get_logger("paymaster.test").info("control", field=f"for {iban} and more")
    assert "control" in bank.logs.getvalue()
    assert not planted.found_in(bank.logs.getvalue())  # the net below the logs caught it
