"""Users, destinations, balances and withdrawals over HTTP, on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.served import IBAN, Served, credit, earner, serve
from tests.world import PostgresServer

ASK = {"user": "anna", "amount": {"amount": "12.50", "currency": "EUR"}}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


async def test_a_user_is_made_shown_changed_and_closed(served: Served) -> None:
    made = await served.api.put("/v1/users/anna", json={"profile": {"country": "DE"}})
    assert made.status_code == 201
    again = await served.api.put("/v1/users/anna", json={})
    assert (again.status_code, again.json()) == (200, made.json())
    assert await served.ok("GET", f"/v1/users/{made.json()['id']}") == made.json()
    await served.refused(422, "profile-invalid", "PUT", "/v1/users/anna", {"profile": {"x": 1}})
    await served.ok("PUT", "/v1/users/anna", {"status": "closed", "reason": "left"})
    await served.refused(422, "user-closed", "PUT", "/v1/users/anna", {"status": "active"})
    await served.refused(422, "user-closed", "POST", "/v1/users/anna/destinations", IBAN)


async def test_an_external_id_may_hold_a_slash_and_look_like_anything(served: Served) -> None:
    for path, name in (
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("us_x", "us_x"),
        ("%F0%9F%99%82", "🙂"),
    ):
        await served.ok("PUT", f"/v1/users/{path}", {})
        assert (await served.ok("GET", f"/v1/users/{path}"))["external_id"] == name


async def test_destinations_are_masked_found_again_and_closed(served: Served) -> None:
    await served.ok("PUT", "/v1/users/anna", {})
    first = await served.api.post("/v1/users/anna/destinations", json=IBAN)
    again = await served.api.post("/v1/users/anna/destinations", json=IBAN)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert "532013" not in first.text
    bad = {**IBAN, "details": {"iban": "DE00370400440532013000", "holder": "A"}}
    problem = await served.refused(
        422, "destination-invalid", "POST", "/v1/users/anna/destinations", bad
    )
    assert problem["errors"][0]["pointer"] == "/details/iban"
    closed = await served.ok("DELETE", f"/v1/destinations/{first.json()['id']}")
    assert closed["state"] == "closed"
    listed = await served.ok("GET", "/v1/users/anna/destinations")
    assert [one["state"] for one in listed["data"]] == ["closed"]


async def test_a_withdrawal_from_request_to_cancel(served: Served) -> None:
    destination = await earner(served)
    body = {**ASK, "destination": destination["id"]}
    made = await served.api.post("/v1/withdrawals", json=body, headers=key("one"))
    assert made.status_code == 202, made.text
    balances = (await served.ok("GET", "/v1/users/anna/balances"))["data"][0]
    assert balances["available"] == {"amount": "7.50", "currency": "EUR"}
    assert balances["held"] == [
        {"amount": body["amount"], "reason": "withdrawal", "ref": made.json()["id"]}
    ]
    path = f"/v1/withdrawals/{made.json()['id']}"
    await served.refused(400, "request-invalid", "POST", f"{path}/hold", {"reason": ""})
    assert (await served.ok("POST", f"{path}/hold", {"reason": "look"}))["state"] == "held"
    assert (await served.ok("POST", f"{path}/release", {"reason": "ok"}))["state"] == "requested"
    assert (await served.ok("POST", f"{path}/cancel"))["state"] == "cancelled"
    await served.refused(409, "illegal-move", "POST", f"{path}/approve", {"reason": "late"})
    story = await served.ok("GET", path)
    assert [move["event"] for move in story["moves"]] == ["hold", "release", "cancel"]
    assert {act["action"] for act in story["acts"]} >= {"withdrawal.request", "withdrawal.cancel"}
    trace = await served.ok("GET", f"/v1/traces/{made.json()['trace_id']}")
    assert trace["withdrawals"][0]["id"] == made.json()["id"]
    assert [act["name"] for act in trace["commits"][0]["acts"]] == ["withdrawal.request"]


async def test_statement_and_balance_then(served: Served) -> None:
    user = await served.ok("PUT", "/v1/users/anna", {})
    for amount in ("1.00", "2.00", "3.00", "4.00", "5.00"):
        await credit(served, user["id"], amount)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"currency": "EUR", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = await served.ok("GET", "/v1/users/anna/statement", params=params)
        seen += [row["balance"]["amount"] for row in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["15.00", "10.00", "6.00", "3.00", "1.00"]
    at = {"currency": "EUR", "at": "2026-11-20T09:00:00Z"}
    found = await served.ok("GET", "/v1/users/anna/balance-at", params=at)
    assert found["balance"]["amount"] == "15.00"
    before = {**at, "at": "2026-11-20T08:59:59Z"}
    found = await served.ok("GET", "/v1/users/anna/balance-at", params=before)
    assert found["balance"]["amount"] == "0.00"
    future = {**at, "at": "2027-01-01T00:00:00Z"}
    await served.refused(400, "as-of-future", "GET", "/v1/users/anna/balance-at", params=future)


async def test_the_same_key_gets_the_same_bytes(served: Served) -> None:
    destination = await earner(served)
    body = {**ASK, "destination": destination["id"]}
    first = await served.api.post("/v1/withdrawals", json=body, headers=key("k"))
    again = await served.api.post("/v1/withdrawals", json=body, headers=key("k"))
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = {**body, "amount": {"amount": "1.00", "currency": "EUR"}}
    await served.refused(
        422, "idempotency-key-reused", "POST", "/v1/withdrawals", other, headers=key("k")
    )
    refusal = {**body, "amount": {"amount": "500.00", "currency": "EUR"}}
    no = await served.refused(
        422, "insufficient-funds", "POST", "/v1/withdrawals", refusal, headers=key("n")
    )
    user = await served.ok("GET", "/v1/users/anna")
    await credit(served, user["id"], "900.00")
    still = await served.api.post("/v1/withdrawals", json=refusal, headers=key("n"))
    assert (still.status_code, still.json()) == (422, no)
    assert still.headers["content-type"] == "application/problem+json"


async def test_two_racing_copies_are_one_withdrawal(served: Served) -> None:
    destination = await earner(served, amount="12.50")
    body = {**ASK, "destination": destination["id"]}
    answers = await asyncio.gather(
        *(served.api.post("/v1/withdrawals", json=body, headers=key("r")) for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    found = await served.ok("GET", "/v1/withdrawals", params={"user": "anna"})
    assert len(found["data"]) == 1
    balances = (await served.ok("GET", "/v1/users/anna/balances"))["data"][0]
    assert balances["available"]["amount"] == "0.00"


async def test_one_key_is_one_body_in_all_cells(postgres: PostgresServer, tmp_path: Path) -> None:
    async with serve(postgres, tmp_path, cells=3) as served:
        by_cell: dict[str, str] = {}
        for number in range(20):
            user = await served.ok("PUT", f"/v1/users/u{number}", {})
            by_cell.setdefault(user["id"][3:5], f"u{number}")
        assert len(by_cell) == 3
        codes: list[str] = []
        for name in by_cell.values():
            destination = await earner(served, name)
            body = {**ASK, "user": name, "destination": destination["id"]}
            answer = await served.api.post("/v1/withdrawals", json=body, headers=key("same"))
            codes.append(answer.json().get("code", "made"))
        assert sorted(codes) == ["idempotency-key-reused", "idempotency-key-reused", "made"]


async def test_pages_over_all_cells_are_complete_and_disjoint(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path, cells=3) as served:
        made: set[str] = set()
        for number in range(7):
            name = f"u{number}"
            destination = await earner(served, name)
            body = {**ASK, "user": name, "destination": destination["id"]}
            answer = await served.api.post("/v1/withdrawals", json=body, headers=key(name))
            made.add(answer.json()["id"])
        seen: list[str] = []
        cursor: str | None = None
        while True:
            params = {"limit": 2, "state": "requested", **({"cursor": cursor} if cursor else {})}
            page = await served.ok("GET", "/v1/withdrawals", params=params)
            seen += [one["id"] for one in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            other = {"limit": 2, "cursor": cursor}
            await served.refused(400, "cursor-invalid", "GET", "/v1/withdrawals", params=other)
        assert len(seen) == len(set(seen)) == 7
        assert set(seen) == made


async def test_a_statement_leaves_as_csv_and_as_pdf(served: Served) -> None:
    user = (await served.ok("PUT", "/v1/users/anna", {}))["id"]
    await credit(served, user, "20.00")
    await credit(served, user, "1.50")
    path = "/v1/users/anna/statement/export?currency=EUR"
    answer = await served.api.get(path)
    assert answer.headers["content-type"].startswith("text/csv")
    rows = answer.text.splitlines()
    assert rows[0].split(",")[4:] == ["amount", "balance", "currency"]
    assert [row.split(",")[4:] for row in rows[1:]] == [
        ["20.00", "20.00", "EUR"],
        ["1.50", "21.50", "EUR"],
    ]
    paper = await served.api.get(f"{path}&format=pdf")
    assert paper.headers["content-type"] == "application/pdf"
    assert paper.content.startswith(b"%PDF-")
    assert (await served.api.get(f"{path}&format=xls")).status_code == 400
