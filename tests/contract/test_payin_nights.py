"""The provider's own bill of a day against what we were told during it, over both sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.payin_sandboxes import Trading, trading
from tests.world import PostgresServer

from paymaster.db.tx import CellRead
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account


@pytest.fixture(params=["alipay-qr", "wechat-v3"])
async def both(
    postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Trading]:
    async with trading(postgres, tmp_path, request.param) as found:
        yield found
        await found.proven()


async def incoming(both: Trading) -> int:
    """What the books expect on a bill, in fen."""

    async def work(tx: CellRead) -> int:
        number = await tx.value("SELECT max(rail_account_id) FROM charge")
        return -await account_balance(tx, Account("incoming", number, "CNY"))

    return await both.served.world.read(work)


async def breaks(both: Trading) -> list[tuple[str, str]]:
    """What does not match, but for the money that was at the provider before."""
    found = (await both.served.ok("GET", "/v1/reconciliation/breaks"))["data"]
    return [
        (one["kind"], one["detail"])
        for one in found
        if (one["found"] or {}).get("amount") not in {"1000000.00", "100000.00"}
    ]


async def test_a_bill_books_what_came_and_what_went_back(both: Trading) -> None:
    first, second = await both.topup("100.00"), await both.topup("50.00")
    for topup in (first, second):
        assert await both.pay(topup)
        await both.state(topup, "paid")
    await both.give_back(first, "30.00")

    async def given() -> bool:
        return [one["state"] for one in await both.refunds(first)] == ["done"]

    await both.until(given, "it is not given back")
    assert await incoming(both) == 12_000
    await both.night()
    assert await breaks(both) == []
    assert await incoming(both) == 0
    assert await both.budget() == 12_000


async def test_the_bill_credits_what_nobody_told_of(both: Trading) -> None:
    topup = await both.topup("80.00")
    await both.side.lost()
    assert await both.pay(topup)
    assert await both.budget() == 0
    await both.night()
    assert (await both.see(topup))["state"] == "paid"
    assert await both.budget() == 8_000
    assert await breaks(both) == []
    assert await incoming(both) == 0
    await both.later(hours=1)
    assert await both.budget() == 8_000
