"""Money that the merchant's own people give back at the provider, behind our back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.payin_sandboxes import Trading, trading
from tests.world import PostgresServer

from paymaster.kernel.ids import new_trace_id
from paymaster.kernel.money import Money
from paymaster.rails.payin import RefundOrder, TakesPayments


@pytest.fixture(params=["alipay-qr", "wechat-v3"])
async def both(
    postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Trading]:
    async with trading(postgres, tmp_path, request.param) as found:
        yield found
        await found.proven()


async def test_what_was_given_back_in_the_portal_is_seen_and_ours_is_ended_by_hand(
    both: Trading,
) -> None:
    topup = await both.topup("50.00")
    assert await both.pay(topup)
    await both.state(topup, "paid")
    rail = both.served.deps.rails[both.side.account.rail]
    assert isinstance(rail, TakesPayments)
    whole = Money(5_000, "CNY")
    theirs = RefundOrder("PORTAL1", topup["reference"], whole, Money(3_000, "CNY"), "complaint")
    await rail.refund(both.side.account, theirs)
    await both.later(minutes=20)
    assert (await both.see(topup))["refunded"]["amount"] == "0.00"
    assert await both.budget() == 5_000, "nothing of ours was given back"
    ours = await both.give_back(topup)
    await both.later(minutes=20)
    (shown,) = await both.refunds(topup)
    assert shown["state"] == "unknown", "a no to an order is not believed"
    assert await both.budget() == 0
    one = f"/v1/topups/{topup['id']}/refunds/{ours['id']}"
    said = {"finding": "not_done", "reason": "the portal shows 30.00 given back"}
    ended = await both.served.ok("POST", f"{one}/decide", said)
    assert ended["state"] == "failed"
    assert await both.budget() == 5_000
    rest = {"reason": "what is left there", "amount": {"amount": "20.00", "currency": "CNY"}}
    headers = {"Idempotency-Key": new_trace_id()}
    path = f"/v1/topups/{topup['id']}/refunds"
    await both.served.ok("POST", path, rest, headers=headers)

    async def given() -> bool:
        return [each["state"] for each in await both.refunds(topup)] == ["failed", "done"]

    await both.until(given, f"it is not given back: {await both.refunds(topup)}")
    assert both.side.books() == (5_000, 5_000)
    await both.night()
    found = (await both.served.ok("GET", "/v1/reconciliation/breaks"))["data"]
    assert "-30.00" in {(each["found"] or {}).get("amount") for each in found}, found
    both.unclaimed = -3_000
