"""Where a user's money is: every part is what the books say."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.explaining import EN, ZH, asked, attempt, in_state, own
from tests.served import Served, credit, earner, serve
from tests.withdrawals import bring
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import parse_text_id
from paymaster.kernel.money import Money
from paymaster.withdraw.machine import WITHDRAWAL, Event
from paymaster.withdraw.moves import Step, move

pytestmark = pytest.mark.asyncio(loop_scope="module")
HAN = re.compile(r"[一-鿿]")
BEFORE_THE_RAIL = ["requested", "in_review", "challenged", "approved", "queued", "held"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: PostgresServer, tmp_path_factory: Any) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("explained")
    async with serve(postgres, folder) as found:
        yield found


# ------------------------------------------------------------------------------------ money


async def test_the_parts_of_a_users_money_are_the_books(served: Served) -> None:
    """Withdrawals in every state, and each sum is that of the account."""
    name = "everything"
    place = await earner(served, name, "1.00")
    user = (await served.ok("GET", f"/v1/users/{name}"))["id"]
    await credit(served, user, "300.00")
    where: dict[str, str] = {}
    for index, state in enumerate(sorted(WITHDRAWAL.states())):
        amount = {"amount": f"{index + 1}.00", "currency": "EUR"}
        made = await served.ok(
            "POST", "/v1/withdrawals",
            {"user": name, "destination": place["id"], "amount": amount},
            headers={"Idempotency-Key": f"all-{state}"},
        )  # fmt: skip
        number = parse_text_id("wd", made["id"]).id
        if state != "requested":
            await bring(served.world, number, state)
        if state == "paid":
            await attempt(served, number)
        where[state] = made["id"]
    found = await served.ok("GET", f"/v1/users/{name}/money", headers=EN)
    assert (found["user"], found["language"]) == (user, "en")
    [euro] = found["data"]

    def minor(money: dict[str, str]) -> int:
        return Money.parse(money["amount"], money["currency"]).minor

    async def books(kind: str) -> int:
        owner = parse_text_id("us", user).id
        return await served.world.read(
            lambda tx: tx.value(
                "SELECT balance FROM account WHERE kind = %s AND owner_id = %s", (kind, owner)
            )
        )

    assert minor(euro["available"]) == await books("available")
    held, sent = minor(euro["held"]["total"]), minor(euro["sent"]["total"])
    assert held + sent == await books("held")
    assert held == sum(minor(item["amount"]) for item in euro["held"]["items"])
    under_way = [item for item in euro["sent"]["items"] if not item["paid"]]
    assert sent == sum(minor(item["total"]) for item in under_way)
    paid = [item for item in euro["sent"]["items"] if item["paid"]]
    assert [item["ref"] for item in paid] == [where["paid"]]
    assert minor(euro["in_transit"]) == sum(minor(item["amount"]) for item in paid)
    assert {item["ref"] for item in euro["held"]["items"]} == {
        where[state]
        for state in ("requested", "screening", "in_review", "challenged", "approved", "queued",
                      "held")
    }  # fmt: skip
    assert {item["ref"] for item in euro["returned"]["items"]} == {
        where["failed"], where["returned"],
    }  # fmt: skip
    seq = await served.world.read(lambda tx: tx.value("SELECT seq FROM head WHERE id = 1"))
    assert found["as_of_seq"] == seq
    [balance] = (await served.ok("GET", f"/v1/users/{name}/balances"))["data"]
    assert balance["in_transit"] == euro["in_transit"]
    assert sum(minor(one["amount"]) for one in balance["held"]) == held + sent
    assert balance["reserve"] == euro["reserve"]
    assert balance["as_of_seq"] == seq


async def test_what_is_booked_by_a_statement_is_in_transit_no_more(served: Served) -> None:
    name, _, number = await in_state(served, "sent")
    await attempt(served, number)
    await served.world.run(lambda tx: move(tx, [Step(number, Event.SETTLE)]))

    async def in_transit() -> str:
        found = await served.ok("GET", f"/v1/users/{name}/money", headers=EN)
        return found["data"][0]["in_transit"]["amount"]

    assert await in_transit() == "12.50"

    async def book(tx: CellTx) -> None:
        await tx.execute(
            "UPDATE attempt SET booked_on = %s WHERE withdrawal_id = %s", (tx.now.date(), number)
        )

    await served.world.run(book)
    assert await in_transit() == "0.00"


async def test_only_an_earner_has_money_of_his_own(served: Served) -> None:
    await served.refused(403, "earners-only", "GET", "/v1/me/money")
    name, _, _ = await asked(served)
    async with await own(served, name) as himself:
        answer = await himself.get("/v1/me/money", headers=ZH)
        same = await himself.get(f"/v1/users/{name}/money", headers=ZH)
        assert answer.json() == same.json()
        assert answer.json()["language"] == "zh-CN"
        other = await himself.get("/v1/users/everything/money")
        assert other.status_code == 404
