"""The providers that take money in, as the tests of the whole way need them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol
from urllib.parse import urljoin

from tests.contract.alipay_paying import PROVES_NOTHING, Shop
from tests.contract.sandboxes import Outside
from tests.contract.wechat_payin import Till

from paymaster.rails.base import RailAccount
from paymaster_sandbox.wechat import mishaps

KINDS_OF = {"*": mishaps.BEFORE | mishaps.AFTER, "notice": mishaps.NOTICES}
"""What can go wrong with every call, and with messages."""


class Side(Protocol):
    """A provider, as these tests need it."""

    method: str
    account: RailAccount
    kept: Mapping[str, str]

    async def pay(self, key: str, content: str) -> bool:
        """Somebody scans the code or opens the page, and pays; False if nobody can any more."""
        ...

    async def twice_and_late(self, seconds: int) -> None:
        """The next message comes so late, and two times."""
        ...

    async def lost(self) -> None:
        """The next message never comes."""
        ...

    async def lied(self) -> int:
        """Beside the next message there come false ones: how many."""
        ...

    async def cut(self, what: str) -> None:
        """The next answer to `open`, `refund` or `ask` never comes, and it is done all the same."""
        ...

    async def chaos(self, permille: int) -> None:
        """Each thing that can go wrong with calls and messages does, so often; 0: none does."""
        ...

    def books(self) -> tuple[int, int]:
        """What the provider took in for us and gave back, in fen."""
        ...


class AlipaySide(Side):
    """Alipay: a code over the new interface, a page over the gateway."""

    def __init__(self, shop: Shop, method: str) -> None:
        self.shop, self.method = shop, method
        self.account, self.kept = shop.account, shop.harness.kept

    @classmethod
    async def open(cls, found: Outside, url: str, method: str) -> AlipaySide:
        """A new app."""
        mode = "v3" if method == "alipay-qr" else "gateway"
        return cls(await Shop.open(found, mode, 1, notify_url=url), method)

    async def pay(self, key: str, content: str) -> bool:
        """As a person does: open what the code says, choose who pays."""
        http = self.shop.outside.client
        page = await http.get(content)
        form = re.search(r'action="(/pay/[^"]+)"', page.text)
        if form is None:
            return False
        answer = await http.post(urljoin(content, form[1]), data={"user": self.shop.payer})
        return answer.status_code in {200, 303}

    async def twice_and_late(self, seconds: int) -> None:
        """See Side."""
        await self.shop.faults(notice_copies=2, notice_late=1, notice_late_seconds=seconds)

    async def lost(self) -> None:
        """See Side."""
        await self.shop.faults(notice_lose=1)

    async def lied(self) -> int:
        """See Side."""
        await self.shop.faults(notice_tamper=1, notice_forge=1)
        return 2

    async def cut(self, what: str) -> None:
        """See Side."""
        methods = {
            "open": "precreate", "ask": "query", "close": "close", "refund": "refund",
            "ask-refund": "fastpay.refund.query",
        }  # fmt: skip
        await self.shop.knob(f"alipay.trade.{methods[what]}", "drop_answers")

    async def chaos(self, permille: int) -> None:
        """See Side."""
        names = [*PROVES_NOTHING, "rate_limit", "reordered", "notice_lose", "notice_late"]
        names += ["notice_forge", "notice_tamper", "notice_replay", "notice_wrong_app"]
        knobs = {f"chance_{name}": permille for name in names}
        await self.shop.faults(**knobs, notice_copies=2 if permille else 1)

    def books(self) -> tuple[int, int]:
        """See Side."""
        return self.shop.received()


class WeChatSide(Side):
    """WeChat Pay: a code, over either of its interfaces."""

    method = "wechat-native"

    def __init__(self, till: Till) -> None:
        self.till = till
        self.account, self.kept = till.account, till.harness.kept

    @classmethod
    async def open(cls, found: Outside, url: str, version: str) -> WeChatSide:
        """A new merchant."""
        till = await Till.open(found, version, 1)
        settings = {**till.account.settings, "notify_url": url}
        till.account = replace(till.account, settings=settings)
        return cls(till)

    async def pay(self, key: str, content: str) -> bool:
        """Scan the code: it names the order."""
        assert content.startswith("weixin://"), content
        body = {
            "kind": "order", "act": "pay", "mchid": self.till.mchid, "reference": key,
        }  # fmt: skip
        url = f"{self.till.outside.world.http_url}/_control/wechat/act"
        return (await self.till.outside.client.post(url, json=body)).is_success

    async def twice_and_late(self, seconds: int) -> None:
        """See Side."""
        await self._mishap("late", seconds)
        await self._mishap("copies", 2)

    async def lost(self) -> None:
        """See Side."""
        await self._mishap("lost", 0)

    async def lied(self) -> int:
        """See Side. Over the old interface one false message is made of both."""
        await self._mishap("tampered", 0)
        await self._mishap("bad_signature", 0)
        return 2 if self.till.version == "v3" else 1

    async def cut(self, what: str) -> None:
        """See Side."""
        calls = {
            "open": "order.create", "ask": "order.query", "close": "order.close",
            "refund": "refund.create", "ask-refund": "refund.query",
        }  # fmt: skip
        await self.till.mishap(calls[what], "cut_after")

    async def chaos(self, permille: int) -> None:
        """See Side."""
        await self.till.reset()
        kinds = (mishaps.BEFORE | mishaps.AFTER | mishaps.NOTICES) - {"slow"}
        for kind in sorted(kinds if permille else ()):
            body: dict[str, object] = {"kind": kind, "times": None, "percent": permille // 10}
            for call in [call for call, of in KINDS_OF.items() if kind in of]:
                await self.till.outside.control("/wechat/mishaps", {**body, "call": call})

    def books(self) -> tuple[int, int]:
        """See Side."""
        with self.till.outside.world.chassis.tx() as tx:
            paid = "SELECT coalesce(sum(total), 0) FROM wechat_order WHERE paid IS NOT NULL"
            back = "SELECT coalesce(sum(amount), 0) FROM wechat_refund WHERE state = 'SUCCESS'"
            return int(tx.value(paid)), int(tx.value(back))

    async def _mishap(self, kind: str, number: int) -> None:
        body: dict[str, object] = {"call": "notice", "kind": kind, "number": number}
        if kind == "late":
            body = {"call": "notice", "kind": kind, "seconds": number}
        await self.till.outside.control("/wechat/mishaps", body)


OPENING: Mapping[str, Callable[[Outside, str], Awaitable[Side]]] = {
    "alipay-qr": lambda found, url: AlipaySide.open(found, url, "alipay-qr"),
    "alipay-page": lambda found, url: AlipaySide.open(found, url, "alipay-page"),
    "wechat-v3": lambda found, url: WeChatSide.open(found, url, "v3"),
    "wechat-v2": lambda found, url: WeChatSide.open(found, url, "v2"),
}
