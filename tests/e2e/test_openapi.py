"""The API against its own document: made-up requests never find a fault on our side.

Requests are generated from the OpenAPI document with a fixed seed and sent over HTTP to a server
that holds a little of everything; every second name in a path is one that exists.
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
from tests.served import Served, earner, serve
from tests.world import PostgresServer

from paymaster.api.app import openapi_document

SCHEMA = schemathesis.openapi.from_dict(openapi_document())
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 8
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
    known: dict[str, str] = field(default_factory=dict[str, str])
    fault: BaseException | None = None
    session: requests.Session = field(default_factory=requests.Session)
    ready: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    async def run(self, postgres: PostgresServer, folder: Path) -> None:
        try:
            async with serve(postgres, folder) as served:
                self.known = await furnish(served)
                self.key = served.api.headers["Authorization"]
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
    return {
        "user": "anna",
        "destination": destination["id"],
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


@SCHEMA.parametrize()
@seed(7)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_made_up_requests_find_no_fault(case: schemathesis.Case, running: Running) -> None:
    for name, value in (case.path_parameters or {}).items():
        if name in running.known and sum(map(ord, str(value))) % 2:
            case.path_parameters[name] = running.known[name]
    headers = {"Authorization": running.key}
    response = case.call(base_url=running.base_url, headers=headers, session=running.session)
    case.validate_response(response, checks=CHECKS)
