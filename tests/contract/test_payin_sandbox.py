"""A sponsor pays for a campaign, from the request to the books, over the sandboxes of both wallets.

Each test ends with the same question: do our books hold what the provider holds for us?
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.payin_sandboxes import Trading, trading
from tests.contract.payin_sides import OPENING
from tests.world import PostgresServer

from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.errors import Refusal, Unauthenticated
from paymaster.kernel.money import Money
from paymaster.rails.payin import Charge, TakesPayments


@pytest.fixture(params=sorted(OPENING))
async def both(
    postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Trading]:
    async with trading(postgres, tmp_path, request.param) as found:
        yield found
        await found.proven()


async def test_a_sponsor_pays_and_is_told_of_twice_and_late(both: Trading) -> None:
    topup = await both.topup("100.00")
    assert topup["state"] == "open"
    assert await both.budget() == 0
    await both.side.twice_and_late(120)
    assert await both.pay(topup)
    # The look-up is quicker than the message.
    paid = await both.state(topup, "paid")
    assert await both.budget() == 10_000
    assert paid["checkout"] is None
    assert not both.messages.heard
    await both.later(seconds=120)
    for one in await both.heard(2):
        assert 200 <= one.status < 300
    await both.rounds()
    assert await both.budget() == 10_000
    assert await both.see(topup) == paid
    assert not await both.side.pay(topup["reference"], topup["checkout"]["content"])


async def test_a_message_is_enough(both: Trading) -> None:
    topup = await both.topup("0.01")
    assert await both.pay(topup)
    await both.heard(1)
    await both.rounds()
    assert (await both.see(topup))["state"] == "paid"
    assert await both.budget() == 1
    await both.later(hours=3)
    assert await both.budget() == 1


async def test_a_lost_message_is_made_up_for_by_asking(both: Trading) -> None:
    topup = await both.topup("7.00")
    await both.side.lost()
    assert await both.pay(topup)
    await both.state(topup, "paid")
    assert not both.messages.heard
    assert await both.budget() == 700


async def test_money_is_given_back_in_parts(both: Trading) -> None:
    topup = await both.topup("50.00")
    assert await both.pay(topup)
    await both.state(topup, "paid")
    await both.give_back(topup, "20.00")
    assert await both.budget() == 3_000
    await both.give_back(topup)
    assert await both.budget() == 0

    async def given() -> bool:
        return [one["state"] for one in await both.refunds(topup)] == ["done", "done"]

    await both.until(given, f"it is not given back: {await both.refunds(topup)}")
    assert both.side.books() == (5_000, 5_000)
    answer = await both.served.refused(
        422, "refund-too-much", "POST", f"/v1/topups/{topup['id']}/refunds",
        {"reason": "again"}, headers={"Idempotency-Key": "again"},
    )  # fmt: skip
    assert answer["status"] == 422
    await both.later(hours=30)
    assert (await both.see(topup))["state"] == "paid"
    assert await both.budget() == 0


@pytest.mark.parametrize("what", ["refund", "ask-refund"])
async def test_a_refund_whose_answer_is_lost_is_made_once(both: Trading, what: str) -> None:
    topup = await both.topup("50.00")
    assert await both.pay(topup)
    await both.state(topup, "paid")
    await both.side.cut(what)
    await both.give_back(topup, "20.00")

    async def given() -> bool:
        return [one["state"] for one in await both.refunds(topup)] == ["done"]

    await both.until(given, f"it is not given back: {await both.refunds(topup)}")
    assert both.side.books() == (5_000, 2_000)


async def test_what_nobody_pays_is_closed(both: Trading) -> None:
    topup = await both.topup("10.00", lasts_seconds=600)
    content = topup["checkout"]["content"]
    closed = await both.state(topup, "closed")
    assert closed["checkout"] is None
    assert not await both.side.pay(topup["reference"], content)
    await both.later(hours=1)
    assert (await both.see(topup))["state"] == "closed"
    assert await both.budget() == 0


async def test_who_pays_while_it_is_being_closed_is_credited(both: Trading) -> None:
    topup = await both.topup("10.00")
    await both.served.ok("POST", f"/v1/topups/{topup['id']}/close")
    assert (await both.see(topup))["checkout"] is None
    await both.side.lost()
    assert await both.pay(topup)
    await both.state(topup, "paid")
    assert await both.budget() == 1_000


async def test_the_answer_to_the_opening_is_lost_and_the_same_charge_is_found_again(
    both: Trading,
) -> None:
    if both.side.method == "alipay-page":
        pytest.skip("opening a page asks nobody")
    await both.side.cut("open")
    topup = await both.topup("10.00")
    assert topup["state"] == "unknown"
    topup = await both.state(topup, "open")
    assert await both.pay(topup)
    await both.state(topup, "paid")
    assert await both.budget() == 1_000


async def test_another_amount_than_ours_is_credited_to_nobody(both: Trading) -> None:
    """Something else of the merchant uses our number, and somebody pays that."""
    asked = await both.ask("100.00")
    rail = both.served.deps.rails[both.side.account.rail]
    assert isinstance(rail, TakesPayments)
    charge = Charge(
        asked["reference"], Money(1, "CNY"), both.side.method, "预算",
        parse_rfc3339(asked["created_at"]), parse_rfc3339(asked["expires_at"]),
        client_ip="127.0.0.1",
    )  # fmt: skip
    checkout = await rail.open_charge(both.side.account, charge)
    await both.rounds()
    assert checkout.content is not None
    assert await both.side.pay(charge.key, checkout.content)
    disputed = await both.state(asked, "disputed")
    assert disputed["code"] == "amount-differs"
    assert await both.budget() == 0
    await both.later(hours=3)
    assert (await both.see(asked))["state"] == "disputed"
    assert await both.budget() == 0
    assert both.side.books() == (1, 0)
    both.unclaimed = 1


async def test_lies_beside_the_truth_are_refused(both: Trading) -> None:
    topup = await both.topup("30.00")
    lies = await both.side.lied()
    assert await both.pay(topup)
    heard = await both.heard(1 + lies)
    assert len(heard) == 1 + lies
    assert sum(200 <= one.status < 300 for one in heard) == 1
    await both.rounds()
    assert (await both.see(topup))["state"] == "paid"
    assert await both.budget() == 3_000


def altered(body: bytes) -> bytes:
    """With another letter or digit in its middle."""
    place = next(at for at in range(len(body) // 2, len(body)) if body[at : at + 1].isalnum())
    other = b"7" if body[place : place + 1] != b"7" else b"8"
    return body[:place] + other + body[place + 1 :]


async def test_a_true_message_does_not_pay_another_charge(both: Trading) -> None:
    first, second = await both.topup("30.00"), await both.topup("30.00")
    await both.side.lost()
    assert await both.pay(first)
    await both.state(first, "paid")
    third = await both.topup("30.00")
    assert await both.pay(third)
    (true,) = await both.heard(1)
    keys = third["reference"].encode(), second["reference"].encode()
    headers = {
        name: value
        for name, value in true.headers.items()
        if name not in {"host", "content-length"}
    }
    for body in (true.body.replace(*keys), altered(true.body), b""):
        answer = await both.served.hooks.post(true.path, content=body, headers=headers)
        assert (answer.status_code == 200) == (body == true.body), body
    again = await both.served.hooks.post(true.path, content=true.body, headers=headers)
    assert 200 <= again.status_code < 300
    await both.rounds()
    assert (await both.see(second))["state"] == "open"
    assert await both.budget() == 6_000


async def test_a_message_for_another_account_of_ours_is_refused(both: Trading) -> None:
    topup = await both.topup("30.00")
    assert await both.pay(topup)
    (true,) = await both.heard(1)
    await both.rounds()
    account = both.side.account
    other = {
        "alipay": {"app_id": "2000000000000777", "seller_id": "2088000000000777"},
        "wechat-pay": {"mchid": "1900000777"},
    }[account.rail]
    wrong = replace(account, settings={**account.settings, **other})
    rail = both.served.deps.rails[account.rail]
    assert isinstance(rail, TakesPayments)
    headers = {name.lower(): value for name, value in true.headers.items()}
    with pytest.raises((Refusal, Unauthenticated)) as caught:
        rail.read_payin_webhook(wrong, headers, true.body, both.found.clock.now())
    assert caught.value.slug in {"webhook-malformed", "webhook-signature"}


async def test_whatever_goes_wrong_everybody_is_credited_once(both: Trading) -> None:
    await both.side.chaos(30)
    topups = [await both.ask(f"{number}.00") for number in range(1, 9)]
    asked = 0
    for _ in range(40):
        if asked > 1:
            break
        await both.later(seconds=20)
        for topup in [await both.see(each) for each in topups[::2]]:
            if topup["state"] == "open" and topup["checkout"] is not None:
                await both.pay(topup)
            elif topup["state"] == "paid" and not Money.parse(topup["refunded"]["amount"], "CNY"):
                asked += 1
                await both.give_back(topup, f"0.0{asked}")
    await both.later(seconds=20)
    await both.side.chaos(0)

    async def settled() -> bool:
        refunds = [one for topup in topups for one in await both.refunds(topup)]
        shown = [await both.see(topup) for topup in topups]
        return {one["state"] for one in shown} <= {"paid", "closed"} and {
            one["state"] for one in refunds
        } <= {"done"}

    for _ in range(12):
        await both.later(minutes=20)
        if await settled():
            break
    assert await settled(), [await both.see(topup) for topup in topups]
    taken, given = both.side.books()
    shown = [await both.see(topup) for topup in topups]
    paid = [Money.parse(one["amount"]["amount"], "CNY").minor
            for one in shown if one["state"] == "paid"]  # fmt: skip
    assert sum(paid) == taken
    assert 0 < given < taken, (given, taken)
