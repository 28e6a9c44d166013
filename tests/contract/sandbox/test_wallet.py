"""The wallet provider keeps what its API promises, also when it misbehaves."""

import asyncio
import hashlib

import httpx
import pytest
from tests.contract.sandbox.support import (
    OURS,
    PSP,
    Client,
    Receiver,
    eventually,
    iban,
    wallet,
)

from paymaster_sandbox import World

ADA, BOB = wallet(1), wallet(2)


async def test_a_payout_is_pending_then_paid_and_announced(
    client: Client, receiver: Receiver, world: World
) -> None:
    made = await client.pay("k1", "R1", ADA)
    assert made.status_code == 201
    body = made.json()
    assert body["status"] == "pending"
    assert body["fee"] == "0.00"
    heard = (await eventually(lambda: receiver.heard))[0]
    assert heard.genuine(world.webhook_secret)
    assert heard.event["type"] == "payout.paid"
    assert heard.event["id"] == heard.headers["sandpay-id"]
    assert heard.event["data"] == {**body, "status": "paid"}
    assert (await client.get(f"/v1/payouts/{body['id']}")).json()["status"] == "paid"
    assert (await client.get("/v1/balance")).json() == {
        "balances": [{"currency": "EUR", "available": "998.77"}]
    }
    books = await client.books()
    assert books["paid_minor"] == {"EUR": 123}
    assert books["payees"][ADA] == {
        "paid": 1, "paid_minor": 123, "returned": 0, "returned_minor": 0
    }  # fmt: skip
    assert books["references"] == {"R1": 1}
    assert books["proven"]


async def test_the_same_key_replays_and_never_pays_again(client: Client) -> None:
    first = await client.pay("k1", "R1", ADA)
    again = await asyncio.gather(*(client.pay("k1", "R1", ADA) for _ in range(5)))
    assert {answer.status_code for answer in again} == {200}
    assert {answer.content for answer in again} == {first.content}
    assert {answer.headers["idempotent-replayed"] for answer in again} == {"true"}
    other = await client.pay("k1", "R1", ADA, amount="1.24")
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_key_reused"
    assert (await client.settled())["references"] == {"R1": 1}


async def test_a_second_key_pays_twice_and_the_oracle_knows(client: Client) -> None:
    await client.pay("k1", "R1", ADA)
    await client.pay("k2", "R1", ADA)
    books = await client.settled()
    assert books["duplicates"] == ["R1"]
    assert books["references"] == {"R1": 2}
    assert books["paid_minor"] == {"EUR": 246}
    found = (await client.get("/v1/payouts", reference="R1")).json()["data"]
    assert len(found) == 2


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"amount": "1.2"}, 400, "invalid_request"),
        ({"amount": "1.234"}, 400, "invalid_request"),
        ({"amount": "01.23"}, 400, "invalid_request"),
        ({"amount": "-1.23"}, 400, "invalid_request"),
        ({"amount": "0.00"}, 400, "invalid_request"),
        ({"amount": 1.23}, 400, "invalid_request"),
        ({"reference": ""}, 400, "invalid_request"),
        ({"reference": "R" * 36}, 400, "invalid_request"),
        ({"memo": "hello"}, 400, "invalid_request"),
        ({"currency": "USD"}, 422, "currency_unsupported"),
        ({"wallet": ADA[:-1] + "?"}, 404, "wallet_unknown"),
        ({"wallet": ADA[:-1] + ("A" if ADA[-1] != "A" else "B")}, 404, "wallet_unknown"),
        ({"amount": "1000.01"}, 402, "insufficient_funds"),
    ],
)
async def test_refusals_are_definite_and_pay_nothing(
    client: Client, change: dict[str, object], status: int, code: str
) -> None:
    good = {"reference": "R1", "wallet": ADA, "amount": "1.23", "currency": "EUR"}
    headers = {**client.auth, "Idempotency-Key": "k1"}
    answer = await client.http.post("/v1/payouts", json={**good, **change}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await client.books())["wallet"]["EUR"]["payouts"] == 0
    assert (await client.http.post("/v1/payouts", json=good, headers=headers)).status_code == 201


async def test_keys_are_needed(client: Client) -> None:
    body = {"reference": "R1", "wallet": ADA, "amount": "1.23", "currency": "EUR"}
    keyless = await client.http.post("/v1/payouts", json=body, headers=client.auth)
    assert keyless.status_code == 400
    for path in ("/v1/payouts", "/v1/balance", "/v1/settlements"):
        refused = await client.http.get(path, headers={"Authorization": "Bearer wrong"})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")


async def test_dropped_answers_pay_once_and_the_query_finds_it(client: Client) -> None:
    await client.control("faults", drop_answers=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.pay("k1", "R1", ADA)
    found = (await client.get("/v1/payouts", reference="R1")).json()["data"]
    assert [payout["wallet"] for payout in found] == [ADA]
    assert (await client.pay("k1", "R1", ADA)).status_code == 200
    assert (await client.settled())["references"] == {"R1": 1}


async def test_dropped_answers_without_a_server(world: World, client: Client) -> None:
    await client.control("faults", drop_answers=1)
    transport = httpx.ASGITransport(world.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await Client(http, world.api_key).pay("k1", "R1", ADA)
    assert (await client.settled())["references"] == {"R1": 1}


async def test_errors_before_and_after_paying(client: Client) -> None:
    await client.control("faults", fail_before=1, fail_after=1, rate_limit=1)
    limited = await client.pay("k1", "R1", ADA)
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "1")
    assert (await client.pay("k1", "R1", ADA)).status_code == 503
    assert (await client.get("/v1/payouts", reference="R1")).json() == {"data": []}
    assert (await client.pay("k1", "R1", ADA)).status_code == 500
    assert len((await client.get("/v1/payouts", reference="R1")).json()["data"]) == 1
    assert (await client.pay("k1", "R1", ADA)).status_code == 200


async def test_a_slow_answer_has_paid_before_it_comes(client: Client) -> None:
    await client.control("faults", slow_seconds=1)
    with pytest.raises(httpx.ReadTimeout):
        await client.http.post(
            "/v1/payouts",
            json={"reference": "R1", "wallet": ADA, "amount": "1.23", "currency": "EUR"},
            headers={**client.auth, "Idempotency-Key": "k1"},
            timeout=0.2,
        )
    assert len((await client.get("/v1/payouts", reference="R1")).json()["data"]) == 1


async def test_a_fresh_payout_can_be_hidden_for_a_while(client: Client) -> None:
    await client.control("faults", not_found_lag_seconds=3600)
    made = (await client.pay("k1", "R1", ADA)).json()
    assert (await client.get("/v1/payouts", reference="R1")).json() == {"data": []}
    assert (await client.get(f"/v1/payouts/{made['id']}")).status_code == 404
    await client.control("clock", advance_seconds=3601)
    assert len((await client.get("/v1/payouts", reference="R1")).json()["data"]) == 1


async def test_a_named_set_of_faults_is_armed_once(client: Client) -> None:
    assert (await client.control("faults", name="first", drop_answers=3))["armed"]
    await client.control("faults", drop_answers=0)
    again = await client.control("faults", name="first", drop_answers=3)
    assert not again["armed"]
    assert again["faults"]["drop_answers"] == 0
    unknown = await client.http.post("/_control/faults", json={"drop_answer": 1})
    assert unknown.status_code == 400


async def test_the_oracle_decides_over_payees(client: Client, receiver: Receiver) -> None:
    closed, failing, returning = wallet(10), wallet(11), wallet(12)
    await client.control("oracle", payee=closed, outcome="closed")
    again = await client.control("oracle", payee=closed, outcome="closed")
    assert not again["changed"]
    await client.control("oracle", payee=failing, outcome="fail", code="wallet_blocked")
    await client.control("oracle", payee=returning, outcome="return", after_seconds=60)
    refused = await client.pay("k1", "R1", closed)
    assert (refused.status_code, refused.json()["code"]) == (422, "wallet_closed")
    assert (await client.pay("k1", "R1", closed)).status_code == 201
    await client.pay("k2", "R2", failing)
    await client.pay("k3", "R3", returning)
    await eventually(lambda: len(receiver.heard) == 3)
    await client.control("clock", advance_seconds=61)
    await eventually(lambda: len(receiver.heard) == 4)
    kinds = {(heard.event["data"]["reference"], heard.event["type"]) for heard in receiver.heard}
    assert kinds == {
        ("R1", "payout.paid"), ("R2", "payout.failed"), ("R3", "payout.paid"),
        ("R3", "payout.returned"),
    }  # fmt: skip
    failed = next(h.event["data"] for h in receiver.heard if h.event["type"] == "payout.failed")
    assert failed["failure_code"] == "wallet_blocked"
    books = await client.books()
    assert books["paid_minor"] == {"EUR": 123}
    assert books["payees"][returning]["returned_minor"] == 123
    assert failing not in books["payees"]
    assert books["wallet"]["EUR"]["available_minor"] == 100_000 - 123
    assert books["proven"]


async def test_settlement_equals_the_books_and_never_changes(client: Client) -> None:
    await client.control("oracle", payee=BOB, outcome="return")
    await client.pay("k1", "R1", ADA, amount="10.00")
    await client.pay("k2", "R2", BOB, amount="20.00")
    await eventually(lambda: _returned(client, 1))
    assert (await client.get("/v1/settlements")).json() == {"data": []}
    closed = await client.control("close-day", advance=True)
    listed = (await client.get("/v1/settlements")).json()["data"]
    assert listed == closed["settlements"]
    file = await client.get("/v1/settlements/2026-01-05/EUR.csv")
    assert hashlib.sha256(file.content).hexdigest() == listed[0]["sha256"]
    rows = [line.split(",") for line in file.text.splitlines()]
    assert rows[0] == ["line", "kind", "id", "reference", "amount", "fee", "currency", "booked_at"]
    assert len(rows) - 1 == listed[0]["lines"] == 5
    assert len({row[0] for row in rows}) == len(rows)
    assert [row[1] for row in rows[1:]] == ["opening", "payout", "payout", "return", "closing"]
    amounts = [int(row[4].replace(".", "")) for row in rows[1:]]
    assert sum(amounts[:-1]) == amounts[-1]
    assert amounts[-1] == (await client.books())["wallet"]["EUR"]["balance_minor"] == 99_000
    await client.control("close-day", date="2026-01-05", advance=True)
    await client.pay("k3", "R3", ADA, amount="1.00")
    assert (await client.get("/v1/settlements/2026-01-05/EUR.csv")).content == file.content
    await client.settled()
    await client.control("close-day")
    second = (await client.get("/v1/settlements/2026-01-06/EUR.csv")).text.splitlines()
    assert [line.split(",")[4] for line in second[1:]] == ["990.00", "-1.00", "989.00"]


async def test_settlement_differences_on_request(client: Client) -> None:
    for number in range(5):
        await client.pay(f"k{number}", f"R{number}", ADA, amount="10.00")
    await client.settled()
    await client.control(
        "faults", settlement_omit=1, settlement_alter=1, settlement_duplicate=1, balance_short=True
    )
    assert (await client.get("/v1/balance")).json()["balances"][0]["available"] == "949.00"
    await client.control("close-day")
    text = (await client.get("/v1/settlements/2026-01-05/EUR.csv")).text
    rows = [line.split(",") for line in text.splitlines()[1:]]
    payouts = [row for row in rows if row[1] == "payout"]
    assert len(payouts) == 5
    assert len({row[3] for row in payouts}) == 4
    assert sorted(row[4] for row in payouts) == ["-10.00"] * 4 + ["-11.00"]
    assert len({row[0] for row in rows}) == len(rows)
    assert rows[-1][4] == "949.00"
    assert (await client.books())["wallet"]["EUR"]["balance_minor"] == 95_000


async def test_what_is_pending_at_the_close_belongs_to_the_next_day(client: Client) -> None:
    await client.control("faults", paid_after_seconds=600)
    await client.pay("k1", "R1", ADA)
    await client.control("close-day")
    await client.control("clock", advance_seconds=601)
    await client.settled()
    await client.control("close-day")
    first = (await client.get("/v1/settlements/2026-01-05/EUR.csv")).text
    second = (await client.get("/v1/settlements/2026-01-06/EUR.csv")).text
    assert ",payout," not in first
    assert ",R1,-1.23," in second


async def test_a_fee_is_taken_on_top(client: Client) -> None:
    await client.control(
        "wallet-merchant", currency="EUR", iban=PSP, opening_balance="0.00", fee="0.25"
    )
    assert (await client.pay("k1", "R1", ADA)).json()["fee"] == "0.25"
    await client.settled()
    await client.control("close-day")
    rows = (await client.get("/v1/settlements/2026-01-05/EUR.csv")).text.splitlines()
    assert rows[2].split(",")[3:6] == ["R1", "-1.23", "0.25"]
    assert rows[-1].split(",")[4] == "998.52"
    assert (await client.books())["proven"]


async def test_control_refuses_nonsense(client: Client) -> None:
    async def status(path: str, **body: object) -> int:
        return (await client.http.post(f"/_control/{path}", json=body)).status_code

    outside = "http://192.0.2.1/"
    assert await status("wallet-merchant", currency="EUR", iban=PSP, opening_balance="0.00",
                        webhook_url=outside) == 400  # fmt: skip
    assert await status("accounts", iban="DE00123", currency="EUR", opening_balance="0.00",
                        holder="X") == 400  # fmt: skip
    assert await status("accounts", iban=OURS, currency="USD", opening_balance="0.00",
                        holder="X") == 409  # fmt: skip
    assert await status("oracle", payee=ADA, outcome="explode") == 400
    assert await status("close-day", date="2027-01-01") == 409
    assert await status("close-day", date="yesterday") == 400
    assert await status("incoming", iban=iban(99), amount="1.00", currency="EUR",
                        remittance="x", debtor_name="S", id="i1") == 404  # fmt: skip
    assert await status("clock", set="2026-01-05T00:00:00") == 400
    assert (await client.http.get("/nothing")).json()["code"] == "not_found"


async def _returned(client: Client, number: int) -> bool:
    return (await client.books())["wallet"]["EUR"]["returned"] == number
