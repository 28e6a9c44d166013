"""Fee plans, rates and quotes over HTTP: versions, four eyes, age, and who may see what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.desk import Desk, limit
from tests.served import Served, credit, earner, serve
from tests.unit.test_rates import CSV, XML
from tests.world import PostgresServer

from paymaster.kernel.clock import rfc3339

pytestmark = pytest.mark.asyncio(loop_scope="module")
PLAN: dict[str, Any] = {
    "based_on": 0,
    "currency": "EUR",
    "flat": "0.25",
    "percent_ppm": 10_000,
    "exchange": {"markup_ppm": 5_000, "sources": ["provider", "ecb"]},
}
ABROAD = {
    "kind": "iban",
    "currency": "USD",
    "details": {"iban": "DE89370400440532013000", "holder": "A. Example"},
}
FILE = {"Content-Type": "application/xml"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path_factory.mktemp("quotes")) as up:
        up.world.clock.advance(timedelta(hours=8))
        await up.ok("PUT", "/v1/fee-plans/normal", PLAN)
        answer = await up.api.post("/v1/fx-rates/ecb", content=XML, headers=FILE)
        assert answer.json() == {"new": 2, "known": 0}
        yield up


async def abroad(served: Served, name: str, amount: str = "50.00") -> str:
    user = await served.ok("PUT", f"/v1/users/{name}", {})
    await credit(served, user["id"], amount)
    made = await served.ok("POST", f"/v1/users/{name}/destinations", ABROAD)
    return str(made["id"])


def euro(amount: str, currency: str = "EUR") -> dict[str, str]:
    return {"amount": amount, "currency": currency}


async def withdraw(served: Served, key: str, **body: Any) -> Any:
    return await served.api.post(
        "/v1/withdrawals", json=body, headers={"Idempotency-Key": f"quotes-{key}"}
    )


async def test_a_quote_is_what_is_charged(served: Served):
    destination = await abroad(served, "anna")
    ask = {"user": "anna", "destination": destination, "amount": euro("40.00")}
    made = await served.ok("POST", "/v1/quotes", ask)
    exchange = made.pop("exchange")
    assert exchange.pop("observed_at") == "2026-11-20T15:00:00.000Z"
    assert exchange == {
        "rate": "1.07688850",
        "exact_rate": "2153777/2000000",
        "mid_rate": "1.08230000",
        "markup_ppm": 5000,
        "source": "ecb",
    }
    assert made["held"] == euro("40.65")
    assert made["payout"] == euro("43.08", "USD")
    assert made["fee_lines"] == [
        {"line": "flat", "amount": euro("0.25"), "ppm": None},
        {"line": "percent", "amount": euro("0.40"), "ppm": 10_000},
    ]
    assert (made["fee_payer"], made["fee_plan"]) == ("sender", "normal/1")
    read = await served.ok("GET", f"/v1/quotes/{made['id']}")
    assert {**read, "exchange": None} == {**made, "exchange": None}

    plain = await withdraw(served, "plain", **ask)
    assert (plain.status_code, plain.json()["code"]) == (422, "quote-required")
    done = await withdraw(served, "quoted", **ask, quote=made["id"])
    assert done.status_code == 202, done.text
    told = done.json()
    assert (told["amount"], told["fee"], told["payout"], told["quote"], told["fee_payer"]) == (
        euro("40.00"),
        euro("0.65"),
        euro("43.08", "USD"),
        made["id"],
        "sender",
    )
    again = await withdraw(served, "quoted", **ask, quote=made["id"])
    assert again.content == done.content
    twice = await withdraw(served, "twice", **ask, quote=made["id"])
    assert (twice.status_code, twice.json()["code"]) == (422, "quote-used")
    assert (await served.ok("GET", f"/v1/quotes/{made['id']}"))["withdrawal"] == told["id"]
    story = await served.ok("GET", f"/v1/withdrawals/{told['id']}")
    assert (story["payout"], story["quote"]) == (told["payout"], made["id"])
    explained = await served.ok("GET", f"/v1/withdrawals/{told['id']}/explain")
    assert explained["receipt"]["rate"] == exchange["rate"], "a receipt is read by people"


async def test_the_documented_route_and_the_short_one_charge_the_same(served: Served):
    destination = await abroad(served, "slow")
    body = {"user": "slow", "destination": destination, "amount": euro("1.00")}
    answers: list[Any] = []
    for headers in ({}, {"Content-Encoding": "identity"}):
        made = await served.ok("POST", "/v1/quotes", body)
        answer = await served.api.post(
            "/v1/withdrawals",
            json={**body, "quote": made["id"]},
            headers={"Idempotency-Key": f"way-{len(answers)}", **headers},
        )
        told = {**answer.json(), "id": "", "quote": "", "trace_id": "", "requested_at": ""}
        answers.append((answer.status_code, told))
    assert answers[0] == answers[1]
    assert answers[0][0] == 202


async def test_the_payout_side(served: Served):
    destination = await abroad(served, "payee")
    ask: dict[str, Any] = {
        "user": "payee",
        "destination": destination,
        "payout_amount": euro("20.00", "USD"),
        "currency": "EUR",
    }
    made = await served.ok("POST", "/v1/quotes", ask)
    assert (made["payout"], made["amount"]) == (euro("20.00", "USD"), euro("18.57"))
    both = {**ask, "amount": euro("1.00")}
    await served.refused(400, "quote-sides", "POST", "/v1/quotes", both)
    wrong = {**ask, "payout_amount": euro("20.00", "CHF")}
    await served.refused(422, "currency-mismatch", "POST", "/v1/quotes", wrong)
    for none in ("0.00", "-1.00"):
        tiny = {**ask, "payout_amount": euro(none, "USD")}
        await served.refused(422, "amount-not-positive", "POST", "/v1/quotes", tiny)
    given = {"user": "payee", "destination": destination, "amount": euro("0.00")}
    await served.refused(422, "amount-not-positive", "POST", "/v1/quotes", given)


async def test_a_stale_rate_refuses_and_a_missing_one_too(served: Served):
    destination = await abroad(served, "old")
    ask = {"user": "old", "destination": destination, "amount": euro("1.00")}
    dollars = {**ask, "amount": euro("1.00", "CHF")}
    await served.refused(422, "exchange-not-offered", "POST", "/v1/quotes", dollars)
    franc = {**PLAN, "currency": "CHF", "exchange": {"sources": ["operator"]}}
    await served.ok("PUT", "/v1/fee-plans/francs", franc)
    await served.refused(422, "rate-missing", "POST", "/v1/quotes", dollars)
    now = served.world.clock.now()
    entered = {
        "source": "operator",
        "rates": [{"base": "CHF", "counter": "USD", "rate": "1.1", "valid_seconds": 60}],
    }
    assert await served.ok("POST", "/v1/fx-rates", entered) == {"new": 1, "known": 0}
    made = await served.ok("POST", "/v1/quotes", dollars)
    assert made["exchange"]["observed_at"] == rfc3339(now)
    served.world.clock.advance(timedelta(seconds=60))
    await served.refused(422, "rate-stale", "POST", "/v1/quotes", dollars)


async def test_a_file_is_taken_down_once_and_a_leap_needs_a_person(served: Served):
    csv = {"Content-Type": "text/csv"}
    answer = await served.api.post("/v1/fx-rates/ecb", content=CSV, headers=csv)
    assert answer.json() == {"new": 0, "known": 2}
    leap = CSV.replace(b"1.0823", b"1.9823").replace(b"20 November", b"21 November")
    answer = await served.api.post("/v1/fx-rates/ecb", content=leap, headers=csv)
    assert answer.status_code == 422, "tomorrow's rates are none yet"
    provider: dict[str, Any] = {
        "source": "provider",
        "rates": [{"base": "EUR", "counter": "USD", "rate": "1.9823", "reference": "q-1"}],
    }
    await served.refused(422, "rate-implausible", "POST", "/v1/fx-rates", provider)
    bad = {"source": "provider", "rates": [{"base": "EUR", "counter": "EUR", "rate": "x"}]}
    problem = await served.refused(422, "rate-invalid", "POST", "/v1/fx-rates", bad)
    assert {fault["pointer"] for fault in problem["errors"]} == {
        "/rates/0/rate",
        "/rates/0/counter",
    }
    await served.ok("POST", "/v1/fx-rates", {**provider, "source": "operator"})
    shown = (await served.ok("GET", "/v1/fx-rates"))["data"]
    assert [(r["source"], r["rate"]) for r in shown if r["counter"] == "JPY"] == [("ecb", "162.37")]
    assert {"source", "base", "counter", "rate", "observed_at"} < shown[0].keys()


async def test_plans_are_versions_and_two_authors_do_not_overwrite_each_other(served: Served):
    plan = {**PLAN, "flat": "1", "currency": "USD", "payer": "receiver"}
    first = await served.ok("PUT", "/v1/fee-plans/versions", plan)
    assert (first["version"], first["flat"], first["payer"]) == (1, "1.00", "receiver")
    await served.refused(409, "fee-plan-changed", "PUT", "/v1/fee-plans/versions", plan)
    second = await served.ok(
        "PUT", "/v1/fee-plans/versions", {**plan, "based_on": 1, "retired": True}
    )
    assert await served.ok("GET", "/v1/fee-plans/versions") == second
    history = (await served.ok("GET", "/v1/fee-plans/versions/versions"))["data"]
    assert history == [second, first]
    await served.refused(404, "fee-plan-unknown", "GET", "/v1/fee-plans/nothing")


async def test_every_fault_of_a_plan_is_named(served: Served):
    bad = {
        "based_on": 0,
        "currency": "EUR",
        "flat": "0.001",
        "minimum": "2",
        "maximum": "1",
        "destination_kinds": ["pigeon"],
        "payout_currencies": [],
        "tiers": [{"from": "5"}, {"from": "5", "percent_ppm": 1}],
        "exchange": {"markup_ppm": 600_000, "sources": ["ecb", "ecb"]},
    }
    problem = await served.refused(422, "fee-plan-invalid", "PUT", "/v1/fee-plans/bad", bad)
    assert [fault["pointer"] for fault in problem["errors"]] == [
        "/destination_kinds",
        "/payout_currencies",
        "/maximum",
        "/flat",
        "/tiers/1/from",
        "/exchange/markup_ppm",
        "/exchange/sources",
    ]


async def test_a_new_plan_is_in_force_with_the_next_request(served: Served):
    destination = (await earner(served, "home"))["id"]
    body = {"user": "home", "destination": destination, "amount": euro("1.00")}
    plan = await served.ok("GET", "/v1/fee-plans/normal")
    before = (await withdraw(served, "before", **body)).json()
    assert before["fee"] == euro("0.26")
    asked = {name: value for name, value in plan.items() if name not in ("name", "version")}
    dearer = {**asked, "based_on": plan["version"], "flat": "0.50"}
    await served.ok("PUT", "/v1/fee-plans/normal", dearer)
    assert (await withdraw(served, "after", **body)).json()["fee"] == euro("0.51")
    await served.ok("PUT", "/v1/fee-plans/normal", {**asked, "based_on": plan["version"] + 1})


async def test_an_earner_quotes_and_withdraws_for_herself_only(served: Served):
    own, foreign = await abroad(served, "own"), await abroad(served, "foreign")
    token = (await served.ok("POST", "/v1/users/own/tokens"))["token"]
    headers = {"Authorization": f"Bearer {token}"}
    ask = {"user": "me", "destination": own, "amount": euro("2.00")}
    made = await served.ok("POST", "/v1/quotes", ask, headers=headers)
    theirs = {**ask, "destination": foreign}
    await served.refused(
        422, "destination-not-found", "POST", "/v1/quotes", theirs, headers=headers
    )
    named = {**ask, "user": "foreign", "destination": foreign}
    await served.refused(404, "user-unknown", "POST", "/v1/quotes", named, headers=headers)
    other = await served.ok("POST", "/v1/quotes", named)
    for quote in (other["id"], other["id"][:-1] + "Z"):
        await served.refused(404, "not-found", "GET", f"/v1/quotes/{quote}", headers=headers)
    assert (await served.ok("GET", f"/v1/quotes/{made['id']}", headers=headers))["id"] == made["id"]
    key = {"Idempotency-Key": "own", **headers}
    stolen = {**ask, "quote": other["id"]}
    await served.refused(422, "quote-not-found", "POST", "/v1/withdrawals", stolen, headers=key)
    key["Idempotency-Key"] = "own-2"
    body = {**ask, "quote": made["id"]}
    done = await served.ok("POST", "/v1/withdrawals", body, headers=key)
    assert done["payout"] == made["payout"]


async def test_the_position_is_seen_with_the_funds(served: Served):
    assert (await served.ok("GET", "/v1/funds"))["fx"] == []


async def test_plans_and_entered_rates_need_two_where_withdrawals_do(
    postgres: PostgresServer, tmp_path: Path
):
    async with serve(postgres, tmp_path) as served:
        desk = Desk(served)
        await limit(served, "withdrawal.approve", "5.00")
        anna, bea = await desk.session("anna"), await desk.session("bea")
        entered = {
            "source": "operator",
            "rates": [{"base": "EUR", "counter": "USD", "rate": "1.1"}],
            "reason": "the bank's own",
        }
        asks = (("PUT", "/v1/fee-plans/normal", PLAN), ("POST", "/v1/fx-rates", entered))
        for method, path, body in asks:
            waiting = await anna.request(method, path, json=body)
            assert waiting.status_code == 202, waiting.text
            approval = f"/v1/approvals/{waiting.json()['approval']}/approve"
            own = await anna.post(approval, json={"reason": "mine"})
            assert own.status_code == 403
            done = await bea.post(approval, json={"reason": "seen"})
            assert done.status_code == 200, done.text
        assert (await served.ok("GET", "/v1/fee-plans/normal"))["version"] == 1
        [rate] = (await served.ok("GET", "/v1/fx-rates"))["data"]
        assert (rate["source"], rate["rate"]) == ("operator", "1.1")
        for one in desk.open:
            await one.aclose()


async def test_the_first_rate_of_a_pair_needs_two_whoever_sends_it(
    postgres: PostgresServer, tmp_path: Path
):
    async with serve(postgres, tmp_path) as served:
        served.world.clock.advance(timedelta(hours=8))
        desk = Desk(served)

        def rate(base: str, counter: str, value: str) -> dict[str, Any]:
            one = {"base": base, "counter": counter, "rate": value, "reference": "q-1"}
            return {"source": "provider", "rates": [one]}

        await served.ok("POST", "/v1/fx-rates", rate("GBP", "SEK", "13"))
        await limit(served, "withdrawal.approve", "5.00")
        assert await served.ok("POST", "/v1/fx-rates", rate("GBP", "SEK", "13.1")) == {
            "new": 1,
            "known": 0,
        }, "of a pair that is known the feed goes on by itself"
        first = rate("USD", "JPY", "100")
        await served.refused(403, "person-needed", "POST", "/v1/fx-rates", first)
        faulty = rate("USD", "USD", "x")
        await served.refused(422, "rate-invalid", "POST", "/v1/fx-rates", faulty)

        anna, bea = await desk.session("anna"), await desk.session("bea")
        waiting = await anna.post("/v1/fx-rates", json=first)
        assert waiting.status_code == 202, waiting.text
        file = await anna.post("/v1/fx-rates/ecb", content=XML, headers=FILE)
        assert file.status_code == 202, "and so of the central bank's first file"
        known = (await served.ok("GET", "/v1/fx-rates"))["data"]
        assert {(one["base"], one["counter"]) for one in known} == {("GBP", "SEK")}
        for answer, new in ((waiting, 1), (file, 2)):
            path = f"/v1/approvals/{answer.json()['approval']}/approve"
            done = await bea.post(path, json={"reason": "seen"})
            assert done.status_code == 200, done.text
            assert done.json()["result"] == {"new": new, "known": 0}
        again = await served.api.post("/v1/fx-rates/ecb", content=XML, headers=FILE)
        assert again.json() == {"new": 0, "known": 2}
        assert await served.ok("POST", "/v1/fx-rates", rate("USD", "JPY", "101"))
        for one in desk.open:
            await one.aclose()


async def test_nobody_walks_a_rate_away_alone_in_small_steps(served: Served):
    """A person's entry takes two; what is said to come from outside moves so much in a day."""

    async def post(base: str, counter: str, rate: str, source: str = "provider") -> str:
        served.world.clock.advance(timedelta(seconds=1))
        body = {"source": source, "rates": [{"base": base, "counter": counter, "rate": rate}]}
        answer = await served.api.post("/v1/fx-rates", json=body)
        return "" if answer.status_code < 300 else answer.json()["code"]

    assert await post("GBP", "SEK", "13", "operator") == ""
    assert await post("GBP", "SEK", "15") == ""
    assert await post("GBP", "SEK", "17") == "rate-implausible", "17 is near 15, not near 13"
    assert await post("GBP", "SEK", "11") == "rate-implausible"
    assert await post("GBP", "SEK", "12.5") == ""
    assert await post("GBP", "SEK", "17", "operator") == ""
    assert await post("GBP", "SEK", "19") == ""
    served.world.clock.advance(timedelta(days=1))
    assert await post("GBP", "SEK", "22") == ""
    # Of a pair that nobody has named before: 162.37 yen are 1.98 dollars.
    assert await post("JPY", "USD", "0.9") == "rate-implausible"


async def test_the_same_day_of_the_central_bank_is_no_way_to_walk_either(served: Served):
    def lines(rate: str) -> bytes:
        return CSV.replace(b"162.37", rate.encode())

    csv = {"Content-Type": "text/csv"}
    codes = [
        (await served.api.post("/v1/fx-rates/ecb", content=lines(rate), headers=csv)).status_code
        for rate in ("190.00", "225.00", "270.00")
    ]
    assert codes[1:] == [422, 422]
