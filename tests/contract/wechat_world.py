"""A harness for each product of WeChat Pay, over its sandbox."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from tests.contract.checking import patiently
from tests.contract.harness import Delivery, Fate, Fault
from tests.contract.keys import key_pair
from tests.contract.sandboxes import MakeRail, Outside, SandboxHarness

from paymaster.kernel.clock import Clock, milliseconds
from paymaster.kernel.ids import reference, time_floor
from paymaster.kernel.money import Money
from paymaster.rails.base import Instruction, Payee, RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import client_with_identity, refuses_identity
from paymaster_sandbox.wechat import parties
from paymaster_sandbox.wechat.parties import User

APPID = "wx0123456789abcdef"
PRODUCTS = {
    "transfer-bills": "transfer.create",
    "authorised": "transfer.authorized",
    "batches": "batch.create",
    "transfers-v2": "enterprise.pay",
}
"""For each product the call that makes an order, as the sandbox names it."""

SCENE = [
    {"info_type": "活动名称", "info_content": "有奖任务"},
    {"info_type": "奖励说明", "info_content": "完成任务的奖励"},
]


def _proof(headers: Mapping[str, str]) -> dict[str, str]:
    """Without the header that only names the kind of signature: it may be missing."""
    return {k: v for k, v in headers.items() if k != "wechatpay-signature-type"}


class WeChatHarness(SandboxHarness):
    """One merchant with one product, whose users accept what they are offered."""

    faults = frozenset(Fault)
    fates: ClassVar = {Fate.REFUSED: "fail"}

    def __init__(
        self,
        found: Outside,
        account: RailAccount,
        kept: dict[str, str],
        make: MakeRail | None = None,
    ) -> None:
        super().__init__(found, account, make)
        self.kept = kept
        self.clock: Clock = found.clock
        self._heard = 0

    @classmethod
    async def open(cls, found: Outside, product: str, number: int, **more: Any) -> WeChatHarness:
        """A new merchant of the product, with a million yuan."""
        mchid = f"19{number:08d}"
        private, public = key_pair(mchid)
        notify_url = f"{found.hooks.url}/{mchid}"
        kept = {
            "private": private,
            "apiv3": secrets.token_hex(16),
            "apiv2": secrets.token_hex(16),
        }
        body: dict[str, Any] = {
            "mchid": mchid,
            "public_key": public,
            "apiv3_key": kept["apiv3"],
            "apiv2_key": kept["apiv2"],
            "appids": [APPID],
            "product": product,
            "notify_url": notify_url,
            "least": 1,
            "payee_day": 10**9,
            "payee_day_count": 1000,
            "merchant_day": 10**11,
            "balances": {"OPERATION": 10**8},
            **more,
        }
        shown = await found.control("/wechat/merchants", body)
        kept["platform"] = json.dumps(shown["platform_keys"])
        kept["identity"] = f"{shown['certificate']}\n{private}"
        settings = {
            "product": product,
            "url": found.world.wechat_url,
            "url_tls": found.world.wechat_tls_url,
            "mchid": mchid,
            "appid": APPID,
            "merchant_serial": str(shown["serial"]),
            "notify_url": notify_url,
            "scene_id": "1000",
            "scene_infos": json.dumps(SCENE),
            "perception": "现金奖励",
        }
        names = {
            "private_key": "private",
            "apiv3_key": "apiv3",
            "apiv2_key": "apiv2",
            "client_identity": "identity",
            "platform_keys": "platform",
        }
        account = RailAccount(20 + number, f"wx-{product}", "wechat-pay", "CNY", settings, names)
        return cls(found, account, kept)

    def make_rail(self) -> Any:
        """The rail under test, made anew; its clock is the provider's."""
        ca = self.outside.world.wechat.keys.tls_ca_path
        deps = RailDeps(
            self.outside.client,
            self.kept.__getitem__,
            self.clock,
            partial(client_with_identity, ca=ca),
            partial(refuses_identity, ca=ca),
        )
        if self._make is not None:
            return self._make(deps)
        from paymaster.rails.registry import Registry

        return Registry().build("wechat-pay", deps)

    def now(self) -> Any:
        """The provider signs with the machine's time, and as far ahead as it is."""
        return self.clock.now()

    def add_user(
        self, number: int, behaviour: str = "confirm", name: str | None = "王小明"
    ) -> Payee:
        """Somebody who was never paid."""
        openid = f"o{number:027d}"
        world = self.outside.world
        with world.chassis.tx() as tx:
            person = User(openid, APPID, f"p{number}", name, f"u{number}", False, behaviour)
            parties.keep_user(tx, person)
        return Payee("wechat", {"appid": APPID, "openid": openid})

    def instructions(
        self, count: int, amounts: Sequence[int] = (), behaviour: str = "confirm"
    ) -> list[Instruction]:
        """Payments to users of their own, who accept at once if they are asked."""
        made: list[Instruction] = []
        for place in range(count):
            number = next(self.outside.numbers)
            payee = self.add_user(number, behaviour)
            self.agree(payee)
            at = time_floor(milliseconds(self.now()))
            money = Money(amounts[place] if amounts else 500 + place, "CNY")
            made.append(
                Instruction(reference(1, at + number), money, payee, "任务奖励", self.now())
            )
        return made

    def agree(self, payee: Payee) -> None:
        """In the product for it, the user has agreed to transfers once and for all."""
        if self.account.settings["product"] != "authorised":
            return
        from paymaster.rails.wechat.authorise import authorization_no
        from paymaster_sandbox.wechat.authorisations import Wanted

        openid = payee.details["openid"]
        wechat = self.outside.world.wechat
        with self.outside.world.chassis.tx() as tx:
            merchant = parties.merchant(tx, self.account.settings["mchid"])
            assert merchant is not None
            wanted = Wanted(
                out_no=authorization_no(self.account, openid, 0),
                appid=APPID,
                openid=openid,
                scene="1000",
                display="收款人",
                perception="现金奖励",
                notify_url=self.account.settings["notify_url"],
            )
            wechat.hand._agreements.ask(tx, merchant, wanted)
        self.confirm_consent(wanted.out_no)

    def confirm_consent(self, number: str) -> None:
        """A user agrees to what was asked under this number of ours."""
        wechat = self.outside.world.wechat
        with self.outside.world.chassis.tx() as tx:
            for one in wechat.hand.waiting(tx):
                if (one["kind"], one["reference"]) == ("authorization", number):
                    wechat.hand.act(tx, "authorization", str(one["id"]), "confirm", None)

    async def learn_keys(self) -> None:
        """Take over the keys that the provider has now, as an operator does."""
        mchid = self.account.settings["mchid"]
        shown = await self.outside.control(f"/wechat/merchants/{mchid}")
        self.kept["platform"] = json.dumps(shown["platform_keys"])

    def payee_id(self, item: Instruction) -> str:
        """How the world calls the payee."""
        return item.payee.details["openid"]

    async def decide(self, instruction: Instruction, fate: Fate) -> None:
        """Tell the oracle."""
        payee = self.payee_id(instruction)
        body: dict[str, object] = {"payee": payee, "outcome": self.fates[fate]}
        body |= {"code": "PAYEE_ACCOUNT_ABNORMAL", "uses": None}
        await self.outside.control("/oracle", body)

    async def arm(self, fault: Fault) -> None:
        """One of the provider's knobs."""
        if fault is Fault.PAY_LATER:
            await self.outside.control("/wechat/settings", {"paid_seconds": 0.5})
            return
        kind = {Fault.LOSE_ANSWER: "cut_after", Fault.FAIL_BEFORE: "error_before"}[fault]
        await self.mishap(kind)

    async def mishap(self, kind: str, call: str = "", **more: object) -> None:
        """Something goes wrong with the next order, or another call."""
        named = call or PRODUCTS[self.account.settings["product"]]
        await self.outside.control("/wechat/mishaps", {"call": named, "kind": kind, **more})

    async def reset(self) -> None:
        """No fault of an earlier check is left over."""
        await super().reset()
        answer = await self.outside.client.delete(
            f"{self.outside.world.http_url}/_control/wechat/mishaps"
        )
        assert answer.is_success
        await self.outside.control("/wechat/settings", {"paid_seconds": 0, "accept_seconds": 0})

    async def close_day(self) -> None:
        """Go on to tomorrow."""
        await self.outside.overnight()

    async def rest(self) -> None:
        """Users have accepted what they are offered; then as everywhere."""

        async def accepted() -> bool:
            found = await self.outside.control("/wechat/waiting")
            waiting = found["waiting"]
            assert isinstance(waiting, list)
            ours = self.account.settings["mchid"]
            return not any(one["mchid"] == ours and "confirm" in one["acts"] for one in waiting)

        await patiently(accepted, "users do not accept")
        await super().rest()

    async def calls(self) -> int:
        """Orders that were looked at."""
        return await self._events(f"wechat.{PRODUCTS[self.account.settings['product']]}")

    async def deliveries(self) -> list[Delivery]:
        """What this merchant's address got since."""
        asked, came = self.outside.hooks.asked, self.outside.came
        since = len(came)
        new = list(zip(asked[self._heard : since], came[self._heard : since], strict=True))
        self._heard = since
        path = "/" + self.account.settings["mchid"]
        return [Delivery(_proof(one.headers), one.body, at) for one, at in new if one.path == path]

    def unreachable(self) -> RailAccount:
        """Ports that nobody listens on."""
        nowhere = {"url": "http://127.0.0.1:9", "url_tls": "https://127.0.0.1:9"}
        return replace(self.account, settings={**self.account.settings, **nowhere})

    def foreign(self) -> RailAccount:
        """Another merchant."""
        return replace(self.account, settings={**self.account.settings, "mchid": "1999999999"})
