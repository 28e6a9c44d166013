"""What came back is told as the books have it: with its fee or without, and what a debt took."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.explaining import EN, ZH, asked
from tests.served import Served, serve
from tests.withdrawals import bring
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import parse_text_id
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post

pytestmark = pytest.mark.asyncio(loop_scope="module")
PLAN = {"based_on": 0, "currency": "EUR", "flat": "0.50", "fee_on_return": "given_back"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: PostgresServer, tmp_path_factory: Any) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("came-back")
    async with serve(postgres, folder) as found:
        await found.ok("PUT", "/v1/fee-plans/back", PLAN)
        yield found


def euro(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "EUR"}


async def owes(served: Served, user: str, amount: str) -> None:
    """A reward is taken back."""
    number = parse_text_id("us", user).id

    async def work(tx: CellTx) -> None:
        taken = recipes.reverse(1, number, Money.parse(amount, "EUR"), Money.zero("EUR"))
        [done] = await post(tx, [Entry(tx.id(), "reverse", "rw_x", taken)])
        assert done.done

    await served.world.run(work)


@pytest.mark.parametrize(
    ("state", "plan_gives_back", "amount"),
    [("returned", True, "13.00"), ("returned", False, "12.50"), ("failed", False, "13.00")],
)
async def test_what_came_back_is_what_the_balance_has_more(
    served: Served, state: str, plan_gives_back: bool, amount: str
) -> None:
    plan = await served.ok("GET", "/v1/fee-plans/back")
    back = "given_back" if plan_gives_back else "kept"
    await served.ok(
        "PUT", "/v1/fee-plans/back", {**PLAN, "based_on": plan["version"], "fee_on_return": back}
    )
    name, _, number = await asked(served)
    await bring(served.world, number, state)
    [found] = (await served.ok("GET", f"/v1/users/{name}/money", headers=EN))["data"]
    [item] = found["returned"]["items"]
    assert (item["amount"], item["repaid"]) == (euro(amount), None)
    assert found["available"] == euro(str(Money.parse("7.00", "EUR") + Money.parse(amount, "EUR"))
                                      .removesuffix(" EUR"))  # fmt: skip


@pytest.mark.parametrize("state", ["returned", "failed", "denied", "cancelled"])
async def test_what_a_debt_took_of_it_is_not_said_to_be_in_the_balance(
    served: Served, state: str
) -> None:
    name, text, number = await asked(served)
    user = (await served.ok("GET", f"/v1/users/{name}"))["id"]
    await owes(served, user, "17.00")
    await bring(served.world, number, state)
    [found] = (await served.ok("GET", f"/v1/users/{name}/money", headers=EN))["data"]
    assert found["debt"]["total"] == euro("0.00")
    took = euro("10.00")
    for item in found["returned"]["items"]:
        assert item["repaid"] == took
    for headers, words in (
        (EN, "It is back in your balance. 10.00 EUR of it paid back what you owed."),
        (ZH, "款项已回到您的余额。其中 10.00 EUR 已用于偿还您的欠款。"),
    ):
        told = await served.ok("GET", f"/v1/withdrawals/{text}/explain", headers=headers)
        assert told["money"] == {"where": "back", "message": words, "repaid": took}
        assert "10.00 EUR" in told["history"][-1]["message"]
        assert "10.00 EUR" not in told["history"][-2]["message"]
    story = await served.ok("GET", f"/v1/withdrawals/{text}")
    last = story["entries"][-1]
    assert (last["kind"], last["amount"]) == ("recover", took)
