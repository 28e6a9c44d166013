"""Top-ups over HTTP: asked for once, shown as a code, paid, given back; whose they are."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from tests.desk import limit
from tests.payin_rail import PayInRail
from tests.served import Served, client, serve
from tests.world import ACTOR, PostgresServer

from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import NewAccount
from paymaster.payin.run import Collector
from paymaster.roles import work
from paymaster.settle import payin_apply

START = "2026-11-01T00:00:00Z"
ASK: dict[str, Any] = {
    "rail_account": "till",
    "method": "code",
    "amount": {"amount": "10.00", "currency": "EUR"},
    "description": "Budget of spring",
}
CAMPAIGN = "/v1/campaigns/spring/topups"


@dataclass
class Counter:
    """The API, a provider, and a loop."""

    served: Served
    rail: PayInRail
    collector: Collector

    async def round(self, after: timedelta = timedelta(0)) -> None:
        self.served.world.clock.advance(after)
        for _ in range(10):
            claimed = await self.collector.tick(1)
            await self.collector.drain()
            if not claimed:
                return

    async def ask(self, path: str = CAMPAIGN, key: str = "k1", **more: Any) -> dict[str, Any]:
        answer = await self.served.ok("POST", path, ASK | more, headers={"Idempotency-Key": key})
        assert isinstance(answer, dict)
        return answer

    async def refused(
        self, status: int, code: str, path: str = CAMPAIGN, key: str = "r1", **more: Any
    ) -> dict[str, Any]:
        return await self.served.refused(
            status, code, "POST", path, ASK | more, headers={"Idempotency-Key": key}
        )

    async def paid(self, **more: Any) -> dict[str, Any]:
        made = await self.ask(**more)
        await self.round()
        self.rail.pay(made["reference"])
        await self.round(timedelta(minutes=1))
        found = await self.served.ok("GET", f"/v1/topups/{made['id']}")
        assert found["state"] == "paid"
        return dict(found)


@asynccontextmanager
async def counter_of(
    postgres: PostgresServer, folder: Path, **groups: Any
) -> AsyncIterator[Counter]:
    rail = PayInRail()
    rails = {rail.caps.name: rail}
    async with serve(postgres, folder, rails=rails, **groups) as served:
        new = NewAccount("till", rail.caps.name, "EUR", {"payin_maximum": "100000"}, {})
        await served.world.dbs.control.run(
            ACTOR, "", lambda tx: accounts.add(tx, 1, 1, new, served.deps.rails)
        )
        await served.ok("PUT", "/v1/sponsors/acme", {"name": "Acme"})
        campaign = {"sponsor": "acme", "name": "Spring", "currency": "EUR", "starts_at": START}
        await served.ok("PUT", "/v1/campaigns/spring", campaign)
        deps = served.deps
        collector = Collector(deps.dbs, 1, deps.rails, deps.secrets.sealer, random=Random(1))
        yield Counter(served, rail, collector)
        await collector.drain()


@pytest.fixture
async def counter(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Counter]:
    async with counter_of(postgres, tmp_path, payin={"users": "on"}) as made:
        yield made


async def test_from_the_ways_to_pay_to_a_budget_that_has_grown(counter: Counter) -> None:
    served = counter.served
    (ways,) = (await served.ok("GET", "/v1/topup-methods"))["data"]
    assert ways["rail_account"] == "till"
    assert ways["maximum"] == {"amount": "1000.00", "currency": "EUR"}
    assert {one["name"]: one["shows"] for one in ways["methods"]} == {
        "code": "qr", "page": "page", "app": "parameters",
    }  # fmt: skip
    made = await counter.ask()
    assert (made["state"], made["checkout"]) == ("requested", None)
    await served.refused(409, "topup-not-open", "GET", f"/v1/topups/{made['id']}/qr.png")
    await counter.round()
    found = await served.ok("GET", f"/v1/topups/{made['id']}")
    assert found["state"] == "open"
    assert found["checkout"]["content"] == f"https://pay.test/{made['reference']}"
    counter.rail.pay(made["reference"])
    await counter.round(timedelta(minutes=1))
    found = await served.ok("GET", f"/v1/topups/{made['id']}")
    assert (found["state"], found["checkout"]) == ("paid", None)
    campaign = await served.ok("GET", "/v1/campaigns/spring")
    assert campaign["budget"]["funded"] == {"amount": "10.00", "currency": "EUR"}
    assert campaign["budget"]["remaining"] == {"amount": "10.00", "currency": "EUR"}
    await served.refused(409, "topup-not-open", "GET", f"/v1/topups/{made['id']}/qr.png")


async def test_the_code_is_a_picture_of_what_the_provider_gave(counter: Counter) -> None:
    made = await counter.ask()
    await counter.round()
    png = await counter.served.api.get(f"/v1/topups/{made['id']}/qr.png")
    assert png.headers["content-type"] == "image/png"
    assert png.content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png.content[16:24])
    assert width == height > 200
    svg = await counter.served.api.get(f"/v1/topups/{made['id']}/qr.svg")
    assert svg.headers["content-type"].startswith("image/svg+xml")
    assert etree.fromstring(svg.content).tag.endswith("svg")
    assert svg.headers["cache-control"] == "no-store"
    page = await counter.ask(key="k2", method="page")
    await counter.round()
    path = f"/v1/topups/{page['id']}/qr.png"
    await counter.served.refused(422, "topup-no-code", "GET", path)


async def test_the_same_key_asks_for_one_payment(counter: Counter) -> None:
    first = await counter.ask()
    assert await counter.ask() == first
    await counter.refused(
        422, "idempotency-key-reused", key="k1", amount={"amount": "9.00", "currency": "EUR"}
    )
    no = await counter.refused(422, "topup-method", method="cheque")
    assert no["detail"].startswith("Ways to pay here are: app, code, page")
    again = await counter.served.api.post(
        CAMPAIGN, json=ASK | {"method": "cheque"}, headers={"Idempotency-Key": "r1"}
    )
    assert (again.json(), again.headers["idempotent-replayed"]) == (no, "true")
    assert len((await counter.served.ok("GET", "/v1/topups"))["data"]) == 1


async def test_what_is_refused_says_why(counter: Counter) -> None:
    cny = {"amount": "10.00", "currency": "CNY"}
    much = {"amount": "1000.01", "currency": "EUR"}
    await counter.refused(422, "topup-currency", key="r2", amount=cny)
    await counter.refused(422, "topup-amount", key="r3", amount=much)
    await counter.refused(422, "topup-payer", key="r4", method="app")
    await counter.refused(404, "rail-account-unknown", key="r5", rail_account="none")
    await counter.refused(404, "campaign-unknown", "/v1/campaigns/none/topups")
    counter.rail.refused["Budget of spring"] = "The word spring is not allowed."
    problem = await counter.refused(422, "charge-refused", key="r6")
    assert problem["errors"] == [
        {"pointer": "/description", "detail": "The word spring is not allowed."}
    ]
    counter.rail.off = True
    await counter.refused(422, "topup-unavailable", key="r7")
    assert (await counter.served.ok("GET", "/v1/topup-methods"))["data"] == []


async def test_users_may_pay_in_only_where_the_settings_let_them(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with counter_of(postgres, tmp_path) as counter:
        await counter.served.ok("PUT", "/v1/users/anna", {})
        await counter.refused(403, "topups-off", "/v1/users/anna/topups")
        settings = counter.served.deps.settings.payin
        assert not settings.users_may("acme", "test")
    payin = {"users": "off", "users_in": {"acme/test": "on"}}
    async with counter_of(postgres, tmp_path, payin=payin) as counter:
        await counter.served.ok("PUT", "/v1/users/anna", {})
        made = await counter.ask("/v1/users/anna/topups")
        assert made["campaign"] is None


async def test_an_earner_tops_up_his_own_wallet_and_sees_no_other(counter: Counter) -> None:
    served = counter.served
    for name in ("anna", "berta"):
        await served.ok("PUT", f"/v1/users/{name}", {})
    anna, berta = [await _token(served, name) for name in ("anna", "berta")]
    async with client(served.app, anna) as hers, client(served.app, berta) as other:
        made = await hers.post("/v1/me/topups", json=ASK, headers={"Idempotency-Key": "k1"})
        assert made.status_code == 202, made.text
        topup = made.json()
        await counter.round()
        counter.rail.pay(topup["reference"])
        await counter.round(timedelta(minutes=1))
        path = f"/v1/topups/{topup['id']}"
        assert (await hers.get(path)).json()["state"] == "paid"
        assert len((await hers.get("/v1/topups")).json()["data"]) == 1
        for refused in (
            await other.get(path),
            await other.get(f"{path}/qr.png"),
            await other.get(f"{path}/refunds"),
            await other.post(f"{path}/close"),
            await hers.post("/v1/users/berta/topups", json=ASK, headers={"Idempotency-Key": "k"}),
        ):
            assert refused.status_code == 404, refused.text
        assert (await other.get("/v1/topups")).json()["data"] == []
        forbidden = await hers.post(f"{path}/refunds", json={"reason": "x"})
        assert forbidden.status_code == 403
        key = {"Idempotency-Key": "k"}
        assert (await hers.post(CAMPAIGN, json=ASK, headers=key)).status_code == 403
    await served.refused(
        403, "earners-only", "POST", "/v1/me/topups", ASK, headers={"Idempotency-Key": "k"}
    )
    (wallet,) = (await served.ok("GET", "/v1/users/anna/balances"))["data"]
    assert wallet["available"] == {"amount": "10.00", "currency": "EUR"}


async def _token(served: Served, user: str) -> str:
    made = await served.ok("POST", f"/v1/users/{user}/tokens")
    return str(made["token"])


async def test_a_user_who_is_suspended_is_not_asked_for_money(counter: Counter) -> None:
    await counter.served.ok("PUT", "/v1/users/anna", {})
    await counter.served.ok("PUT", "/v1/users/anna", {"status": "suspended", "reason": "x"})
    await counter.refused(422, "user-suspended", "/v1/users/anna/topups")


async def test_the_list_is_of_a_campaign_a_user_or_a_state_page_by_page(counter: Counter) -> None:
    served = counter.served
    await served.ok("PUT", "/v1/users/anna", {})
    for number in range(3):
        await counter.ask(key=f"c{number}")
    user = await counter.ask("/v1/users/anna/topups")
    everything = (await served.ok("GET", "/v1/topups"))["data"]
    assert len(everything) == 4
    assert everything[0]["id"] == user["id"]
    (hers,) = (await served.ok("GET", "/v1/topups?user=anna"))["data"]
    assert hers["id"] == user["id"]
    first = await served.ok("GET", "/v1/topups?campaign=spring&limit=2")
    rest = await served.ok(
        "GET", f"/v1/topups?campaign=spring&limit=2&cursor={first['next_cursor']}"
    )
    found = [one["id"] for one in (*first["data"], *rest["data"])]
    assert found == [one["id"] for one in everything[1:]]
    assert rest["next_cursor"] is None
    assert (await served.ok("GET", "/v1/topups?state=open"))["data"] == []
    await served.refused(400, "filters-exclusive", "GET", "/v1/topups?campaign=spring&user=anna")


async def test_closing_is_a_wish_and_can_be_repeated(counter: Counter) -> None:
    made = await counter.ask()
    await counter.round()
    path = f"/v1/topups/{made['id']}"
    wished = await counter.served.ok("POST", f"{path}/close")
    assert (wished["state"], wished["checkout"]) == ("open", None)
    assert wished["close_asked_at"] is not None
    assert await counter.served.ok("POST", f"{path}/close", {}) == wished
    await counter.round(timedelta(minutes=6))
    assert (await counter.served.ok("GET", path))["state"] == "closed"
    paid = await counter.paid(key="k9")
    await counter.served.refused(409, "topup-paid", "POST", f"/v1/topups/{paid['id']}/close")


async def test_what_is_unspent_is_given_back(counter: Counter) -> None:
    served, paid = counter.served, await counter.paid()
    path = f"/v1/topups/{paid['id']}/refunds"
    part = {"amount": {"amount": "4.00", "currency": "EUR"}, "reason": "unspent"}
    key = {"Idempotency-Key": "f1"}
    made = await served.ok("POST", path, part, headers=key)
    assert made["state"] == "requested"
    assert await served.ok("POST", path, part, headers=key) == made
    campaign = await served.ok("GET", "/v1/campaigns/spring")
    assert campaign["budget"]["funded"]["amount"] == "6.00"
    await counter.round()
    assert (await served.ok("GET", f"{path}/{made['id']}"))["state"] == "processing"
    much = {"amount": {"amount": "6.01", "currency": "EUR"}, "reason": "x"}
    await served.refused(
        422, "refund-too-much", "POST", path, much, headers={"Idempotency-Key": "f2"}
    )
    rest = await served.ok("POST", path, {"reason": "all"}, headers={"Idempotency-Key": "f3"})
    assert rest["amount"]["amount"] == "6.00"
    listed = (await served.ok("GET", path))["data"]
    assert [one["id"] for one in listed] == [made["id"], rest["id"]]
    assert (await served.ok("GET", f"/v1/topups/{paid['id']}"))["refunded"]["amount"] == "10.00"
    other = await counter.paid(key="k2")
    elsewhere = f"/v1/topups/{other['id']}/refunds/{made['id']}"
    await served.refused(404, "not-found", "GET", elsewhere)


async def test_above_its_limit_a_refund_waits_for_a_second_person(counter: Counter) -> None:
    paid = await counter.paid()
    await limit(counter.served, "topup.refund", "5.00")
    path = f"/v1/topups/{paid['id']}/refunds"
    body = {"amount": {"amount": "5.01", "currency": "EUR"}, "reason": "unspent"}
    await counter.served.refused(
        403, "person-needed", "POST", path, body, headers={"Idempotency-Key": "f1"}
    )
    body["amount"] = {"amount": "5.00", "currency": "EUR"}
    await counter.served.ok("POST", path, body, headers={"Idempotency-Key": "f2"})


async def test_providers_call_at_the_address_of_the_account(counter: Counter) -> None:
    made = await counter.ask()
    await counter.round()
    counter.rail.pay(made["reference"])
    deps, world = counter.served.deps, counter.served.world
    address = "/v1/hooks/acme/test/till/payins"
    headers, body = counter.rail.paid_notice("n1", world.clock.now(), made["reference"])
    for _ in range(2):
        answer = await counter.served.hooks.post(address, headers=headers, content=body)
        assert (answer.status_code, answer.content) == (200, b"thanks")
    forged = await counter.served.hooks.post(
        address, headers={"X-Signature": "0" * 64}, content=body
    )
    assert (forged.status_code, forged.content) == (403, b"no")
    sealer = deps.secrets.sealer
    done = await payin_apply.apply_due(world.dbs.cell(1), sealer, Random(1))
    assert (done.claimed, done.changed) == (1, 1)
    assert (await counter.served.ok("GET", f"/v1/topups/{made['id']}"))["state"] == "paid"
    for path in ("/v1/hooks/acme/test/none/payins", "/v1/hooks/none/test/till/payins"):
        answer = await counter.served.hooks.post(path, headers=headers, content=body)
        assert answer.status_code == 404


async def test_the_roles_open_charges_and_apply_what_is_told(counter: Counter) -> None:
    deps, world = counter.served.deps, counter.served.world
    dispatch, settle = work.ROLES["dispatch"](deps), work.ROLES["settle"](deps)
    lanes = {lane.name: lane for lane in (*dispatch.lanes, *settle.lanes)}
    made = await counter.ask()
    assert await lanes["payins:1"].step() == 1
    for end in dispatch.endings:
        await end()
    path = f"/v1/topups/{made['id']}"
    assert (await counter.served.ok("GET", path))["state"] == "open"
    counter.rail.pay(made["reference"])
    headers, body = counter.rail.paid_notice("n1", world.clock.now(), made["reference"])
    address = "/v1/hooks/acme/test/till/payins"
    assert (await counter.served.hooks.post(address, headers=headers, content=body)).is_success
    assert await lanes["apply-payins:1"].step() == 1
    assert (await counter.served.ok("GET", path))["state"] == "paid"


async def test_the_list_of_several_cells_is_one(postgres: PostgresServer, tmp_path: Path) -> None:
    async with counter_of(postgres, tmp_path, cells=3, payin={"users": "on"}) as counter:
        served = counter.served
        for number in range(6):
            await served.ok("PUT", f"/v1/users/u{number}", {})
            await counter.ask(f"/v1/users/u{number}/topups")
        everything = [one["id"] for one in (await served.ok("GET", "/v1/topups"))["data"]]
        assert len({one[3:5] for one in everything}) > 1, "they lie in one cell"
        found: list[str] = []
        cursor = ""
        while True:
            page = await served.ok("GET", f"/v1/topups?limit=2{cursor}")
            found += [one["id"] for one in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == everything
