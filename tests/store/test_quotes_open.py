"""Quotes while they are open: when the money would arrive, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served, earner, serve
from tests.world import PostgresServer

EURO = {"amount": "1.00", "currency": "EUR"}
ZH = {"Accept-Language": "zh-CN"}
BANK = {
    "rail": "iso20022",
    "currency": "EUR",
    "settings": {
        "iban": "DE89370400440532013000",
        "holder": "Acme",
        "transport": "directory",
        "outgoing": "out",
        "incoming": "in",
    },
}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path, fx={"open_quotes_per_user": 2}) as found:
        yield found


async def quoted(served: Served, name: str, destination: str) -> Any:
    body = {"user": name, "destination": destination, "amount": EURO}
    return await served.api.post("/v1/quotes", json=body)


async def used(served: Served, key: str, name: str, quote: Any) -> Any:
    body = {"user": name, "destination": quote["destination"], "amount": EURO, "quote": quote["id"]}
    headers = {"Idempotency-Key": key}
    return await served.ok("POST", "/v1/withdrawals", body, headers=headers)


async def test_a_quote_says_when_the_money_would_arrive(served: Served) -> None:
    destination = (await earner(served, "anna"))["id"]
    made = (await quoted(served, "anna", destination)).json()
    unknown = {"by": None, "late": False, "message": "No time can be told yet."}
    assert (made["language"], made["expected"]) == ("en", unknown), "nobody pays to an IBAN here"
    await served.ok("PUT", "/v1/rail-accounts/bank", {**BANK, "payout_window": "14:30 target"})
    path = f"/v1/quotes/{made['id']}"
    read = await served.ok("GET", path)
    # On Friday at 14:30 UTC the file leaves, before the cut-off; the next business day is Monday.
    assert read["expected"]["by"] == "2026-11-23T23:59:59.000Z"
    assert read["expected"]["message"] == "Expected by 2026-11-23 23:59 UTC."
    chinese = await served.api.get(path, headers=ZH)
    assert chinese.headers["content-language"] == "zh-CN"
    assert chinese.json()["expected"]["message"] == "预计不晚于 2026-11-23 23:59 UTC 到账。"
    served.world.clock.advance(timedelta(minutes=14, seconds=59))
    assert (await served.ok("GET", path))["expected"] == read["expected"]

    other = (await quoted(served, "anna", destination)).json()
    assert other["expected"] == read["expected"], "the first answer says it too"
    withdrawal = await used(served, "one", "anna", other)
    explained = await served.ok("GET", f"/v1/withdrawals/{withdrawal['id']}/explain")
    assert explained["expected"] == read["expected"], "and so does the withdrawal itself"
    assert (await served.ok("GET", f"/v1/quotes/{other['id']}"))["expected"] is None, "it is used"
    served.world.clock.advance(timedelta(seconds=1))
    assert (await served.ok("GET", path))["expected"] is None, "it has expired"


async def test_only_so_many_quotes_of_a_user_are_open(served: Served) -> None:
    one, other = (await earner(served, "anna"))["id"], (await earner(served, "berta"))["id"]
    clock = served.world.clock
    assert (await quoted(served, "anna", one)).status_code == 201
    clock.advance(timedelta(seconds=100))
    assert (await quoted(served, "anna", one)).status_code == 201
    refused = await quoted(served, "anna", one)
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-quotes")
    assert refused.headers["retry-after"] == "800"
    assert (await quoted(served, "berta", other)).status_code == 201, (
        "those of another user are not"
    )

    clock.advance(timedelta(seconds=799))
    assert (await quoted(served, "anna", one)).headers["retry-after"] == "1"
    clock.advance(timedelta(seconds=1))
    third = await quoted(served, "anna", one)
    assert third.status_code == 201, "the first has expired"
    assert (await quoted(served, "anna", one)).headers["retry-after"] == "100"
    await used(served, "third", "anna", third.json())
    answers = await asyncio.gather(*(quoted(served, "anna", one) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [201, *[429] * 4]
