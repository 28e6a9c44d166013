"""Campaigns, events, rewards, rails, hooks and operators' calls over HTTP, on a real database."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.served import Served, credit, serve
from tests.world import PostgresServer

from paymaster.secrets.opening import secrets_directory

NOW = "2026-11-20T09:00:00Z"
CAMPAIGN = {
    "sponsor": "acme",
    "name": "Labels",
    "currency": "EUR",
    "starts_at": "2026-11-01T00:00:00Z",
}
TASK = {
    "type": "labelling",
    "title": "Answer",
    "reward": {"amount": "0.02", "currency": "EUR"},
    "verification": {"kind": "gold"},
    "starts_at": "2026-11-01T00:00:00Z",
}
TASK_PATH = "/v1/campaigns/labels/tasks/answers"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


async def offer(served: Served, funded: str = "10.00") -> dict[str, Any]:
    """A sponsor, a funded campaign, a labelling task with two gold answers, a user."""
    await served.ok("PUT", "/v1/sponsors/acme", {"name": "Acme"})
    campaign = await served.ok("PUT", "/v1/campaigns/labels", CAMPAIGN)
    await served.ok("PUT", TASK_PATH, TASK)
    await served.ok("PUT", f"{TASK_PATH}/gold", {"items": {"i1": "a", "i2": "b"}})
    await served.ok("PUT", "/v1/users/anna", {})
    await fund(served, campaign["id"], funded)
    return campaign


async def fund(served: Served, campaign_id: str, amount: str) -> None:
    from paymaster.db.tx import CellTx
    from paymaster.kernel.ids import parse_text_id
    from paymaster.kernel.money import Money
    from paymaster.ledger import recipes
    from paymaster.ledger.entry import Entry
    from paymaster.ledger.post import post

    async def work(tx: CellTx) -> None:
        number = parse_text_id("cp", campaign_id).id
        postings = recipes.fund(1, number, Money.parse(amount, "EUR"))
        assert all(one.done for one in await post(tx, [Entry(tx.id(), "fund", "x", postings)]))

    await served.world.run(work)


def event(number: int, item: str = "i1", answer: str = "a", **more: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "user": "anna",
        "campaign": "labels",
        "task": "answers",
        "type": "answer",
        "occurred_at": NOW,
        "payload": {"item": item, "answer": answer},
        **more,
    }


def lines(*events: dict[str, Any] | str) -> bytes:
    return b"\n".join(e.encode() if isinstance(e, str) else json.dumps(e).encode() for e in events)


async def test_a_task_is_started_and_handed_in_once(served: Served) -> None:
    await offer(served)
    [shown] = (await served.ok("GET", "/v1/users/anna/tasks"))["data"]
    path = f"/v1/users/anna/tasks/{shown['id']}"
    assert (await served.ok("POST", f"{path}/start"))["state"] == "started"
    work = {
        "submission_id": "s1",
        "payload": {"item": "i1", "answer": "a"},
        "occurred_at": NOW,
    }
    first = await served.ok("POST", f"{path}/submit", work)
    assert first["status"] == "rewarded"
    assert first["reward"].startswith("rw_")
    again = await served.ok("POST", f"{path}/submit", work)
    assert again["status"] == "duplicate"
    other = {**work, "payload": {"item": "i1", "answer": "b"}}
    await served.refused(422, "event-conflict", "POST", f"{path}/submit", other)
    future = {**work, "submission_id": "s2", "occurred_at": "2030-01-01T00:00:00Z"}
    await served.refused(422, "event-in-future", "POST", f"{path}/submit", future)
    [balance] = (await served.ok("GET", "/v1/users/anna/balances"))["data"]
    assert balance["available"]["amount"] == "0.02"


async def test_an_answer_earns_once_and_can_be_taken_back(served: Served) -> None:
    await offer(served)
    body = {"events": [event(1), event(2, "i2", "wrong")]}
    first = await served.ok("POST", "/v1/events", body)
    assert (first["accepted"], first["rewarded"], first["rejected"]) == (2, 1, [])
    again = await served.ok("POST", "/v1/events", body["events"])
    assert (again["accepted"], again["duplicates"]) == (0, 2)
    campaign = await served.ok("GET", "/v1/campaigns/labels")
    assert campaign["counters"] == {
        "events": 2,
        "users": 1,
        "rewards": 1,
        "rewarded": {"amount": "0.02", "currency": "EUR"},
        "awaiting_funds": 0,
    }
    assert {name: money["amount"] for name, money in campaign["budget"].items()} == {
        "funded": "10.00",
        "spent": "0.02",
        "remaining": "9.98",
    }
    [reward] = (await served.ok("GET", "/v1/users/anna/rewards"))["data"]
    path = f"/v1/rewards/{reward['id']}/reverse"
    assert (await served.ok("POST", path, {"reason": "fraud"}))["state"] == "reversed"
    campaign = await served.ok("GET", "/v1/campaigns/labels")
    assert campaign["budget"]["spent"]["amount"] == "0.00"
    # These books were funded past any statement: the proof must see exactly that.
    proof = await served.ok("POST", "/v1/proofs")
    [difference] = proof["cells"][0]["differences"]
    assert (proof["ok"], difference["check"], difference["stored"]) == (False, "cash", "1000 EUR")


async def test_one_bad_line_never_stops_the_others(served: Served) -> None:
    await offer(served)
    body = lines(
        event(1),
        '{"event_id": "e2", ',
        event(3, user="nobody"),
        event(4, campaign="nothing"),
        event(5, occurred_at="2026-11-21T09:00:00Z"),
        event(6, item="i2", answer="b"),
        {**event(7), "reward": "1000.00"},
    )
    found = await served.ok("POST", "/v1/events", content=body, headers=NDJSON)
    assert (found["accepted"], found["rewarded"]) == (2, 2)
    why = {one["line"]: one["slug"] for one in found["rejected"]}
    assert set(why) == {2, 3, 4, 5, 7}
    assert (why[2], why[5], why[7]) == ("event-malformed", "event-in-future", "event-malformed")
    assert (why[3], why[4]) == ("user-unknown", "campaign-unknown")
    seen: list[int] = []
    cursor: str | None = None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = await served.ok("GET", "/v1/dead-letters", params=params)
        seen += [one["line"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == [2, 3, 4, 5, 7]


async def test_gzip_rows_and_a_bomb(served: Served) -> None:
    await offer(served)
    packed = {**NDJSON, "Content-Encoding": "gzip"}
    found = await served.ok(
        "POST", "/v1/events", content=gzip.compress(lines(event(1))), headers=packed
    )
    assert found["rewarded"] == 1
    bomb = gzip.compress(b" " * 200_000_000)
    assert len(bomb) < 1_000_000
    await served.refused(413, "body-too-large", "POST", "/v1/events", content=bomb, headers=packed)
    await served.refused(
        400, "gzip-malformed", "POST", "/v1/events", content=b"no gzip", headers=packed
    )
    fields = {"event_id": "{id}", "user": "anna", "campaign": "labels", "task": "answers"}
    fields |= {"type": "answer", "occurred_at": NOW, "payload.item": "{i}", "payload.answer": "{a}"}
    rows = {
        "content": b"id\ti\ta\n9\ti2\tb\n10\ti1\n",
        "headers": {"Content-Type": "text/tab-separated-values"},
    }
    params = {"mapping": json.dumps({"fields": fields}), "source": "file"}
    found = await served.ok("POST", "/v1/events", params=params, **rows)
    assert (found["rewarded"], [one["line"] for one in found["rejected"]]) == (1, [3])
    await served.refused(400, "mapping-missing", "POST", "/v1/events", **rows)
    zipped = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    await served.refused(
        415, "media-type-unsupported", "PUT", "/v1/users/a", content=bomb, headers=zipped
    )


async def test_batches_have_a_limit(postgres: PostgresServer, tmp_path: Path) -> None:
    async with serve(postgres, tmp_path, limits={"event_batch_items": 2}) as served:
        three = [event(number) for number in range(3)]
        await served.refused(413, "batch-too-large", "POST", "/v1/events", three)
        await served.refused(400, "batch-empty", "POST", "/v1/events", [])


async def test_bad_offers_are_refused_with_their_place(served: Served) -> None:
    await offer(served)
    put = ("PUT", "/v1/campaigns/other")
    await served.refused(422, "sponsor-unknown", *put, {**CAMPAIGN, "sponsor": "nobody"})
    await served.refused(400, "currency-unknown", *put, {**CAMPAIGN, "currency": "EURO"})
    await served.refused(400, "request-invalid", *put, {**CAMPAIGN, "starts_at": "yesterday"})
    no_zone = {**CAMPAIGN, "starts_at": "2026-11-01T00:00:00"}
    await served.refused(400, "request-invalid", *put, no_zone)
    fine = {**TASK, "reward": {"amount": "0.021", "currency": "EUR"}}
    await served.refused(400, "amount-precision", "PUT", TASK_PATH, fine)
    number = {**TASK, "reward": {"amount": 0.02, "currency": "EUR"}}
    problem = await served.refused(400, "request-invalid", "PUT", TASK_PATH, number)
    assert problem["errors"][0]["pointer"] == "/reward/amount"
    await served.refused(404, "campaign-unknown", "GET", "/v1/campaigns/nothing")
    await served.refused(404, "task-unknown", "PUT", f"{TASK_PATH}x/gold", {"items": {}})
    await served.refused(400, "request-invalid", "PUT", f"{TASK_PATH}/gold", {"items": {"a": 1}})
    bad = {"content": b'{"item": "a"}', "headers": NDJSON}
    problem = await served.refused(400, "request-invalid", "PUT", f"{TASK_PATH}/gold", **bad)
    assert problem["errors"][0]["pointer"] == "line:1"


async def test_bad_withdrawals_are_refused(served: Served) -> None:
    user = await served.ok("PUT", "/v1/users/anna", {})
    await credit(served, user["id"], "5.00")
    destination = await served.ok("POST", "/v1/users/anna/destinations", IBAN)
    good = {
        "user": "anna",
        "destination": destination["id"],
        "amount": {"amount": "2.00", "currency": "EUR"},
    }
    post = ("POST", "/v1/withdrawals")
    await served.refused(400, "idempotency-key-missing", *post, good)
    long = {"Idempotency-Key": "x" * 129}
    await served.refused(400, "idempotency-key-malformed", *post, good, headers=long)
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (404, "user-unknown", {"user": "nobody"}),
        (422, "destination-not-found", {"destination": "de_0100000000000ZZ"}),
        (422, "destination-not-found", {"destination": "nonsense"}),
        (400, "currency-unknown", {"amount": {"amount": "2.00", "currency": "XXY"}}),
        (400, "amount-precision", {"amount": {"amount": "2.001", "currency": "EUR"}}),
        (400, "amount-malformed", {"amount": {"amount": "2e0", "currency": "EUR"}}),
        (400, "request-invalid", {"amount": {"amount": 2, "currency": "EUR"}}),
        (422, "currency-mismatch", {"amount": {"amount": "2.00", "currency": "USD"}}),
        (422, "insufficient-funds", {"amount": {"amount": "5.01", "currency": "EUR"}}),
        (422, "amount-not-positive", {"amount": {"amount": "-2.00", "currency": "EUR"}}),
        (400, "request-invalid", {"note": "x"}),
    ]
    for status, code, change in cases:
        headers = {"Idempotency-Key": secrets.token_hex(8)}
        await served.refused(status, code, *post, {**good, **change}, headers=headers)
    assert (await served.ok("GET", "/v1/withdrawals"))["data"] == []


IBAN = {
    "kind": "iban",
    "currency": "EUR",
    "details": {"iban": "DE89370400440532013000", "holder": "A. Example"},
}
WALLET = {
    "rail": "sandbox-wallet",
    "currency": "EUR",
    "settings": {"url": "http://127.0.0.1:1", "topup_iban": "DE89370400440532013000"},
    "secrets": {"api_key": "pay-key", "webhook_secret": "pay-hook"},
}


async def test_rail_accounts_transfers_and_funds(served: Served) -> None:
    bank = {
        "rail": "iso20022",
        "currency": "EUR",
        "payout_window": "manual",
        "settings": {
            "iban": "DE89370400440532013000",
            "holder": "Acme",
            "transport": "directory",
            "outgoing": "out",
            "incoming": "in",
        },
    }
    made = await served.api.put("/v1/rail-accounts/bank", json=bank)
    assert made.status_code == 201, made.text
    assert (await served.api.put("/v1/rail-accounts/bank", json=bank)).json() == made.json()
    changed = await served.ok("PUT", "/v1/rail-accounts/bank", {**bank, "payout_window": "14:30"})
    assert (changed["payout_window"], changed["version"]) == ("14:30", 2)
    await served.refused(
        422, "rail-account-invalid", "PUT", "/v1/rail-accounts/x", {**bank, "rail": "x"}
    )
    ask = {"from": "bank", "to": "wallet", "amount": {"amount": "5.00", "currency": "EUR"}}
    ask["reason"] = "float"
    post = ("POST", "/v1/transfers")
    key = {"Idempotency-Key": "t"}
    await served.refused(422, "transfer-account-unknown", *post, ask, headers=key)
    settings = {**WALLET["settings"], "holder": "Pay"}
    await served.ok("PUT", "/v1/rail-accounts/wallet", {**WALLET, "settings": settings})
    first = await served.api.post("/v1/transfers", json=ask, headers={"Idempotency-Key": "u"})
    again = await served.api.post("/v1/transfers", json=ask, headers={"Idempotency-Key": "u"})
    assert (first.status_code, first.content) == (202, again.content)
    found = await served.ok("GET", f"/v1/transfers/{first.json()['id']}")
    assert found == first.json()
    assert len((await served.ok("GET", "/v1/transfers"))["data"]) == 1
    assert (await served.ok("POST", "/v1/rail-accounts/bank/close-window"))["cells"] == [1]
    cancelled = await served.ok("POST", f"/v1/transfers/{found['id']}/cancel", {"reason": "no"})
    assert cancelled["state"] == "cancelled"
    funds = (await served.ok("GET", "/v1/funds"))["data"]
    assert [line["rail_account"] for line in funds] == ["bank", "wallet"]
    await served.refused(404, "rail-account-unknown", "GET", "/v1/rail-accounts/nothing")
    summary = await served.ok("GET", "/v1/reconciliation/summary")
    assert (summary["open_lines"], summary["open_breaks"]) == (0, 0)
    run = {"rail_account": "bank", "day": "2026-11-19"}
    await served.refused(422, "statement-missing", "POST", "/v1/reconciliation/runs", run)
    problem = await served.refused(422, "day-not-ready", "POST", "/v1/days/2026-11-19/close")
    assert len(problem["errors"]) >= 2
    await served.refused(400, "request-invalid", "POST", "/v1/days/2026-13-19/close")
    await served.refused(404, "day-open", "GET", "/v1/days/2026-11-19")


async def test_rules_have_versions(served: Served) -> None:
    before = await served.ok("GET", "/v1/screening/rules")
    rules = [{"rule": "minimum", "parameters": {"amounts": {"EUR": "2.00"}}}]
    body = {"based_on": before["version"], "rules": rules}
    assert (await served.ok("PUT", "/v1/screening/rules", body))["version"] == 2
    await served.refused(409, "rule-set-changed", "PUT", "/v1/screening/rules", body)
    bad = {"based_on": 2, "rules": [{"rule": "nothing"}]}
    problem = await served.refused(400, "rule-invalid", "PUT", "/v1/screening/rules", bad)
    assert problem["errors"][0]["pointer"] == "/rules/0/rule"


def signed(secret: bytes, event_id: str, at: int, body: bytes) -> dict[str, str]:
    message = f"{event_id}.{at}.".encode() + body
    digest = hmac.new(secret, message, hashlib.sha256).hexdigest()
    return {
        "Sandpay-Id": event_id,
        "Sandpay-Timestamp": str(at),
        "Sandpay-Signature": f"v1={digest}",
        "Content-Type": "application/json",
    }


async def test_hooks_take_what_is_signed_fresh_and_new(served: Served) -> None:
    secret = secrets.token_hex(16).encode()
    folder = secrets_directory(served.deps.settings)
    for name in ("pay-key", "pay-hook"):
        (folder / name).write_bytes(secret)
        (folder / name).chmod(0o600)
    await served.ok("PUT", "/v1/rail-accounts/wallet", WALLET)
    path = "/v1/hooks/acme/test/wallet"
    body = json.dumps(notice("ev1")).encode()
    at = int(served.world.clock.now().timestamp())

    async def told(headers: dict[str, str], to: str = path) -> httpx.Response:
        return await served.hooks.post(to, content=body, headers=headers)

    good = signed(secret, "ev1", at, body)
    first, again = await told(good), await told(good)
    assert first.status_code == 200, first.text
    assert first.json() == {"new": 1, "again": 0, "unmatched": 0}
    assert again.json() == {"new": 0, "again": 1, "unmatched": 0}
    forged = await told(signed(b"other", "ev2", at, body))
    assert (forged.status_code, forged.json()["code"]) == (401, "webhook-signature")
    unsigned = await told({"Content-Type": "application/json"})
    assert (unsigned.status_code, unsigned.json()["code"]) == (401, "webhook-signature")
    stale = await told(signed(secret, "ev3", at - 3600, body))
    assert (stale.status_code, stale.json()["code"]) == (401, "webhook-stale")
    served.world.clock.advance(timedelta(hours=1))
    replayed = await told(good)
    assert (replayed.status_code, replayed.json()["code"]) == (401, "webhook-stale")
    for unknown in (
        "/v1/hooks/acme/test/x",
        "/v1/hooks/acme/live/wallet",
        "/v1/hooks/x/test/wallet",
    ):
        answer = await told(good, unknown)
        assert (answer.status_code, answer.json()["code"]) == (404, "rail-account-unknown")


def notice(event_id: str) -> dict[str, Any]:
    return {
        "id": event_id,
        "type": "payout.paid",
        "data": {
            "id": "po_1",
            "reference": "010000000000000",
            "wallet": "SW-0000000000",
            "amount": "1.00",
            "currency": "EUR",
            "status": "paid",
            "failure_code": None,
            "fee": "0.00",
            "created_at": "2026-11-20T09:00:00.000Z",
        },
    }
