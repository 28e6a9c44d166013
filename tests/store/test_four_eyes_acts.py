"""The acts that wait for a second person, beside those on withdrawals: each runs when approved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.desk import REASON, Desk, code, limit
from tests.served import Served, serve
from tests.statements import Office, line, paid, sheet
from tests.store.test_api_work import IBAN, WALLET, event, offer
from tests.world import PostgresServer

from paymaster.kernel.ids import text_id
from paymaster.rails.base import LineKind


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


async def test_a_transfer_waits_and_is_asked_for_once(served: Served, desk: Desk) -> None:
    bank = {
        "rail": "iso20022",
        "currency": "EUR",
        "payout_window": "manual",
        "settings": {
            "iban": IBAN["details"]["iban"],
            "holder": "Acme",
            "transport": "directory",
            "outgoing": "out",
            "incoming": "in",
        },
    }
    settings = {**WALLET["settings"], "holder": "Pay"}
    await served.ok("PUT", "/v1/rail-accounts/bank", bank)
    await served.ok("PUT", "/v1/rail-accounts/wallet", {**WALLET, "settings": settings})
    await limit(served, "transfer.request", "5.00")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    ask: dict[str, Any] = {
        "from": "bank",
        "to": "wallet",
        "amount": {"amount": "5.01", "currency": "EUR"},
        "reason": "float",
    }
    small = {**ask, "amount": {"amount": "5.00", "currency": "EUR"}}
    done = await anna.post("/v1/transfers", json=small, headers={"Idempotency-Key": "s"})
    assert done.json()["state"] == "requested"
    key = {"Idempotency-Key": "t"}
    first = await anna.post("/v1/transfers", json=ask, headers=key)
    again = await anna.post("/v1/transfers", json=ask, headers=key)
    assert (first.status_code, first.content) == (202, again.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert len((await anna.get("/v1/transfers")).json()["data"]) == 1
    wrong = {**ask, "to": "nowhere"}
    answer = await anna.post("/v1/transfers", json=wrong, headers={"Idempotency-Key": "w"})
    assert code(answer) == (422, "transfer-account-unknown")
    waiting = first.json()["approval"]
    made = (await bea.post(f"/v1/approvals/{waiting}/approve", json=REASON)).json()["result"]
    assert made["amount"] == {"amount": "5.01", "currency": "EUR"}
    assert len((await anna.get("/v1/transfers")).json()["data"]) == 2


async def test_money_in_suspense_is_booked_by_two(served: Served, desk: Desk) -> None:
    await limit(served, "break.resolve", "29.99")
    await limit(served, "line.retry", "29.99")
    office = Office(served.world)
    await office.store(
        sheet("0.00", line("I", "30.00", kind=LineKind.INCOMING, remittance="for 9"))
    )
    await office.settle()
    anna, bea = await desk.session("anna"), await desk.session("bea")
    [found] = (await anna.get("/v1/reconciliation/breaks")).json()["data"]
    number = await office.line("I")
    retry = f"/v1/reconciliation/lines/{text_id('sl', 1, number)}/retry"
    waits = await anna.post(retry, json={"reason": "x", "reference": "CP0"})
    assert waits.status_code == 202
    text = waits.json()["approval"]
    assert (await anna.post(f"/v1/approvals/{text}/withdraw", json=REASON)).is_success
    path = f"/v1/reconciliation/breaks/{found['id']}/resolve"
    body = {"reason": "they wrote", "target": {"kind": "equity"}}
    asked = await anna.post(path, json=body)
    assert asked.status_code == 202
    assert (await office.balance("equity", 0)).minor == 0
    waiting = asked.json()["approval"]
    done = await bea.post(f"/v1/approvals/{waiting}/approve", json=REASON)
    assert done.json()["result"]["resolution"] == "they wrote"
    assert (await office.balance("equity", 0)).text() == "30.00"
    await office.assert_proven()


async def test_a_cent_accepted_for_a_thousand_is_accepted_by_two(
    served: Served, desk: Desk
) -> None:
    """What is weighed is what the books would move, not what the line says."""
    await limit(served, "line.retry", "29.99")
    office = Office(served.world)
    payout = await office.payout("1000.00")
    await office.store(sheet("0.00", paid(payout, "P", "0.01"), line("U", "-0.01", key="X" * 15)))
    await office.settle()
    anna, bea = await desk.session("anna"), await desk.session("bea")
    path = f"/v1/reconciliation/lines/{text_id('sl', 1, await office.line('P'))}/retry"
    accept = {"reason": "their fee", "accept_difference": True}
    waits = await anna.post(path, json=accept)
    assert waits.status_code == 202
    assert waits.json()["amount"] == {"amount": "1000.00", "currency": "EUR"}
    assert await office.withdrawal(payout) == "sent"
    # In one act with another reference nobody has seen what would be accepted.
    other = f"/v1/reconciliation/lines/{text_id('sl', 1, await office.line('U'))}/retry"
    for wrong in ({**accept, "reference": payout.key}, accept):
        assert code(await anna.post(other, json=wrong)) == (422, "difference-unseen")
    text = waits.json()["approval"]
    assert (await bea.post(f"/v1/approvals/{text}/approve", json=REASON)).is_success
    await office.settle()
    assert await office.withdrawal(payout) == "paid"
    await office.assert_proven()


async def test_rewards_and_work_are_decided_by_two(served: Served, desk: Desk) -> None:
    await offer(served)
    await served.ok("POST", "/v1/events", {"events": [event(1)]})
    [reward] = (await served.ok("GET", "/v1/users/anna/rewards"))["data"]
    await limit(served, "reward.reverse", "0.01")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    path = f"/v1/rewards/{reward['id']}/reverse"
    waiting = (await anna.post(path, json=REASON)).json()["approval"]
    done = await bea.post(f"/v1/approvals/{waiting}/approve", json=REASON)
    assert done.json()["result"]["state"] == "reversed"
    again = await anna.post(path, json=REASON)
    assert (again.status_code, again.json()["state"]) == (200, "reversed")


async def test_work_that_is_handed_in_is_decided_by_two(served: Served, desk: Desk) -> None:
    await offer(served)
    task = {
        "type": "labelling",
        "title": "Look",
        "reward": {"amount": "2.00", "currency": "EUR"},
        "verification": {"kind": "review"},
        "starts_at": "2026-11-01T00:00:00Z",
    }
    made = await served.ok("PUT", "/v1/campaigns/labels/tasks/looks", task)
    sent = {"submission_id": "s", "payload": {}, "occurred_at": "2026-11-20T09:00:00Z"}
    path = f"/v1/users/anna/tasks/{made['id']}"
    await served.ok("POST", f"{path}/submit", sent)
    await limit(served, "task.decide", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    waiting = await anna.post(f"{path}/decide", json={"approve": True, **REASON})
    assert waiting.status_code == 202, waiting.text
    text = waiting.json()["approval"]
    done = await bea.post(f"/v1/approvals/{text}/approve", json=REASON)
    assert done.json()["result"]["state"] == "rewarded"
