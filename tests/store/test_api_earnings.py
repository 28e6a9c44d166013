"""Policies, claw-backs, debts and write-offs over HTTP, and who must agree to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.desk import REASON, Desk, code, limit
from tests.served import IBAN, Served, serve
from tests.store.test_api_work import TASK, TASK_PATH, event, offer
from tests.world import ACTOR, PostgresServer

from paymaster.earn import clawback, policy
from paymaster.earn.policy import PutPolicy
from paymaster.roles.work import ROLES

POLICIES = "/v1/earning-policies"
TERMS: dict[str, Any] = {
    "reserve": {"ppm": 100_000, "seconds": 864_000},
    "first_payout": {"seconds": 3600},
}
PAYOUT = {"Idempotency-Key": "first"}


def euros(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "EUR"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        await offer(found)
        await found.ok("PUT", TASK_PATH, {**TASK, "reward": euros("2.00")})
        yield found


@pytest.fixture
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


def put(based_on: int = 0, **terms: Any) -> dict[str, Any]:
    return {"based_on": based_on, "terms": terms, "reason": "agreed"}


async def earned(served: Served, number: int = 1) -> dict[str, Any]:
    sent = event(number, f"i{number}", "ab"[number - 1])
    await served.ok("POST", "/v1/events", {"events": [sent]})
    return (await served.ok("GET", "/v1/users/anna/rewards"))["data"][0]


async def balance(served: Served) -> dict[str, Any]:
    return (await served.ok("GET", "/v1/users/anna/balances"))["data"][0]


async def test_a_policy_is_put_read_and_seen_on_rewards(served: Served) -> None:
    await served.refused(404, "policy-unknown", "GET", f"{POLICIES}/default")
    first = await served.ok("PUT", f"{POLICIES}/default", put(**TERMS))
    assert (first["source"], first["version"], first["terms"]["loss"]) == ("default", 1, "platform")
    await served.refused(409, "policy-changed", "PUT", f"{POLICIES}/default", put())
    await served.refused(422, "policy-invalid", "PUT", f"{POLICIES}/default", put(1, no=1))
    await served.refused(422, "policy-source", "PUT", f"{POLICIES}/moon:x", put())
    await served.ok("PUT", f"{POLICIES}/campaign:labels", put(reserve=TERMS["reserve"]))
    listed = (await served.ok("GET", POLICIES))["data"]
    assert [one["source"] for one in listed] == ["campaign:labels", "default"]
    found = await served.ok("GET", f"{POLICIES}/campaign:labels")
    assert [one["version"] for one in found["versions"]] == [1]
    reward = await earned(served)
    assert reward["policy"] == {"source": "campaign:labels", "version": 1}
    assert (reward["waits_for"], reward["taken_back"]["amount"]) == (None, "0.00")
    shown = await balance(served)
    kept = shown["reserve"]
    assert kept["total"] == kept["items"][0]["amount"]
    assert kept["items"][0]["releases_at"] > reward["created_at"]
    statement = await served.ok(
        "GET", "/v1/users/anna/statement", params={"currency": "EUR", "kind": "reserve"}
    )
    assert [one["kind"] for one in statement["data"]] == ["reserve"]
    destination = await served.ok("POST", "/v1/users/anna/destinations", IBAN)
    ask = {"user": "anna", "destination": destination["id"], "amount": euros("0.01")}
    refused = await served.refused(
        422, "first-payout-wait", "POST", "/v1/withdrawals", ask, headers=PAYOUT
    )
    assert "from 2026-11-20T10:00:00" in refused["detail"]


async def test_a_claw_back_in_any_order(served: Served) -> None:
    asked = {"source": "api", "event_id": "e2", "user": "anna", "reason": "robot"}
    kept = await served.ok("POST", "/v1/reversals", asked)
    assert (
        kept == {"state": "kept", "reward": None} == await served.ok("POST", "/v1/reversals", asked)
    )
    part = {**asked, "event_id": "e1", "amount": euros("0.01"), "reference": "cb"}
    assert (await served.ok("POST", "/v1/reversals", part))["state"] == "kept"
    page = await served.ok("GET", "/v1/reversals/early", params={"limit": 1})
    rest = await served.ok(
        "GET", "/v1/reversals/early", params={"limit": 1, "cursor": page["next_cursor"]}
    )
    both = page["data"] + rest["data"]
    assert [(one["event_id"], one["amount"]) for one in both] == [
        ("e1", euros("0.01")),
        ("e2", None),
    ]
    [lost] = (await served.ok("POST", "/v1/events", {"events": [event(2, "i2", "b")]}))["rejected"]
    assert lost["slug"] == "event-reversed"
    reward = await earned(served)
    assert await served.world.run(clawback.apply_due) == 1
    assert (await served.ok("GET", "/v1/reversals/early"))["data"] == []
    path = f"/v1/rewards/{reward['id']}/reverse"
    body = {"reason": "more", "amount": euros("0.01")}
    await served.refused(422, "reversal-reference", "POST", path, body)
    await served.refused(
        422, "reversal-too-large", "POST", path, {**body, "amount": euros("99.00")}
    )
    for _ in range(2):
        done = await served.ok("POST", path, {**body, "reference": "cb-2"})
        assert done["taken_back"] == euros("0.02")
    done = await served.ok("POST", "/v1/reversals", {**asked, "event_id": "e1"})
    assert (done["state"], done["reward"]["state"]) == ("reversed", "reversed")
    await served.refused(
        409, "reward-not-held", "POST", f"/v1/rewards/{reward['id']}/mature", REASON
    )


async def owing(served: Served) -> dict[str, Any]:
    """Anna's reward is with the bank when it is taken back; the reward."""
    reward = await earned(served)
    destination = await served.ok("POST", "/v1/users/anna/destinations", IBAN)
    shown = await balance(served)
    ask = {"user": "anna", "destination": destination["id"], "amount": shown["available"]}
    await served.ok("POST", "/v1/withdrawals", ask, headers=PAYOUT)
    await served.ok("POST", f"/v1/rewards/{reward['id']}/reverse", {"reason": "robot"})
    return reward


async def test_a_debt_is_listed_given_up_and_owed_again(served: Served) -> None:
    reward = await owing(served)
    [debt] = (await served.ok("GET", "/v1/debts"))["data"]
    assert (debt["owed"], debt["parts"][0]["reward"]) == (reward["amount"], reward["id"])
    assert debt["age_days"] == 0
    path = "/v1/users/anna/debt"
    given = {"amount": reward["amount"], "reason": "gone"}
    made = await served.ok("POST", f"{path}/write-off", given)
    assert made["borne_by"] == [
        {"campaign": None, "amount": reward["amount"], "from_budget": euros("0.00")}
    ]
    await served.refused(422, "debt-smaller", "POST", f"{path}/write-off", given)
    shown = await served.ok("GET", path)
    assert (shown["debts"], shown["write_offs"]) == ([], [made])
    undone = await served.ok("POST", f"/v1/write-offs/{made['id']}/undo", REASON)
    assert undone["state"] == "undone"
    assert (await served.ok("GET", path))["debts"] == [debt]
    page = await served.ok("GET", "/v1/debts", params={"limit": 1})
    after = {"limit": 1, "cursor": page["next_cursor"]}
    assert (await served.ok("GET", "/v1/debts", params=after))["data"] == []
    await served.refused(
        404, "write-off-unknown", "POST", f"/v1/write-offs/{made['id'][:-3]}ZZZ/undo", REASON
    )


async def test_two_persons_above_a_limit(served: Served, desk: Desk) -> None:
    reward = await owing(served)
    for act in ("debt.write_off", "debt.reopen", "reward.reverse", "withdrawal.approve"):
        await limit(served, act, "0.01")
    anna, bea = await desk.session("anna"), await desk.session("bea")

    async def both(path: str, body: Any, method: str = "POST") -> Any:
        waits = await anna.request(method, path, json=body)
        assert waits.status_code == 202, waits.text
        approval = f"/v1/approvals/{waits.json()['approval']}/approve"
        assert code(await anna.post(approval, json=REASON)) == (403, "second-person-needed")
        done = await bea.post(approval, json=REASON)
        assert done.is_success, done.text
        return done.json()["result"]

    body = {"amount": reward["amount"], "reason": "gone"}
    made = await both("/v1/users/anna/debt/write-off", body)
    assert made["state"] == "written_off"
    assert (await both(f"/v1/write-offs/{made['id']}/undo", REASON))["state"] == "undone"
    policy = await both(f"{POLICIES}/default", put(**TERMS), "PUT")
    assert policy["version"] == 1
    second = await earned(served, 2)
    back = {"source": "api", "event_id": "e2", "user": "anna", "reason": "robot"}
    assert (await both("/v1/reversals", back))["id"] == second["id"]


async def test_the_intake_role_does_what_comes_due(served: Served) -> None:
    """Each lane once: reserves, early reversals, and cells that were not told of a policy."""
    lanes = ROLES["intake"](served.deps).lanes
    names = {lane.name.partition(":")[0] for lane in lanes}
    assert {"mature", "reserve", "early-reversals", "earning-policies"} <= names
    command = PutPolicy("default", 0, TERMS, "agreed")
    control = served.world.dbs.control
    await control.run(ACTOR, "", lambda tx: policy.put(tx, 1, command))
    spread = next(lane for lane in lanes if lane.name.startswith("earning-policies"))
    assert [await spread.step(), await spread.step()] == [1, 0]
    reward = await earned(served)
    assert reward["policy"] == {"source": "default", "version": 1}
    served.world.clock.advance(timedelta(days=10))
    for lane in lanes:
        await lane.step()
    assert (await balance(served))["available"] == reward["amount"]
