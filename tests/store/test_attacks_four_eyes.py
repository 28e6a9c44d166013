"""Attacks on four eyes: one person who tries to do what needs two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import Context
from pathlib import Path

import httpx
import psycopg
import pytest
from tests.desk import REASON, Desk, code, limit
from tests.served import Served, serve
from tests.store.test_api_work import WALLET, offer
from tests.withdrawals import made_in, state_of
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import text_id
from paymaster.people.staff_roles import Role
from paymaster.withdraw.machine import Event
from paymaster.withdraw.moves import Step, move

RULES = "/v1/screening/rules"


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


@pytest.fixture
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


async def blocked(served: Served) -> None:
    """Wait until somebody waits for a lock."""
    async with await psycopg.AsyncConnection.connect(
        served.world.owner_dsn, autocommit=True
    ) as watching:
        while True:
            found = await watching.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
            row = await found.fetchone()
            if row is not None and row[0]:
                return
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("state", "event", "act"),
    [("approved", Event.REVIEW, "approve"), ("sent", Event.SETTLE, "reverse")],
)
async def test_an_act_asked_for_while_it_becomes_possible_needs_two(
    served: Served, desk: Desk, state: str, event: Event, act: str
) -> None:
    """Before the other transaction ends the act is not possible, after it has ended it is."""
    await limit(served, f"withdrawal.{act}", "1.00")
    _, number = await made_in(served.world, state)
    path = f"/v1/withdrawals/{text_id('wd', 1, number)}/{act}"
    anna = await desk.session("anna")
    racing: list[asyncio.Task[httpx.Response]] = []

    async def meanwhile(tx: CellTx) -> str:
        [moved] = await move(tx, [Step(number, event, reason="because")])
        assert moved.done, moved
        # Another process asks: nothing of this transaction may be known to it.
        racing.append(asyncio.create_task(anna.post(path, json=REASON), context=Context()))
        await asyncio.wait_for(blocked(served), 10)
        return moved.state

    became = await served.world.run(meanwhile)
    answer = await racing[0]
    assert (answer.status_code, await state_of(served.world, number)) == (202, became)


async def test_what_is_at_stake_may_not_grow_after_the_proposal(served: Served, desk: Desk) -> None:
    await offer(served, "100.00")
    task = {
        "type": "labelling",
        "title": "Look",
        "reward": {"amount": "2.00", "currency": "EUR"},
        "verification": {"kind": "review"},
        "starts_at": "2026-11-01T00:00:00Z",
    }
    address = "/v1/campaigns/labels/tasks/looks"
    made = await served.ok("PUT", address, task)
    sent = {"submission_id": "s", "payload": {}, "occurred_at": "2026-11-20T09:00:00Z"}
    path = f"/v1/users/anna/tasks/{made['id']}"
    await served.ok("POST", f"{path}/submit", sent)
    await limit(served, "task.decide", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    waiting = await anna.post(f"{path}/decide", json={"approve": True, **REASON})
    text = waiting.json()["approval"]
    assert waiting.json()["amount"]["amount"] == "2.00"
    await served.ok("PUT", address, {**task, "reward": {"amount": "90.00", "currency": "EUR"}})
    done = await bea.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert code(done) == (409, "approval-outdated")
    assert (await served.ok("GET", "/v1/users/anna/rewards"))["data"] == []
    await served.ok("PUT", address, task)
    assert (await bea.post(f"/v1/approvals/{text}/approve", json=REASON)).is_success


async def test_one_person_does_not_loosen_the_rules_that_send_to_review(
    served: Served, desk: Desk
) -> None:
    """With rules that let everything go: hold and release, and nobody was asked."""
    await limit(served, "withdrawal.approve", "1.00")
    _, number = await made_in(served.world, "in_review")
    path = f"/v1/withdrawals/{text_id('wd', 1, number)}"
    anna, bea = await desk.session("anna"), await desk.session("bea", Role.RISK)
    before = await served.ok("GET", RULES)
    lax = {"based_on": before["version"], "rules": [{"rule": "standing"}]}
    waiting = await anna.put(RULES, json=lax)
    assert (waiting.status_code, waiting.json()["state"]) == (202, "proposed")
    assert (await served.ok("GET", RULES))["version"] == before["version"]
    text = waiting.json()["approval"]
    mine = await anna.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert code(mine) == (403, "second-person-needed")
    assert code(await (await desk.key(None)).put(RULES, json=lax)) == (403, "person-needed")
    for verb in ("hold", "release"):
        assert (await anna.post(f"{path}/{verb}", json=REASON)).is_success
    done = await bea.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert done.json()["result"] == await served.ok("GET", RULES)
    assert [one["rule"] for one in (await served.ok("GET", RULES))["rules"]] == ["standing"]


async def test_rules_with_faults_or_out_of_date_are_not_put_in_force_by_two(
    served: Served, desk: Desk
) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea", Role.RISK)
    version = (await served.ok("GET", RULES))["version"]
    bad = {"based_on": version, "rules": [{"rule": "none"}]}
    assert code(await anna.put(RULES, json=bad)) == (400, "rule-invalid")
    late = {"based_on": version + 7, "rules": [{"rule": "standing"}]}
    text = (await anna.put(RULES, json=late)).json()["approval"]
    answer = await bea.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert code(answer) == (409, "rule-set-changed")


async def test_one_person_does_not_turn_an_approved_transfer_to_another_account(
    served: Served, desk: Desk
) -> None:
    path = "/v1/rail-accounts/wallet"
    await served.ok("PUT", path, WALLET)
    await limit(served, "transfer.request", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    settings = {**WALLET["settings"], "topup_iban": "FR1420041010050500013M02606"}
    turned = await anna.put(path, json={**WALLET, "settings": settings})
    assert (turned.status_code, turned.json()["subject"]) == (202, "wallet")
    assert (await served.ok("GET", path))["settings"] == WALLET["settings"]
    assert (await anna.put("/v1/rail-accounts/mine", json=WALLET)).status_code == 202
    wrong = await anna.put("/v1/rail-accounts/mine", json={**WALLET, "rail": "none"})
    assert code(wrong) == (422, "rail-account-invalid")
    # What changes nothing asks nobody: a deployment may repeat it with its key.
    assert (await served.ok("PUT", path, WALLET))["version"] == 1
    text = turned.json()["approval"]
    mine = await anna.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert code(mine) == (403, "second-person-needed")
    done = await bea.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert done.json()["result"] == await served.ok("GET", path)
    assert done.json()["result"]["settings"] == settings


async def test_one_person_does_not_switch_the_proofs_of_earners_off(
    served: Served, desk: Desk
) -> None:
    path = "/v1/step-up-policy"
    rules = {"rules": [{"purpose": "withdrawal", "above": None}], "reason": "start"}
    kept = (await served.ok("PUT", path, rules))["rules"]
    await limit(served, "withdrawal.approve", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea", Role.RISK)
    waiting = await anna.put(path, json={"rules": [], "reason": "quicker"})
    assert (waiting.status_code, waiting.json()["act"]) == (202, "step_up.policy")
    assert (await served.ok("GET", path))["rules"] == kept
    assert code(await (await desk.key(None)).put(path, json=rules)) == (403, "person-needed")
    text = waiting.json()["approval"]
    mine = await anna.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert code(mine) == (403, "second-person-needed")
    done = await bea.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert done.json()["result"] == {"rules": []}
    assert (await served.ok("GET", path))["rules"] == []


async def test_support_does_not_raise_what_is_known_of_a_user(served: Served, desk: Desk) -> None:
    await served.ok("PUT", "/v1/users/carl", {})
    path = "/v1/users/carl/kyc"
    full = {"level": "full", "provider": "desk", "reference": "r1"}
    support = await desk.session("sue", Role.SUPPORT)
    assert code(await support.post(path, json=full)) == (403, "scope-missing")
    admin = await desk.session("ada", Role.ADMIN)
    assert code(await admin.post(path, json=full)) == (422, "kyc-invalid")
    seen = await admin.post(path, json={**full, "reason": "passport seen"})
    assert seen.json()["level"] == "full"
