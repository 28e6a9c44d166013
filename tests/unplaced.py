"""An environment with its API, and providers that say and leave what cannot be placed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
from tests.payin_rail import PayInRail
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.scripted_rails import AskableRail, FileRail
from tests.served import client, make_deps, make_settings
from tests.world import ACTOR, PostgresServer

from paymaster.api.app import build_api, build_hooks
from paymaster.compose import Deps
from paymaster.db.tx import ControlTx
from paymaster.people import credentials
from paymaster.people.scopes import SCOPES
from paymaster.rails.base import Verdict
from paymaster.reconcile import statement
from paymaster.settle import payin_apply
from paymaster.settle.apply import MAX_TRIES, apply_due
from paymaster.settle.files import Polled, poll

NOTICES, FILES = "/v1/settlement/notices", "/v1/settlement/files"
BECAUSE = {"reason": "looked at it"}
SECRET = "Kim Beispiel, DE89370400440532013000"
"""In everything that a provider writes here; no answer holds it."""

NOBODY = frozenset({"pigeon"})
"""Kinds of destinations of accounts through which nobody is paid here."""


@dataclass
class Office:
    """An environment of two cells, its providers, and who looks at it."""

    payouts: Payouts
    wallet: AskableRail
    bank: FileRail
    till: PayInRail
    deps: Deps
    app: Any
    api: httpx.AsyncClient
    hooks: httpx.AsyncClient

    # ------------------------------------------------------------------ what providers do

    async def tell(self, key: str, event: str, verdict: Verdict = Verdict.PAID) -> None:
        """The wallet's provider calls."""
        at = self.payouts.world.clock.now()
        call = self.wallet.call(key, verdict, event, at, payee=SECRET)
        path = "/v1/hooks/acme/test/wallet"
        answer = await self.hooks.post(path, content=call["body"], headers=call["headers"])
        assert answer.is_success, answer.text

    async def tell_payin(self, key: str, event: str) -> None:
        """The provider of the till calls."""
        at = self.payouts.world.clock.now()
        headers, body = self.till.notice(
            event, at, key, verdict="paid", amount="10.00", currency="EUR", payer=SECRET
        )
        path = "/v1/hooks/acme/test/pay-in/payins"
        answer = await self.hooks.post(path, content=body, headers=headers)
        assert answer.is_success, answer.text

    async def sent(self, number: int, cell: int = 1) -> tuple[int, str]:
        """A withdrawal that left by the wallet, and its reference."""
        payee = await new_payee(self.payouts, number, cell=cell)
        withdrawal = await approved(self.payouts, payee, "30.00")
        await self.payouts.deliver(await self.payouts.claim(cell), cell)
        return withdrawal, await self.payouts.key_of(withdrawal, cell=cell)

    async def visit(self) -> Polled:
        """A visit to the bank's folder."""
        dbs, sealer = self.payouts.world.dbs, self.payouts.sealer
        account = self.payouts.accounts["bank"]
        return await poll(dbs, self.payouts.rails, sealer, account, statement.on_statements)

    # ------------------------------------------------------------------ what roles do

    async def apply(self, cell: int = 1) -> None:
        """One round."""
        db, sealer = self.payouts.world.dbs.cell(cell), self.payouts.sealer
        await apply_due(db, sealer, Random(1))
        await payin_apply.apply_due(db, sealer, Random(1))

    async def apply_until_aside(self, cell: int = 1) -> None:
        """As often as a message is tried, in growing intervals."""
        for _ in range(MAX_TRIES):
            await self.apply(cell)
            self.payouts.world.clock.advance(timedelta(minutes=11))

    # ------------------------------------------------------------------ what people do

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A call by somebody who may do everything; nothing sealed is ever answered."""
        answer = await self.api.request(method, path, json=body, **more)
        for word in (*SECRET.split(", "), 'sealed"', 'headers"'):
            assert word not in answer.text, (path, answer.text)
        return answer

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of one that succeeds."""
        answer = await self.ask(method, path, body, **more)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
        """Status, code and words of one that fails."""
        problem = (await self.ask(method, path, body)).json()
        return problem["status"], problem["code"], problem["detail"]

    async def aside(self, **filters: Any) -> list[dict[str, Any]]:
        """What lies aside."""
        found: list[dict[str, Any]] = (await self.ok("GET", NOTICES, params=filters))["data"]
        return found

    async def only(self) -> tuple[dict[str, Any], str]:
        """The only message that lies aside, and its address."""
        [found] = await self.aside()
        return found, f"{NOTICES}/{found['id']}"

    async def caller(self, *scopes: str) -> httpx.AsyncClient:
        """Somebody else, who may do only this."""

        async def work(tx: ControlTx) -> str:
            return (await credentials.issue(tx, 1, "test", scopes)).key

        return client(self.app, await self.payouts.world.dbs.control.run(ACTOR, "", work))


@asynccontextmanager
async def office_of(postgres: PostgresServer, folder: Path) -> AsyncIterator[Office]:
    """Open one."""
    wallet, bank, till = AskableRail("wallet"), FileRail("bank", kinds=NOBODY), PayInRail()
    till.caps = FileRail("pay-in", kinds=NOBODY).caps
    async with (
        payout_world(postgres, wallet, bank, till, cells=2) as payouts,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        world = payouts.world
        deps = make_deps(make_settings(folder), world.dbs, world.clock, http, payouts.rails)
        payouts.sealer = deps.secrets.sealer
        app, inbound = build_api(deps), build_hooks(deps)
        async with client(app) as api, client(inbound) as hooks:
            office = Office(payouts, wallet, bank, till, deps, app, api, hooks)
            async with await office.caller(*SCOPES) as boss:
                api.headers["Authorization"] = boss.headers["Authorization"]
            yield office
        await app.close()
        await inbound.close()


def codes(answers: Sequence[httpx.Response]) -> list[tuple[int, str | None]]:
    """Status and code of each, in order."""
    return sorted((each.status_code, each.json().get("code")) for each in answers)
