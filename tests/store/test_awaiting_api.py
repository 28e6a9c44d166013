"""The way to the provider's page over HTTP, taking back, what is explained, what providers hear."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.calling import NOBODY
from tests.confirming_rail import ConfirmingRail, StubbornRail
from tests.payouts import Payouts, approved, new_payee, payout_world
from tests.served import client, make_deps, make_settings
from tests.world import ACTOR, PostgresServer

from paymaster.api.app import build_api, build_hooks
from paymaster.kernel.ids import text_id
from paymaster.people import credentials
from paymaster.people.credentials import SCOPES
from paymaster.rails.base import Outcome, Verdict

SAID = {"Accept-Language": "en"}


@dataclass
class Place:
    """An environment whose provider waits for payees, with its API and its hooks."""

    payouts: Payouts
    wallet: Any
    app: Any
    api: httpx.AsyncClient
    hooks: httpx.AsyncClient
    withdrawal: int = 0
    user: int = 0

    @property
    def path(self) -> str:
        return f"/v1/withdrawals/{text_id('wd', 1, self.withdrawal)}"

    @property
    def own_path(self) -> str:
        return f"/v1/me/withdrawals/{text_id('wd', 1, self.withdrawal)}"

    async def wait(self, number: int = 1) -> None:
        """A payment that its payee has to accept."""
        earner = await new_payee(self.payouts, number)
        self.withdrawal = await approved(self.payouts, earner, "30.00")
        self.user = earner.user_id
        await self.payouts.run(self.payouts.dispatcher())

    async def own(self, user: int | None = None) -> httpx.AsyncClient:
        name = text_id("us", 1, self.user if user is None else user)
        answer = await self.api.post(f"/v1/users/{name}/tokens")
        assert answer.is_success, answer.text
        return client(self.app, answer.json()["token"])


async def _place(postgres: PostgresServer, wallet: Any, folder: Path) -> AsyncIterator[Place]:
    async with (
        payout_world(postgres, wallet) as payouts,
        httpx.AsyncClient(trust_env=False, verify=NOBODY) as http,
    ):
        world = payouts.world

        async def issue(tx: Any) -> str:
            return (await credentials.issue(tx, 1, "test", tuple(SCOPES))).key

        key = await world.dbs.control.run(ACTOR, "", issue)
        deps = make_deps(make_settings(folder), world.dbs, world.clock, http, payouts.rails)
        payouts.sealer = deps.secrets.sealer
        app, inbound = build_api(deps), build_hooks(deps)
        async with client(app, key) as api, client(inbound) as hooks:
            yield Place(payouts, wallet, app, api, hooks)
        await app.close()
        await inbound.close()


@pytest.fixture
async def place(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Place]:
    async for found in _place(postgres, ConfirmingRail(), tmp_path):
        yield found


@pytest.fixture
async def stubborn(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Place]:
    async for found in _place(postgres, StubbornRail(), tmp_path):
        yield found


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_the_owner_and_the_apps_server_get_it_and_nobody_else(place: Place) -> None:
    await place.wait()
    key = await place.payouts.key_of(place.withdrawal)
    async with await place.own() as own:
        mine = await own.get(f"{place.own_path}/confirmation")
        same = await own.get(f"{place.path}/confirmation")
        assert mine.status_code == 200, mine.text
        assert mine.headers["cache-control"] == "no-store"
        assert mine.json() == same.json() == {
            "withdrawal": text_id("wd", 1, place.withdrawal),
            "package": f"package-of-{key}",
            "expires_at": "2026-11-21T09:00:00.000Z",
            "public": {"mchId": "1900000109", "appId": "wx0123456789abcdef"},
        }  # fmt: skip
    server = await place.api.get(f"{place.path}/confirmation")
    assert server.json() == mine.json()
    assert told(await place.api.get(f"{place.own_path}/confirmation")) == (403, "earners-only")
    other = await new_payee(place.payouts, 2)
    async with await place.own(other.user_id) as stranger:
        for path in (place.path, place.own_path):
            assert told(await stranger.get(f"{path}/confirmation")) == (404, "not-found")
    story = (await place.api.get(place.path)).text
    assert "package-of-" not in story


async def test_when_nothing_waits_there_is_none(place: Place) -> None:
    await place.wait()
    key = await place.payouts.key_of(place.withdrawal)
    await place.payouts.hear("wallet", Outcome(key, Verdict.PAID))
    async with await place.own() as own:
        answer = await own.get(f"{place.own_path}/confirmation")
        assert told(answer) == (409, "not-awaiting")


async def test_it_is_explained_until_when_and_who_acts(place: Place) -> None:
    await place.wait()
    async with await place.own() as own:
        said = (await own.get(f"{place.path}/explain", headers=SAID)).json()
        assert said["message"] == (
            "Please accept the payment in your wallet by 2026-11-21 09:00 UTC; "
            "otherwise it comes back to your balance."
        )
        assert said["next"]["who"] == "user"
        name = text_id("us", 1, place.user)
        money = (await own.get(f"/v1/users/{name}/money", headers=SAID)).json()
        [sent] = [item for one in money["data"] for item in one["sent"]["items"]]
        assert sent["message"] == said["message"]
        answer = await own.post(f"{place.path}/cancel", json={"reason": "not now"})
        assert (answer.status_code, answer.json()["state"]) == (200, "awaiting_payee")
        said = (await own.get(f"{place.path}/explain", headers=SAID)).json()
        assert said["message"].startswith("The provider was asked to take it back")
        assert said["next"]["who"] == "provider"


async def test_taking_it_back_over_http(place: Place) -> None:
    await place.wait()
    key = await place.payouts.key_of(place.withdrawal)
    async with await place.own() as own:
        for _ in range(2):
            assert (await own.post(f"{place.path}/cancel", json={})).status_code == 200
        assert told(await own.get(f"{place.own_path}/confirmation")) == (409, "not-awaiting")
    place.wallet.cancels = [Outcome(key, Verdict.REJECTED, code="MCH_CANCEL")]
    await place.payouts.run(place.payouts.dispatcher())
    assert await place.payouts.states(place.withdrawal) == ("failed", ["rejected"])
    assert place.wallet.cancelled == [key]


async def test_a_provider_that_takes_nothing_back(stubborn: Place) -> None:
    await stubborn.wait()
    async with await stubborn.own() as own:
        answer = await own.post(f"{stubborn.path}/cancel", json={})
        assert told(answer) == (409, "cancel-unsupported")


async def test_a_held_withdrawal_is_not_taken_back(place: Place) -> None:
    await place.wait()
    hold = {"subject": text_id("wd", 1, place.withdrawal), "reference": "A-1", "reason": "an order"}
    answer = await place.api.post("/v1/holds", json=hold, headers={"Idempotency-Key": "h1"})
    assert answer.is_success, answer.text
    async with await place.own() as own:
        answer = await own.post(f"{place.path}/cancel", json={})
        assert answer.status_code == 409


async def test_a_provider_hears_the_words_it_wants_to_hear(place: Place) -> None:
    await place.wait()
    key = await place.payouts.key_of(place.withdrawal)
    path, now = "/v1/hooks/acme/test/wallet", place.payouts.world.clock.now()
    made = place.wallet.call(key, Verdict.PAID, "ev-1", now)
    for _ in range(2):
        answer = await place.hooks.post(path, content=made["body"], headers=made["headers"])
        assert (answer.status_code, answer.content) == (200, b"success")
        assert answer.headers["content-type"].startswith("text/plain")
    refused = await place.hooks.post(path, content=b"{}", headers={"X-Signature": "no"})
    assert (refused.status_code, refused.content) == (401, b"fail")
    late = place.wallet.call(key, Verdict.PAID, "ev-2", now - timedelta(hours=1))
    stale = await place.hooks.post(path, content=late["body"], headers=late["headers"])
    assert (stale.status_code, stale.content) == (401, b"fail")
    unknown = await place.hooks.post("/v1/hooks/acme/test/nobody", content=b"{}")
    assert told(unknown) == (404, "rail-account-unknown")


async def test_one_without_such_wishes_hears_the_usual(stubborn: Place) -> None:
    await stubborn.wait()
    key = await stubborn.payouts.key_of(stubborn.withdrawal)
    now = stubborn.payouts.world.clock.now()
    made = stubborn.wallet.call(key, Verdict.PAID, "ev-1", now)
    path = "/v1/hooks/acme/test/wallet"
    answer = await stubborn.hooks.post(path, content=made["body"], headers=made["headers"])
    assert answer.json() == {"new": 1, "again": 0, "unmatched": 0}
    refused = await stubborn.hooks.post(path, content=b"{}", headers={"X-Signature": "no"})
    assert told(refused) == (401, "webhook-signature")
