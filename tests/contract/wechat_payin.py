"""What the tests of pay-in over WeChat share: a merchant that takes money, and a payer's hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

from tests.contract.checking import patiently
from tests.contract.harness import Delivery
from tests.contract.sandboxes import MakeRail, Outside
from tests.contract.wechat_world import WeChatHarness

from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import reference, time_floor
from paymaster.kernel.money import Money
from paymaster.rails.payin import (
    Charge,
    ChargeOutcome,
    PayInNotice,
    RefundOrder,
    RefundOutcome,
    RefundVerdict,
)
from paymaster.rails.wechat.rail import WeChatPayRail
from paymaster_sandbox.wechat import parties

VERSIONS = {
    "v3": {"payin": "v3"},
    "v2": {"payin": "v2"},
    "v2-md5": {"payin": "v2", "payin_sign": "MD5"},
}
"""The same charges over either API, and over the old one with either digest."""

ORDER_CALLS = {"v3": "order", "v2": "order2"}
REFUND_CALLS = {"v3": "refund", "v2": "refund2"}
TRADE_STATES = "SELECT state FROM wechat_order WHERE mchid = ? AND out_no = ?"


class Till:
    """One merchant's pay-in, over one version of the API."""

    def __init__(self, harness: WeChatHarness) -> None:
        self.harness = harness
        self.account = harness.account
        self.outside = harness.outside
        self.mchid = harness.account.settings["mchid"]
        self.version = harness.account.settings["payin"]
        self.rail = self.make_rail()
        self._heard = len(self.outside.came)

    @classmethod
    async def open(
        cls, found: Outside, name: str, number: int, make: MakeRail | None = None
    ) -> Till:
        """A new merchant with money to give back."""
        balances = {"OPERATION": 0, "BASIC": 10**7}
        harness = await WeChatHarness.open(found, "transfer-bills", number, balances=balances)
        only = {"product": "none", "bill_account": "BASIC"}
        settings = {**harness.account.settings, **only, **VERSIONS[name]}
        account = replace(harness.account, settings=settings, name=f"till-{name}")
        return cls(WeChatHarness(found, account, harness.kept, make))

    def make_rail(self) -> WeChatPayRail:
        """The rail under test, made anew."""
        made = self.harness.make_rail()
        assert isinstance(made, WeChatPayRail)
        return made

    def key(self) -> str:
        """A number that was never used, made now."""
        at = time_floor(milliseconds(self.harness.now()))
        return reference(1, at + next(self.outside.numbers))

    def charge(self, method: str = "wechat-native", fen: int = 1234, **more: Any) -> Charge:
        """A payment to ask for, for half an hour."""
        now = self.harness.now().replace(microsecond=0)
        given: dict[str, Any] = {
            "key": self.key(), "amount": Money(fen, "CNY"), "method": method,
            "description": "充值 Budget", "created_at": now,
            "expires_at": now + timedelta(minutes=30), **more,
        }  # fmt: skip
        return Charge(**given)

    async def opened(self, **more: Any) -> Charge:
        """A charge that the provider has."""
        charge = self.charge(**more)
        await self.rail.open_charge(self.account, charge)
        return charge

    async def paid(self, **more: Any) -> Charge:
        """A charge that somebody has paid."""
        charge = await self.opened(**more)
        await self.pay(charge.key)
        return charge

    async def pay(self, key: str, payer: str | None = None) -> None:
        """Somebody pays."""
        body = {"kind": "order", "act": "pay", "mchid": self.mchid, "reference": key}
        await self.outside.control("/wechat/act", {**body, "reason": payer})

    def back(self, charge: Charge, fen: int | None = None, **more: Any) -> RefundOrder:
        """Money to be given back: all of it, or a part."""
        amount = charge.amount if fen is None else Money(fen, "CNY")
        given: dict[str, Any] = {
            "key": self.key(), "charge_key": charge.key, "charged": charge.amount,
            "amount": amount, "reason": "Campaign closed", **more,
        }  # fmt: skip
        return RefundOrder(**given)

    async def mishap(self, call: str, kind: str, **more: object) -> None:
        """Something goes wrong with `order.query` and the like, in the version at hand."""
        family, _, verb = call.partition(".")
        old = family if self.version == "v3" else f"{family}2"
        await self.harness.mishap(kind, f"{old}.{verb}", **more)

    def truth(self, key: str) -> str | None:
        """The state of an order in the provider's own books; None if there is none."""
        with self.outside.world.chassis.tx() as tx:
            row = tx.one(TRADE_STATES, self.mchid, key)
        return None if row is None else str(row[0])

    def orders(self, key: str) -> int:
        """How many orders, refunds included, the provider has under a number."""
        with self.outside.world.chassis.tx() as tx:
            made = int(
                tx.value("SELECT count(*) FROM wechat_order WHERE mchid = ? AND out_no = ?",
                         self.mchid, key)
            )  # fmt: skip
            back = "SELECT count(*) FROM wechat_refund WHERE mchid = ? AND out_no = ?"
            return made + int(tx.value(back, self.mchid, key))

    def balance(self) -> int:
        """What the provider holds for the merchant, in fen."""
        with self.outside.world.chassis.tx() as tx:
            return parties.balance(tx, self.mchid, "BASIC")

    def deliveries(self) -> list[Delivery]:
        """What came to the address of pay-in since."""
        asked, came = self.outside.hooks.asked, self.outside.came
        since = len(came)
        new = list(zip(asked[self._heard : since], came[self._heard : since], strict=True))
        self._heard = since
        path = f"/{self.mchid}/payins"
        return [Delivery(one.headers, one.body, at) for one, at in new if one.path == path]

    def read(self, one: Delivery) -> list[PayInNotice]:
        """What a delivery says. Raises as the rail does."""
        return list(self.rail.read_payin_webhook(self.account, one.headers, one.body, one.at))

    async def told(self, key: str) -> ChargeOutcome | RefundOutcome:
        """What the first notice about a number says."""
        found: list[ChargeOutcome | RefundOutcome] = []

        async def heard() -> bool:
            said = [notice.about for one in self.deliveries() for notice in self.read(one)]
            found.extend(about for about in said if about.key == key)
            return bool(found)

        await patiently(heard, "no notice came")
        return found[0]

    async def refunded(self, order: RefundOrder) -> RefundOutcome:
        """What became of a refund, once it has an end."""
        found: list[RefundOutcome] = []

        async def ended() -> bool:
            found.append(await self.rail.find_refund(self.account, order))
            return found[-1].verdict in {
                RefundVerdict.DONE, RefundVerdict.FAILED, RefundVerdict.STUCK,
            }  # fmt: skip

        await patiently(ended, "the refund does not end")
        return found[-1]

    async def reset(self) -> None:
        """No mishap of an earlier test is left over."""
        await self.harness.reset()
        sound = {"refund_seconds": 0, "not_found_lag_seconds": 0, "clock_skew_seconds": 0}
        await self.outside.control("/wechat/settings", cast("dict[str, object]", sound))

    async def learn_keys(self) -> None:
        """Take over the provider's keys of now."""
        await self.harness.learn_keys()

    @property
    def platform(self) -> dict[str, str]:
        """The provider's keys as the account has them."""
        return json.loads(self.harness.kept["platform"])
