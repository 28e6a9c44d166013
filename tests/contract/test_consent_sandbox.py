"""A payee agrees once, through the API and WeChat's own page, and is then paid without an act."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.calling import NOBODY
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_world import WeChatHarness
from tests.payouts import Payouts, approved, payout_world
from tests.served import client, make_deps, make_settings
from tests.withdrawals import BANK, CAMPAIGN, Earner, assert_proven
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.api.app import build_api
from paymaster.db.tx import CellTx
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.people import credentials, destinations
from paymaster.people.credentials import SCOPES
from paymaster.people.users import Upsert, put
from paymaster.rails.wechat.authorise import authorization_no

NAMED = {"display_name": "王小明"}


@dataclass
class Place:
    """We, with an account whose product needs consents, our API, and WeChat."""

    payouts: Payouts
    harness: WeChatHarness
    found: Outside
    app: Any
    api: httpx.AsyncClient

    async def earner(self, number: int, name: str | None = None) -> tuple[Earner, str]:
        """Somebody with 100 yuan and a linked destination; its openid."""
        payee = self.harness.add_user(number, behaviour="wait")
        details = {**payee.details, **({} if name is None else {"name": name})}

        async def work(tx: CellTx) -> Earner:
            user_id, fund_id, reward_id = tx.ids(3)
            (made,) = await put(tx, self.payouts.sealer, [user_id], [Upsert(f"user-{number}")])
            assert made.slug is None
            view = await destinations.add(
                tx, self.payouts.sealer, user_id, "wechat", "CNY", details, cooling=timedelta(0),
            )  # fmt: skip
            money, nothing = Money.parse("100.00", "CNY"), Money.zero("CNY")
            reward = recipes.reward(
                CAMPAIGN, user_id, money, vests=False, owes=False, commission=nothing
            )
            entries = [
                Entry(fund_id, "fund", "x", recipes.fund(BANK, CAMPAIGN, money)),
                Entry(reward_id, "reward", "x", reward),
            ]
            assert all(each.done for each in await post(tx, entries))
            return Earner(user_id, view.ref.id, 1, "CNY")

        return await self.payouts.world.run(work), payee.details["openid"]

    async def own(self, earner: Earner) -> httpx.AsyncClient:
        answer = await self.api.post(f"/v1/users/{text_id('us', 1, earner.user_id)}/tokens")
        assert answer.is_success, answer.text
        return client(self.app, answer.json()["token"])

    async def paid(self, withdrawal: int) -> str:
        for _ in range(50):
            self.payouts.world.clock.advance(timedelta(hours=1))
            await self.payouts.run(self.payouts.dispatcher())
            state = (await self.payouts.states(withdrawal))[0]
            if state in {"paid", "failed"}:
                return state
        raise AssertionError(await self.payouts.states(withdrawal))


@pytest.fixture
async def place(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Place]:
    async with (
        outside(tmp_path) as found,
        payout_world(postgres) as payouts,
        httpx.AsyncClient(trust_env=False, verify=NOBODY) as http,
    ):
        world, harness = payouts.world, await WeChatHarness.open(found, "authorised", 1)
        payouts.rails["wechat-pay"] = harness.make_rail()

        async def issue(tx: Any) -> str:
            return (await credentials.issue(tx, 1, "test", tuple(SCOPES))).key

        key = await world.dbs.control.run(ACTOR, "", issue)
        deps = make_deps(make_settings(tmp_path), world.dbs, world.clock, http, payouts.rails)
        payouts.sealer = deps.secrets.sealer
        await payouts.add_account(
            "wx", "wechat-pay", currency="CNY", settings=dict(harness.account.settings),
            secrets=dict(harness.account.secrets),
        )  # fmt: skip
        app = build_api(deps)
        async with client(app, key) as api:
            yield Place(payouts, harness, found, app, api)
        await app.close()
        await assert_proven(world)


def path_of(earner: Earner) -> str:
    return f"/v1/destinations/{text_id('de', 1, earner.destination_id)}/consent"


def told(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


async def test_a_consent_is_asked_for_given_used_and_ended(place: Place) -> None:
    earner, openid = await place.earner(1)
    path = path_of(earner)
    async with await place.own(earner) as own:
        assert (await own.get(path)).json()["state"] == "none"
        asked = await own.post(path, json=NAMED)
        assert asked.status_code == 200, asked.text
        assert asked.headers["cache-control"] == "no-store"
        assert asked.json()["state"] == "waiting"
        assert asked.json()["package"]
        assert (await own.post(path, json=NAMED)).json()["state"] == "waiting"
        place.harness.confirm_consent(authorization_no(place.harness.account, openid, 0))
        agreed = (await own.get(path)).json()
        assert (agreed["state"], agreed["package"]) == ("in_effect", None)
    first = await approved(place.payouts, earner, "30.00")
    assert await place.paid(first) == "paid"
    assert (await place.api.delete(path)).json()["state"] == "closed"
    second = await approved(place.payouts, earner, "20.00")
    assert await place.paid(second) == "failed"
    books = await place.found.control("/wechat/books")
    assert books["references"] == {await place.payouts.key_of(first): 1}
    acts = owner_rows(place.payouts.world, "SELECT action FROM audit ORDER BY commit_id, ordinal")
    noted = [action for (action,) in acts if "consent" in action]
    assert noted == [
        "destination.consent_ask",
        "destination.consent_ask",
        "destination.consent_end",
    ]


async def test_the_providers_own_receipt(place: Place) -> None:
    """Of a payment whose name it checked; made when it is first asked for."""
    for number, name in ((1, "王小明"), (2, None)):
        earner, openid = await place.earner(number, name)
        await place.api.post(path_of(earner), json=NAMED)
        place.harness.confirm_consent(authorization_no(place.harness.account, openid, 0))
        withdrawal = await approved(place.payouts, earner, "30.00")
        path = f"/v1/withdrawals/{text_id('wd', 1, withdrawal)}/provider-receipt"
        assert told(await place.api.get(path)) == (409, "receipt-not-yet")
        assert await place.paid(withdrawal) == "paid"
        answer = await place.api.get(path)
        if name is None:
            assert told(answer) == (409, "receipt-refused")
            continue
        for _ in range(100):
            if answer.status_code == 200:
                break
            assert told(answer) == (503, "receipt-generating")
            assert answer.headers["retry-after"] == "30"
            await place.harness.rest()
            answer = await place.api.get(path)
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.content.startswith(b"%PDF")
        owner_rows(
            place.payouts.world,
            "WITH d AS (DELETE FROM data_key WHERE user_id = %s RETURNING 1) SELECT * FROM d",
            earner.user_id,
        )
        assert told(await place.api.get(path)) == (422, "user-erased"), "what is erased stays so"


async def test_it_is_the_owners_and_the_apps_alone(place: Place) -> None:
    earner, _ = await place.earner(1)
    stranger, _ = await place.earner(2)
    assert (await place.api.get(path_of(earner))).json()["state"] == "none"
    async with await place.own(stranger) as other:
        for answer in (
            await other.get(path_of(earner)),
            await other.post(path_of(earner), json=NAMED),
            await other.delete(path_of(earner)),
        ):
            assert told(answer) == (404, "destination-unknown")
    nowhere = f"/v1/destinations/{text_id('de', 1, 999)}/consent"
    assert told(await place.api.get(nowhere))[0] == 404


async def test_a_provider_that_does_not_answer_is_no_fault_of_the_callers(place: Place) -> None:
    earner, _ = await place.earner(1)
    await place.harness.mishap("error_before", "authorization.query", number=503)
    assert told(await place.api.get(path_of(earner))) == (503, "consent-unavailable")


async def test_where_no_account_pays_so_there_is_nothing_to_ask(place: Place) -> None:
    earner, _ = await place.earner(1)
    close = await place.api.delete(path_of(earner).removesuffix("/consent"))
    assert close.is_success
    assert told(await place.api.get(path_of(earner))) == (422, "destination-closed")
    other, _ = await place.earner(3)
    body = {"state": "paused", "reason": "over"}
    paused = await place.api.post("/v1/rail-accounts/wx/state", json=body)
    assert paused.is_success, paused.text
    assert told(await place.api.get(path_of(other))) == (409, "consent-not-needed")


async def test_who_may_only_read_gets_nothing_that_opens_a_page(place: Place) -> None:
    earner, _ = await place.earner(1)

    async def issue(tx: Any) -> str:
        return (await credentials.issue(tx, 1, "reports", ("read",))).key

    key = await place.payouts.world.dbs.control.run(ACTOR, "", issue)
    async with client(place.app, key) as reports:
        assert (await reports.get(path_of(earner))).status_code == 403


async def test_another_name_while_the_payee_is_asked_is_a_fault_of_the_caller(place: Place) -> None:
    earner, _ = await place.earner(1)
    assert (await place.api.post(path_of(earner), json=NAMED)).json()["package"]
    other = await place.api.post(path_of(earner), json={"display_name": "other"})
    assert told(other) == (409, "consent-refused"), "to try again does not help"
    assert (await place.api.post(path_of(earner), json=NAMED)).json()["package"]


async def test_who_only_claims_an_account_touches_no_consent_of_its_owner(place: Place) -> None:
    earner, openid = await place.earner(1)
    stranger, _ = await place.earner(2)
    await place.api.post(path_of(earner), json=NAMED)
    place.harness.confirm_consent(authorization_no(place.harness.account, openid, 0))
    details = dict(place.harness.add_user(1, behaviour="wait").details)
    body = {"kind": "wechat", "currency": "CNY", "details": details}
    for user in (earner, stranger):  # noted in the directory, as by any claim
        async with await place.own(user) as own:
            path = f"/v1/users/{text_id('us', 1, user.user_id)}/destinations"
            claimed = (await own.post(path, json=body)).json()["id"]
    async with await place.own(stranger) as own:
        path = f"/v1/destinations/{claimed}/consent"
        for answer in (
            await own.get(path), await own.delete(path), await own.post(path, json=NAMED)
        ):  # fmt: skip
            assert told(answer) == (409, "destination-shared")
    assert (await place.api.get(path_of(earner))).json()["state"] == "in_effect"
