"""The API against its own document: made-up requests never find a fault on our side.

Requests are generated from the OpenAPI document with a fixed seed and sent over HTTP to a server
that holds a little of everything; every second name in a path is one that exists. They are sent
with a server's key, and again with an earner's token: whatever is asked, no answer holds a word of
what belongs to another environment or to another earner.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests import walking
from tests.served import IBAN, Served, add_environment, client, earner, serve
from tests.stepping import Person
from tests.world import PostgresServer

from paymaster.api.app import openapi_document

# One name for many tests: only a run in one process takes them all.
pytestmark = pytest.mark.long

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 8
FOREIGN = "Ocelotmark"
"""In all that is planted in another environment."""

LIMITS: dict[str, int] = dict.fromkeys(
    ("requests_per_minute", "user_requests_per_minute", "address_requests_per_minute"), 10_000_000
)
WEBHOOKS = {"allowed_networks": ["127.0.0.0/8"]}
EUR_1 = {"amount": "1.00", "currency": "EUR"}


@schemathesis.serializer("application/x-ndjson", "text/csv", "text/tab-separated-values")
def as_text(ctx: object, value: object) -> bytes:
    """Text bodies go as they are generated."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@dataclass
class Running:
    """A server in a thread of its own, and names of things that exist on it."""

    base_url: str = ""
    key: str = ""
    token: str = ""
    known: dict[str, str] = field(default_factory=dict[str, str])
    others: dict[str, str] = field(default_factory=dict[str, str])
    foreign: dict[str, str] = field(default_factory=dict[str, str])
    fault: BaseException | None = None
    session: requests.Session = field(default_factory=requests.Session)
    ready: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    async def run(self, postgres: PostgresServer, folder: Path) -> None:
        try:
            async with serve(postgres, folder, limits=LIMITS, webhooks=WEBHOOKS) as served:
                self.known = await furnish(served)
                self.others = (await walking.furnish(served, planted=False)).real
                self.foreign = await plant_elsewhere(served)
                self.key = served.api.headers["Authorization"]
                self.token = (await served.ok("POST", "/v1/users/anna/tokens"))["token"]
                await self._listen(served)
        except BaseException as error:
            self.fault = error
            raise
        finally:
            self.ready.set()

    async def _listen(self, served: Served) -> None:
        config = uvicorn.Config(
            served.app, host="127.0.0.1", port=0, log_config=None, lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.base_url = f"http://127.0.0.1:{port}"
        self.ready.set()
        await asyncio.to_thread(self.stop.wait)
        server.should_exit = True
        await task


async def plant_elsewhere(served: Served) -> dict[str, str]:
    """A user of another tenant, all of whose words hold `FOREIGN`; the names of what is theirs."""
    key = await served.key(environment_id=await add_environment(served))
    async with client(served.app, key) as other:
        path = f"/v1/users/{FOREIGN}"
        user = (await other.put(path, json={"profile": {"city": FOREIGN}})).json()
        iban = (await other.post(f"{path}/destinations", json=IBAN)).json()
        await other.put(f"/v1/sponsors/{FOREIGN}", json={"name": FOREIGN})
    return {"user": user["id"], "destination": iban["id"]}


async def furnish(served: Served) -> dict[str, str]:
    """A little of everything; its names by the names of path parameters."""
    destination = await earner(served)
    asked = {"user": "anna", "destination": destination["id"], "amount": EUR_1}
    made = await served.ok("POST", "/v1/withdrawals", asked, headers={"Idempotency-Key": "k"})
    await served.ok("PUT", "/v1/sponsors/acme", {"name": "Acme"})
    start = "2026-11-01T00:00:00Z"
    campaign = {"sponsor": "acme", "name": "C", "currency": "EUR", "starts_at": start}
    await served.ok("PUT", "/v1/campaigns/labels", campaign)
    task = {"type": "labelling", "title": "T", "reward": EUR_1, "starts_at": start}
    task["verification"] = {"kind": "gold"}
    offered = await served.ok("PUT", "/v1/campaigns/labels/tasks/answers", task)
    wallet = {
        "rail": "sandbox-wallet",
        "currency": "EUR",
        "settings": {"url": "http://127.0.0.1:1"},
        "secrets": {"api_key": "a", "webhook_secret": "b"},
    }
    await served.ok("PUT", "/v1/rail-accounts/wallet", wallet)
    anna = Person(served, "anna", destination)
    factor = await anna.enrol()
    step_up = await anna.ask(purpose="factor", act="add")
    return {
        "user": "anna",
        "destination": destination["id"],
        "factor": factor["id"],
        "step_up": step_up["id"],
        "withdrawal": made["id"],
        "sponsor": "acme",
        "campaign": "labels",
        "task_name": "answers",
        "task_id": offered["id"],
        "name": "wallet",
        "trace_id": made["trace_id"],
        "day": "2026-11-19",
    }


@pytest.fixture(scope="module")
def running(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Running]:
    found = Running()
    folder = tmp_path_factory.mktemp("openapi")
    thread = threading.Thread(target=lambda: asyncio.run(found.run(postgres, folder)))
    thread.start()
    found.ready.wait(60)
    assert found.fault is None
    yield found
    found.session.close()
    found.stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert found.fault is None


def named(case: schemathesis.Case, *known: dict[str, str]) -> None:
    """Put names of what exists into the path: each of the sources in turn, and none."""
    for name, value in (case.path_parameters or {}).items():
        sources = [None, *known]
        source = sources[sum(map(ord, str(value))) % len(sources)]
        if source is not None and name in source:
            case.path_parameters[name] = source[name]


made_up = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
)


@SCHEMA.parametrize()
@seed(7)
@made_up
def test_made_up_requests_find_no_fault(case: schemathesis.Case, running: Running) -> None:
    named(case, running.known, running.foreign)
    headers = {"Authorization": running.key}
    response = case.call(base_url=running.base_url, headers=headers, session=running.session)
    case.validate_response(response, checks=CHECKS)
    assert FOREIGN not in _unasked(case, response.content)


@SCHEMA.parametrize()
@seed(8)
@made_up
def test_an_earner_finds_no_fault_and_nobody_else(
    case: schemathesis.Case, running: Running
) -> None:
    named(case, running.known, running.others)
    headers = {"Authorization": f"Bearer {running.token}"}
    response = case.call(base_url=running.base_url, headers=headers, session=running.session)
    case.validate_response(response, checks=CHECKS)
    text = _unasked(case, response.content)
    assert FOREIGN not in text
    assert walking.MARK not in text
    for name in ("user", "destination", "withdrawal", "factor", "trace_id"):
        assert running.others[name] not in text


def _unasked(case: schemathesis.Case, content: bytes) -> str:
    """An answer without the names that were in the question."""
    text = content.decode(errors="replace")
    for value in (case.path_parameters or {}).values():
        text = text.replace(str(value), "")
    return text
