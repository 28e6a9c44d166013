"""Bills of WeChat Pay and Alipay against our books, over days: nothing is left for a person.

Everything that really happens to payments happens here, much of it around midnight: payees accept,
forget, refuse, are late; payments are taken back, fail, are returned; accounts are topped up.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.awaiting import take_back
from tests.contract.bill_world import ALIPAY, WECHAT, BillWorld, bill_world
from tests.withdrawals import assert_proven
from tests.world import PostgresServer

HOUR = 3600


class Story:
    """Payments by what is to become of them."""

    def __init__(self, world: BillWorld) -> None:
        self.world = world
        self.ends: dict[int, str] = {}

    async def pay(self, kind: str, amount: str, end: str, **how: object) -> int:
        made = await self.world.pay(kind, amount, **how)
        self.ends[made] = end
        return made

    async def over_alipay(self) -> None:
        """One is paid at once, two later, one fails at night, one is sent back after a day."""
        world = self.world
        for place, (fate, end, seconds) in enumerate(
            [
                ("", "paid", 0),
                ("slow", "paid", 16 * HOUR),
                ("reject", "failed", 0),
                ("fail", "failed", 15 * HOUR),
                ("return", "returned", 30 * HOUR),
                ("return", "returned", 0),
            ]
        ):
            made = await self.pay(ALIPAY, f"{20 + place}.5{place}", end)
            if fate:
                await world.fate(made, fate, seconds)

    async def checked(self) -> None:
        """Our states, our books, and the providers' books say the same."""
        world = self.world
        states = {one: await world.state(one) for one in self.ends}
        assert states == self.ends
        for one, end in self.ends.items():
            assert await world.times_paid(one) == (end in {"paid", "returned"})
        for kind in (WECHAT, ALIPAY):
            account = world.account(kind).id
            cash = await world.in_books("cash", kind)
            assert cash == await world.balance(kind)
            assert cash == await world.value(
                "SELECT sum(amount - fee)::bigint FROM statement_line WHERE rail_account_id = %s",
                account,
            ) + await world.value(
                "SELECT opening FROM statement WHERE rail_account_id = %s ORDER BY day LIMIT 1",
                account,
            )
            assert await world.in_books("clearing", kind) == 0
            assert await world.in_books("suspense", kind) == 0
        assert await world.ever() == []
        await world.desk.assert_proven()
        await assert_proven(world.payouts.world)


async def set_apart(world: BillWorld) -> int:
    """What bills show as gone of payments that have no end, or ended without their payee."""
    return await world.value(
        "SELECT coalesce(sum(CASE WHEN booked_on IS NULL THEN 0 ELSE amount END"
        " - CASE WHEN returned_on IS NULL THEN 0 ELSE amount END), 0)::bigint FROM attempt"
        " WHERE rail_account_id = %s AND state NOT IN ('paid', 'returned')",
        world.account(WECHAT).id,
    )


async def unbooked(world: BillWorld) -> int:
    """What is paid and on no bill yet."""
    return await world.value(
        "SELECT coalesce(sum(amount), 0)::bigint FROM attempt"
        " WHERE rail_account_id = %s AND state = 'paid' AND booked_on IS NULL",
        world.account(WECHAT).id,
    )


@pytest.mark.parametrize("source", ["log", "csv"])
async def test_payees_who_accept_forget_refuse_or_are_late(
    postgres: PostgresServer, tmp_path: Path, source: str
) -> None:
    async with bill_world(postgres, tmp_path, source=source, topups="own") as world:
        story = Story(world)
        first = world.today()
        for place in range(4):
            await story.pay(WECHAT, f"1{place}.01", "paid", behaviour="confirm")
        await story.pay(WECHAT, "16.03", "failed", behaviour="wait")
        await story.pay(WECHAT, "17.04", "failed", behaviour="refuse")
        broken = await story.pay(WECHAT, "18.05", "failed")
        await world.fate(broken, "fail")
        await story.over_alipay()
        await world.ask()
        await world.until(15)
        late = await story.pay(WECHAT, "15.02", "paid", behaviour="wait")
        await world.until(23, 40)
        at_midnight = await story.pay(WECHAT, "19.06", "paid", behaviour="wait")
        taken_back = await story.pay(WECHAT, "20.07", "failed", behaviour="wait")
        refused = await story.pay(WECHAT, "21.08", "failed", behaviour="wait")
        await world.until(23, 50)
        assert await world.state(at_midnight) == "awaiting_payee"

        await world.until(0, 20, days=1)
        await world.act(at_midnight, "confirm")
        await world.act(refused, "refuse")
        await take_back(world.payouts, taken_back)
        await world.until(9)
        await world.reconcile()
        assert await world.value("SELECT count(*) FROM statement WHERE day = %s", first) < 2, (
            "WeChat's bill is not ready before ten"
        )
        await world.until(11)
        await world.reconcile()
        assert await world.state(late) == "awaiting_payee", "its line is on the bill, and no proof"
        assert await world.breaks() == []
        assert await set_apart(world) == 1502 + 1603 + 2007 + 2108
        assert await world.in_books("clearing", WECHAT) == -1502 - 1603 - 2007 - 2108
        await world.desk.assert_proven()
        await world.close(first)

        await world.act(late, "confirm")
        await world.top_up(WECHAT, 50_000)
        await world.top_up(ALIPAY, 70_000)
        await story.pay(WECHAT, "22.09", "paid", behaviour="confirm")
        for _ in range(4):
            await world.morning()
            assert await world.breaks() == []
            clearing = await unbooked(world) - await set_apart(world)
            assert await world.in_books("clearing", WECHAT) == clearing
            await world.desk.assert_proven()
        await story.checked()
        for place in range(1, 3):
            await world.close(first + timedelta(days=place))


@pytest.mark.parametrize("product", ["batches", "authorised", "transfers-v2"])
async def test_products_whose_payees_are_not_asked(
    postgres: PostgresServer, tmp_path: Path, product: str
) -> None:
    """Their money is set apart as well, and what fails comes back, at times on another day."""
    async with bill_world(postgres, tmp_path, product, topups="own") as world:
        story = Story(world)
        first = world.today()
        for place in range(6):
            await story.pay(WECHAT, f"1{place}.01", "paid")
        for amount in ("30.30", "40.40"):
            failing = await story.pay(WECHAT, amount, "failed")
            await world.fate(failing, "fail")
        await story.over_alipay()
        await world.ask()
        await world.until(23, 30)
        await world.found.control("/wechat/settings", {"paid_seconds": 2 * HOUR})
        slow = await story.pay(WECHAT, "50.50", "paid")
        failing = await story.pay(WECHAT, "60.60", "failed")
        await world.fate(failing, "fail")
        await world.ask()
        await world.top_up(WECHAT, -10_000)
        assert await world.state(slow) not in {"paid", "failed"}
        await world.until(11, days=1)
        await world.found.control("/wechat/settings", {"paid_seconds": 0})
        await world.reconcile()
        assert await world.breaks() == []
        apart = await set_apart(world)
        assert apart in {6060, 6060 + 3030 + 4040}, "the old product tries those again at night"
        assert await world.in_books("clearing", WECHAT) == -apart
        await world.close(first)
        await story.pay(WECHAT, "70.70", "paid")
        for _ in range(3):
            await world.morning()
            assert await world.breaks() == []
        await story.checked()
