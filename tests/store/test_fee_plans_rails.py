"""Fee plans for certain rails, and plans that would fit as closely as another one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.desk import Desk, limit
from tests.planted import new_iban
from tests.served import Served, earner, serve
from tests.world import PostgresServer

from paymaster.roles.paying import Automatic

EURO = {"amount": "1.00", "currency": "EUR"}
BANK = {
    "currency": "EUR",
    "settings": {
        "iban": "DE89370400440532013000",
        "holder": "Acme",
        "transport": "directory",
        "outgoing": "out",
        "incoming": "in",
    },
}
KEPT = {"Idempotency-Key": "kept"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


async def put(served: Served, name: str, flat: str, based_on: int = 0, **more: Any) -> Any:
    body = {"based_on": based_on, "currency": "EUR", "flat": flat, **more}
    return await served.ok("PUT", f"/v1/fee-plans/{name}", body)


async def refused(served: Served, slug: str, name: str, **more: Any) -> dict[str, Any]:
    body = {"based_on": 0, "currency": "EUR", **more}
    return await served.refused(422, slug, "PUT", f"/v1/fee-plans/{name}", body)


async def take_on(served: Served, name: str, rail: str) -> None:
    body = {**BANK, "rail": rail}
    body["settings"] = {**BANK["settings"], "iban": new_iban()}
    await served.ok("PUT", f"/v1/rail-accounts/{name}", body)


async def test_the_fee_of_a_rail_is_charged_where_no_other_one_could_pay(served: Served) -> None:
    ask = {"user": "anna", "destination": (await earner(served))["id"], "amount": EURO}
    await put(served, "normal", "0.25")
    made = await put(served, "file", "0.50", rails=["iso20022"])
    assert made["rails"] == ["iso20022"]

    async def charged() -> list[Any]:
        """By a quote, by a request without one on either route, and by an automatic payout."""
        quote = await served.ok("POST", "/v1/quotes", ask)
        found = [quote["fee_plan"], quote["fee"]["amount"]]
        for headers in ({}, {"Content-Encoding": "identity"}):
            key = {"Idempotency-Key": f"k{len(keys)}", **headers}
            keys.append("")
            done = await served.api.post("/v1/withdrawals", json=ask, headers=key)
            assert done.status_code == 202, done.text
            found.append(done.json()["fee"]["amount"])
        [environment] = [one for one in served.world.dbs.environments() if one.id == 1]
        role = Automatic(served.deps, environment, served.world.dbs.cell(1))
        plan = (await role._rules()).plans.choose("iban", "EUR", "EUR")
        return [*found, plan and plan.label]

    keys: list[str] = []
    assert await charged() == ["normal/1", "0.25", "0.25", "0.25", "normal/1"], "nobody could pay"
    await take_on(served, "bank", "iso20022")
    only = ["file/1", "0.50", "0.50", "0.50", "file/1"]
    assert await charged() == only
    quote = await served.ok("POST", "/v1/quotes", ask)
    await take_on(served, "other", "iso20022-unique")
    assert await charged() == ["normal/1", "0.25", "0.25", "0.25", "normal/1"], "either could"
    done = await served.ok("POST", "/v1/withdrawals", {**ask, "quote": quote["id"]}, headers=KEPT)
    assert done["fee"]["amount"] == "0.50", "a quote keeps its plan"
    paused = {"state": "paused", "reason": "tired"}
    await served.ok("POST", "/v1/rail-accounts/other/state", paused)
    assert await charged() == only, "a paused account pays nobody"


async def test_a_plan_that_fits_as_closely_as_another_one_is_refused(served: Served) -> None:
    await put(served, "normal", "0.25")
    await put(served, "file", "0.50", rails=["iso20022"])
    for more in (
        {"rails": ["iso20022", "iso20022-unique"]},
        {"destination_kinds": ["iban"]},
        {"payout_currencies": ["EUR"]},
    ):
        problem = await refused(served, "fee-plan-ambiguous", "more", **more)
        assert problem["plan"] == "file"
        assert "The plan file fits" in problem["detail"]
    assert (await refused(served, "fee-plan-ambiguous", "all"))["plan"] == "normal"
    await put(served, "closer", "0.60", rails=["iso20022"], destination_kinds=["iban"])
    await put(served, "wallets", "0.10", rails=["sandbox-wallet"])
    await put(served, "dollars", "0.10", payout_currencies=["USD"])
    await put(served, "normal", "0.30", 1)
    await put(served, "file", "0.50", 1, rails=["iso20022"], retired=True)
    await put(served, "again", "0.50", rails=["iso20022"])
    back = {"based_on": 2, "currency": "EUR", "rails": ["iso20022"]}
    problem = await served.refused(422, "fee-plan-ambiguous", "PUT", "/v1/fee-plans/file", back)
    assert problem["plan"] == "again", "what was retired does not come back beside it"
    unknown = await refused(served, "fee-plan-invalid", "pigeon", rails=["pigeon"])
    assert [fault["pointer"] for fault in unknown["errors"]] == ["/rails"]
    names = {one["name"] for one in (await served.ok("GET", "/v1/fee-plans"))["data"]}
    assert names == {"normal", "file", "closer", "wallets", "dollars", "again"}


async def test_a_tie_is_told_before_a_second_person_is_asked(served: Served) -> None:
    desk = Desk(served)
    await limit(served, "withdrawal.approve", "5.00")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    body = {"based_on": 0, "currency": "EUR", "flat": "0.25"}
    waits = [await anna.put(f"/v1/fee-plans/{name}", json=body) for name in ("one", "two")]
    assert [answer.status_code for answer in waits] == [202, 202], "neither is in force yet"
    first, second = [f"/v1/approvals/{one.json()['approval']}/approve" for one in waits]
    done = await bea.post(first, json={"reason": "seen"})
    assert done.status_code == 200, done.text
    late = await bea.post(second, json={"reason": "seen"})
    assert (late.status_code, late.json()["code"]) == (422, "fee-plan-ambiguous")
    answer = await anna.put("/v1/fee-plans/three", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "fee-plan-ambiguous")
    assert [one["name"] for one in (await served.ok("GET", "/v1/fee-plans"))["data"]] == ["one"]
    for one in desk.open:
        await one.aclose()
