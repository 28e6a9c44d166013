"""WeChat's transfers from end to end: they wait for their payee, who accepts, refuses or forgets.

The rail, its dispatcher and the books are ours; the provider is the sandbox, with books of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tests.awaiting import kept, show, take_back
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_world import WeChatHarness
from tests.payouts import Payouts, approved, new_sealer, payout_world
from tests.withdrawals import BANK, CAMPAIGN, Earner, assert_proven
from tests.world import PostgresServer

from paymaster.db.tx import CellTx
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.people import destinations
from paymaster.people.users import Upsert, put

NAME = "wx-transfer-bills"


@dataclass
class Both:
    """We, with a rail account at WeChat Pay, and WeChat."""

    payouts: Payouts
    harness: WeChatHarness
    found: Outside

    async def waiting(self, number: int = 1) -> int:
        """A withdrawal of 30 yuan that its payee has to accept."""
        payee = self.harness.add_user(number, behaviour="wait")
        earner = await self._earner(number, payee.details["openid"], payee.details["appid"])
        withdrawal = await approved(self.payouts, earner, "30.00")
        await self.payouts.run(self.payouts.dispatcher())
        # The provider may have taken it in before its payee can accept it: then it is asked about.
        await self.later(minutes=2)
        return withdrawal

    async def _earner(self, number: int, openid: str, appid: str) -> Earner:
        async def work(tx: CellTx) -> Earner:
            user_id, fund_id, reward_id = tx.ids(3)
            (made,) = await put(tx, self.payouts.sealer, [user_id], [Upsert(f"user-{number}")])
            assert made.slug is None
            view = await destinations.add(
                tx, self.payouts.sealer, user_id, "wechat", "CNY",
                {"openid": openid, "appid": appid}, cooling=timedelta(0),
            )  # fmt: skip
            money, nothing = Money.parse("100.00", "CNY"), Money.zero("CNY")
            reward = recipes.reward(
                CAMPAIGN, user_id, money, vests=False, owes=False, commission=nothing
            )
            entries = [
                Entry(fund_id, "fund", "x", recipes.fund(BANK, CAMPAIGN, money)),
                Entry(reward_id, "reward", "x", reward),
            ]
            assert all(each.done for each in await post(tx, entries))
            return Earner(user_id, view.ref.id, 1, "CNY")

        return await self.payouts.world.run(work)

    async def later(self, **time: float) -> None:
        self.payouts.world.clock.advance(timedelta(**time))
        await self.payouts.run(self.payouts.dispatcher())

    async def act(self, withdrawal: int, act: str) -> None:
        """What the payee does on the provider's page."""
        reference = await self.payouts.key_of(withdrawal)
        mchid = self.harness.account.settings["mchid"]
        await self.found.control(
            "/wechat/act", {"mchid": mchid, "reference": reference, "act": act}
        )

    async def until(self, withdrawal: int, state: str) -> None:
        """The provider needs a moment; then it is asked again."""
        for _ in range(50):
            await self.later(hours=1)
            if (await self.payouts.states(withdrawal))[0] == state:
                return
        raise AssertionError(await self.payouts.states(withdrawal))

    async def times_paid(self, withdrawal: int) -> int:
        books = await self.found.control("/wechat/books")
        references = books["references"]
        assert isinstance(references, dict)
        assert books["duplicates"] == []
        return int(references.get(await self.payouts.key_of(withdrawal), 0))


@pytest.fixture
async def both(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Both]:
    async with outside(tmp_path) as found, payout_world(postgres) as payouts:
        harness = await WeChatHarness.open(found, "transfer-bills", 1)
        payouts.sealer = new_sealer()
        payouts.rails["wechat-pay"] = harness.make_rail()
        account = harness.account
        await payouts.add_account(
            NAME, "wechat-pay", currency="CNY", settings=dict(account.settings),
            secrets=dict(account.secrets),
        )  # fmt: skip
        yield Both(payouts, harness, found)
        await assert_proven(payouts.world)


async def test_a_payee_accepts(both: Both) -> None:
    withdrawal = await both.waiting()
    assert await both.payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    shown = await show(both.payouts, withdrawal)
    assert shown.package
    assert shown.public["mchId"] == both.harness.account.settings["mchid"]
    assert await both.times_paid(withdrawal) == 0
    await both.act(withdrawal, "confirm")
    await both.until(withdrawal, "paid")
    assert await both.times_paid(withdrawal) == 1
    assert await kept(both.payouts) == 0


async def test_the_answer_is_lost_and_the_same_order_brings_the_package(both: Both) -> None:
    await both.harness.mishap("cut_after")
    withdrawal = await both.waiting()
    for _ in range(20):
        if await kept(both.payouts):
            break
        await both.later(minutes=2)
    assert await both.payouts.states(withdrawal) == ("awaiting_payee", ["awaiting_payee"])
    assert (await show(both.payouts, withdrawal)).package
    await both.act(withdrawal, "confirm")
    await both.until(withdrawal, "paid")
    assert await both.times_paid(withdrawal) == 1


async def test_its_user_takes_it_back(both: Both) -> None:
    withdrawal = await both.waiting()
    await take_back(both.payouts, withdrawal)
    await both.until(withdrawal, "failed")
    assert await both.times_paid(withdrawal) == 0
    assert await both.payouts.states(withdrawal) == ("failed", ["rejected"])


async def test_nobody_accepts_and_the_provider_closes_it(both: Both) -> None:
    withdrawal = await both.waiting()
    await both.later(hours=30)
    state, _ = await both.payouts.states(withdrawal)
    assert state == "awaiting_payee", "the provider has not closed it yet"
    await both.found.go_on(26 * 3600)
    await both.until(withdrawal, "failed")
    assert await both.times_paid(withdrawal) == 0
    reason = await both.payouts.value("SELECT reason FROM withdrawal WHERE id = %s", withdrawal)
    assert reason == "OVERDUE_CLOSE"
