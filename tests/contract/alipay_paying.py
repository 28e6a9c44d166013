"""An app of Alipay's sandbox that takes money in, and people who pay it."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta
from typing import Any

from tests.contract.alipay_world import AlipayHarness
from tests.contract.harness import Delivery
from tests.contract.sandboxes import Outside

from paymaster.kernel.clock import WallClock, milliseconds
from paymaster.kernel.ids import reference, time_floor
from paymaster.kernel.money import Money
from paymaster.rails.alipay.rail import AlipayRail
from paymaster.rails.base import RailAccount
from paymaster.rails.payin import Charge, RefundOrder

QR, PAGE = "alipay-qr", "alipay-page"
PRECREATE, QUERY, CLOSE = "alipay.trade.precreate", "alipay.trade.query", "alipay.trade.close"
REFUND, REFUND_QUERY = "alipay.trade.refund", "alipay.trade.fastpay.refund.query"

PROVES_NOTHING = (
    "drop_requests", "drop_answers", "fail_before", "fail_after", "accepted", "processing",
    "unlisted_code", "refuse_unlisted", "bad_signature", "unsigned", "unknown_serial",
    "stale_timestamp", "truncated", "garbled",
)  # fmt: skip
DID_NOTHING = frozenset({"drop_requests", "fail_before", "refuse_unlisted"})
"""Those before which the provider did nothing."""


class Shop:
    """One app over the new interface or the gateway, and a payer."""

    def __init__(self, harness: AlipayHarness) -> None:
        self.harness = harness
        self.outside: Outside = harness.outside
        self.account: RailAccount = harness.account
        self.payer = harness.add_user(next(self.outside.numbers)).details["user_id"]
        self._keys = itertools.count()

    @classmethod
    async def open(cls, found: Outside, mode: str, number: int, **more: str) -> Shop:
        """A new app that is told of its charges at an address of its own."""
        settings = {
            "payin": "on",
            "seller_id": f"2088{number:012d}",
            "notify_url": f"{found.hooks.url}/20{number:014d}/",
            **more,
        }
        return cls(await AlipayHarness.open(found, mode, number, **settings))

    @property
    def rail(self) -> AlipayRail:
        """As a process that has just started makes it."""
        made = self.harness.make_rail()
        assert isinstance(made, AlipayRail)
        return made

    def key(self) -> str:
        """A new number of ours."""
        at = time_floor(milliseconds(WallClock().now()))
        return reference(1, at + next(self.outside.numbers))

    def charge(self, method: str = QR, minor: int = 1234, **more: Any) -> Charge:
        """A charge that nobody knows of yet."""
        now = self.harness.now()
        given: dict[str, Any] = {
            "key": self.key(),
            "amount": Money(minor, "CNY"),
            "method": method,
            "description": "活动预算",
            "created_at": now,
            "expires_at": now + timedelta(minutes=30),
        }
        return Charge(**{**given, **more})

    def back(self, charge: Charge, minor: int) -> RefundOrder:
        """A refund that nobody knows of yet."""
        return RefundOrder(self.key(), charge.key, charge.amount, Money(minor, "CNY"), "重复付款")

    async def opened(self, method: str = QR, minor: int = 1234) -> Charge:
        """A charge whose code somebody scanned."""
        charge = self.charge(method, minor)
        checkout = await self.rail.open_charge(self.account, charge)
        if method == PAGE:
            assert checkout.content is not None
            assert (await self.outside.client.get(checkout.content)).status_code == 200
        await self.visit(charge)
        return charge

    async def paid(self, method: str = QR, minor: int = 1234) -> Charge:
        """A charge that was paid."""
        charge = await self.opened(method, minor)
        assert await self.pay(charge)
        return charge

    async def visit(self, charge: Charge) -> None:
        """Scan the code, and do nothing more."""
        await self._at_provider(charge, None)

    async def pay(self, charge: Charge) -> bool:
        """Pay; False if the provider lets nobody pay it any more."""
        return bool((await self._at_provider(charge, self.payer))["paid"])

    async def knob(self, method: str, knob: str) -> None:
        """What goes wrong with the next call of that method."""
        await self.outside.control("/alipay/faults", {f"{knob}@{method}": 1})

    async def faults(self, **knobs: int) -> None:
        """What goes wrong with the next messages."""
        await self.outside.control("/alipay/faults", dict(knobs))

    async def reset(self) -> None:
        """No fault and no message of an earlier test is left over."""
        await self.harness.reset()
        await self.told()

    async def told(self) -> list[Delivery]:
        """Messages about charges of this app since this was asked before."""
        asked, came = self.outside.hooks.asked, self.outside.came
        since, until = self._heard, len(came)
        self._heard = until
        path = "/" + self.account.settings["app_id"] + "/payins"
        new = zip(asked[since:until], came[since:until], strict=True)
        return [Delivery(one.headers, one.body, at) for one, at in new if one.path == path]

    def content(self, charge: Charge) -> dict[str, Any]:
        """What the provider was told of a charge."""
        world = self.outside.world
        with world.chassis.tx() as tx:
            trade = world.alipay.trades.find(tx, self.account.settings["app_id"], charge.key)
        assert trade is not None
        return json.loads(trade.content)

    def received(self) -> tuple[int, int]:
        """What came in and what was given back, by the provider's books."""
        world = self.outside.world
        with world.chassis.tx() as tx:
            truth = world.alipay.truth(tx)[self.account.settings["app_id"]]
        return truth["received_minor"], truth["refunded_minor"]

    _heard = 0

    async def _at_provider(self, charge: Charge, user: str | None) -> dict[str, object]:
        return await self.outside.control(
            "/alipay/pay",
            {
                "app_id": self.account.settings["app_id"],
                "out_trade_no": charge.key,
                "user_id": user,
            },
        )
