"""Requests for every route, made from the OpenAPI document, and an installation to send them to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import APIRoute
from psycopg.types.json import Jsonb
from tests.planting import plant
from tests.served import IBAN, Served, earner
from tests.world import START

from paymaster.api.app import ROUTERS, openapi_document
from paymaster.api.door import is_own, scope_of
from paymaster.api.openapi import api_routes
from paymaster.api.settlement import notice_text
from paymaster.dispatch import accounts
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.settle.retry import Address

DOCUMENT = openapi_document()
EUR_1 = {"amount": "1.00", "currency": "EUR"}
MARK = "Quetzalmark"
"""In everything personal of the second user: no answer to anybody else holds it."""

NUMBER = 7_000_000_000_001
"""The id of what is planted."""


@dataclass(frozen=True)
class Walked:
    """A route with a method."""

    method: str
    path: str
    scope: str | None
    own: bool
    names: tuple[str, ...]

    @property
    def operation(self) -> dict[str, Any]:
        """What the document says of it."""
        found: dict[str, Any] = DOCUMENT["paths"][self.path][self.method.lower()]
        return found

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _walked(route: APIRoute) -> list[Walked]:
    names = tuple(re.findall(r"\{(\w+)\}", route.path))
    methods = sorted(route.methods or ())
    return [Walked(m, route.path, scope_of(route), is_own(route), names) for m in methods]


ROUTES = [one for route in api_routes(ROUTERS) for one in _walked(route)]

_GIVEN: dict[str, dict[str, Any]] = {
    "POST /v1/users/{user}/destinations": IBAN,
    "POST /v1/users/{user}/step-ups": {"purpose": "factor", "act": "recovery-codes"},
    "POST /v1/users/{user}/step-ups/{step_up}/verify": {"code": "123456"},
    "POST /v1/users/{user}/factors": {"kind": "totp", "name": "Phone"},
    "POST /v1/users/{user}/factors/{factor}/confirm": {"code": "123456"},
}
"""Bodies that cannot be made from the document alone."""


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema without its reference."""
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def sample(schema: Mapping[str, Any]) -> Any:
    """The least value that fits a schema."""
    schema = resolved(schema)
    for word in ("const", "default"):
        if schema.get(word) is not None:
            return schema[word]
    for word in ("examples", "enum"):
        if schema.get(word):
            return schema[word][0]
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        if choice.get("type") != "null":
            return sample(choice)
    match schema.get("type"):
        case "object":
            inside = schema.get("properties", {})
            return {name: sample(inside[name]) for name in schema.get("required", ())}
        case "array":
            return [sample(schema["items"])] * schema.get("minItems", 0)
        case "integer" | "number":
            return int(schema.get("minimum", 1))
        case "boolean":
            return True
        case _:
            return "x" * max(1, schema.get("minLength", 1))


@dataclass(frozen=True)
class Asked:
    """A request that fits the document."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    headers: dict[str, str] = field(default_factory=dict[str, str])
    json: Any = None
    content: bytes | None = None

    def parts(self) -> dict[str, Any]:
        """For httpx."""
        body = {"content": self.content} if self.content is not None else {"json": self.json}
        return {"params": self.params, "headers": self.headers, **body}


def asked(route: Walked, names: Mapping[str, str], body: Mapping[str, Any] | None = None) -> Asked:
    """A request for a route with these names in its path; `body` is laid over the made one."""
    path = re.sub(r"\{(\w+)\}", lambda match: names[match[1]], route.path)
    operation = route.operation
    params = {
        one["name"]: sample(one["schema"])
        for one in operation.get("parameters", ())
        if one["in"] == "query" and one.get("required")
    }
    headers = {"Idempotency-Key": "walk"}
    taken: dict[str, Any] = operation.get("requestBody", {}).get("content", {})
    if not taken:
        return Asked(route.method, path, params, headers)
    media_type, said = next(iter(taken.items()))
    if media_type != "application/json":
        headers["Content-Type"] = media_type
        return Asked(route.method, path, params, headers, content=b"x=y")
    made = _GIVEN.get(str(route)) or sample(said.get("schema", {}))
    if isinstance(made, dict):
        made = {**made, **(body or {})}
    return Asked(route.method, path, params, headers, json=made)


@dataclass
class Furnished:
    """What there is, by the names of path parameters; each is the second user's where it is a
    user's, and `random` is as good a name of nothing."""

    real: dict[str, str]
    random: dict[str, str]


async def furnish(served: Served, *, planted: bool = True) -> Furnished:
    """A little of everything in the first environment.

    What is `planted` has no story in the books: nothing there can be closed or proven afterwards.
    """
    await earner(served, "anna")
    destination = await earner(served, "berta")
    user = destination["user"]
    profile = {"profile": {"city": MARK, "country": "DE"}}
    await served.ok("PUT", "/v1/users/berta", profile)
    ask = {"user": "berta", "destination": destination["id"], "amount": EUR_1}
    made = await served.ok("POST", "/v1/withdrawals", ask, headers={"Idempotency-Key": "berta"})
    quoted = await served.ok("POST", "/v1/quotes", ask)
    plan = {"based_on": 0, "currency": "JPY"}
    await served.ok("PUT", "/v1/fee-plans/mark-plan", plan)
    await served.ok("PUT", "/v1/sponsors/mark-sponsor", {"name": MARK})
    start = "2026-11-01T00:00:00Z"
    campaign = {"sponsor": "mark-sponsor", "name": MARK, "currency": "EUR", "starts_at": start}
    await served.ok("PUT", "/v1/campaigns/mark-campaign", campaign)
    task = {"type": "labelling", "title": "T", "reward": EUR_1, "starts_at": start}
    task["verification"] = {"kind": "gold"}
    offered = await served.ok("PUT", "/v1/campaigns/mark-campaign/tasks/mark-task", task)
    wallet = {
        "rail": "sandbox-wallet",
        "currency": "EUR",
        "settings": {"url": "http://127.0.0.1:1"},
        "secrets": {"api_key": "a", "webhook_secret": "b"},
    }
    await served.ok("PUT", "/v1/rail-accounts/mark-wallet", wallet)
    policy = {"based_on": 0, "terms": {}, "reason": MARK}
    await served.ok("PUT", "/v1/earning-policies/source:mark-source", policy)
    key = await served.ok("POST", "/v1/keys", {"name": MARK, "scopes": ["read"]})
    issuer = await served.ok(
        "POST", "/v1/issuers", {"url": "https://login.example.com", "audiences": ["a"]}
    )
    real = {
        "user": user,
        "destination": destination["id"],
        "withdrawal": made["id"],
        "quote": quoted["id"],
        "plan": "mark-plan",
        "trace_id": made["trace_id"],
        "sponsor": "mark-sponsor",
        "campaign": "mark-campaign",
        "task_name": "mark-task",
        "task_id": offered["id"],
        "name": "mark-wallet",
        "source": "source:mark-source",
        "prefix": key["prefix"],
        "issuer": issuer["id"],
        "provider": "wechat",
        "notice": notice_text(Address(1, "webhook:mark-wallet", MARK)),
        **await _made_by_others(served, user),
        **(_planted(served, NUMBER, user, await _account(served)) if planted else {}),
    }
    return Furnished(real, _random(real))


async def _made_by_others(served: Served, user: str) -> dict[str, str]:
    factor = await served.ok("POST", f"/v1/users/{user}/factors", {"kind": "totp", "name": MARK})
    person = await served.ok(
        "POST",
        "/v1/staff",
        {"email": "mark@example.test", "name": MARK, "role": "support", "reason": "x"},
    )
    endpoint = await served.ok(
        "POST", "/v1/webhook-endpoints", {"url": "http://127.0.0.1:9999/", "types": ["*"]}
    )
    events = (await served.ok("GET", "/v1/webhook-events"))["data"]
    return {
        "factor": factor["id"],
        "person": person["id"],
        "endpoint": endpoint["id"],
        "event": events[0]["id"],
        "act": "transfer.request",
        "currency": "EUR",
        "day": "2026-11-19",
        "form": "png",
    }


async def _account(served: Served) -> int:
    known = await accounts.load(served.world.dbs, 1)
    return next(iter(known))


def _planted(served: Served, number: int, user: str, account: int) -> dict[str, str]:
    world, cell = served.world, "cell_1"
    owner = parse_text_id("us", user).id
    mine = {"id": number, "rail_account_id": account}
    plant(world, cell, "reward", id=number, user_id=owner, state="vested")
    plant(
        world, cell, "transfer", id=number, state="requested",
        from_account_id=account, to_account_id=account,
    )  # fmt: skip
    plant(world, cell, "statement", **mine)
    plant(world, cell, "statement_line", **mine, statement_id=number, state="open", kind="out")
    plant(world, cell, "break", **mine, state="open", subject=MARK)
    plant(
        world, cell, "approval", id=number, environment_id=1, act="transfer.request",
        subject=MARK, state="proposed", proposed_at=START, expires_at=START.replace(year=2027),
    )  # fmt: skip
    plant(
        world, cell, "legal_hold", id=number, user_id=owner, subject_id=owner,
        subject_kind="user", reference=MARK, lifted_by=MARK, lift_reason=MARK, lifted_at=START,
    )  # fmt: skip
    plant(world, cell, "step_up", id=number, user_id=owner, state="open", purpose="factor")
    plant(
        world, cell, "write_off", id=number, user_id=owner, state="written_off", from_budget=0,
        reason=MARK, entry_undo=owner,
    )  # fmt: skip
    plant(
        world, cell, "charge", id=number, purpose="user", target_id=owner, state="closed",
        description=MARK, rail_account_id=account, amount=1, refunded=0, shows="qr",
    )  # fmt: skip
    plant(
        world, cell, "charge_refund", id=number, charge_id=number, state="failed", reason=MARK,
        rail_account_id=account, amount=1,
    )  # fmt: skip
    plant(
        world, cell, "inbox", source="webhook:mark-wallet", message_id=MARK, topic="notice",
        done_at=START, received_at=START, result=Jsonb({"slug": "attempt-unknown"}),
    )  # fmt: skip
    plant(world, cell, "rail_file", **mine, state="refused", slug="statement-malformed")
    prefixes = {
        "file": "rf",
        "topup": "tp",
        "refund": "tf",
        "reward": "rw",
        "transfer_id": "tr",
        "statement": "st",
        "line": "sl",
        "break_id": "br",
        "approval": "ap",
        "step_up": "su",
        "hold": "lh",
        "write_off": "wo",
    }
    return {name: text_id(prefix, 1, number) for name, prefix in prefixes.items()}


def _random(real: Mapping[str, str]) -> dict[str, str]:
    """Names of the same form that are of nothing, in the same cell where they name one."""
    found: dict[str, str] = {}
    for name, value in real.items():
        prefix, _, tail = value.partition("_")
        if re.fullmatch(r"[0-9A-Z]{15}", tail):
            found[name] = f"{prefix}_{tail[:2]}0000000000ZZZ"
        elif name == "notice":
            found[name] = notice_text(Address(1, "webhook:mark-wallet", "none"))
        elif name == "trace_id":
            found[name] = "f" * 32
        elif name == "prefix":
            found[name] = f"{value[:-8]}00000000"
        elif name.startswith(("act", "currency", "day")):
            found[name] = value
        else:
            found[name] = value.replace("mark", "none")
    return found
