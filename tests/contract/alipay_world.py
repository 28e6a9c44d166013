"""A harness for each interface of Alipay, over its sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tests.contract.harness import Delivery, Fate, Fault
from tests.contract.keys import request_for_certificate
from tests.contract.sandboxes import MakeRail, Outside, SandboxHarness

from paymaster.kernel.clock import milliseconds
from paymaster.kernel.ids import reference, time_floor
from paymaster.kernel.money import Money
from paymaster.rails.base import Instruction, Payee, RailAccount
from paymaster.rails.deps import RailDeps
from paymaster_sandbox.alipay.apps import User

LEAST = 10
"""The provider pays no less; so every amount of a check is so much more."""

TRANSFER = "alipay.fund.trans.uni.transfer"


class AlipayHarness(SandboxHarness):
    """One app, over the new interface or the gateway."""

    faults = frozenset(Fault)
    fates: ClassVar = {Fate.REFUSED: "reject", Fate.RETURNED: "return"}

    def __init__(
        self,
        found: Outside,
        account: RailAccount,
        kept: dict[str, str],
        make: MakeRail | None = None,
    ) -> None:
        super().__init__(found, account, make)
        self.kept = kept
        self.clock = found.clock
        self._heard = 0

    @classmethod
    async def open(cls, found: Outside, mode: str, number: int, **more: str) -> AlipayHarness:
        """A new app, with a million yuan."""
        app_id = f"20{number:014d}"
        private, request = request_for_certificate(app_id)
        body: dict[str, Any] = {
            "app_id": app_id,
            "seller_id": f"2088{number:012d}",
            "request": request,
            "opening_minor": 10**8,
            "gateway_url": f"{found.hooks.url}/{app_id}",
            "day_limit_minor": 10**12,
            "payee_day_limit_minor": 10**12,
        }
        shown = await found.control("/alipay/apps", body)
        kept = {
            "private": private,
            "app": str(shown["app_certificate"]),
            "root": str(shown["alipay_root_certificate"]),
            "alipay": json.dumps([shown["alipay_certificate"]]),
        }
        settings = {"url": found.world.alipay_url, "app_id": app_id, "mode": mode, **more}
        names = {
            "private_key": "private",
            "app_certificate": "app",
            "alipay_root_certificate": "root",
            "alipay_certificates": "alipay",
        }
        account = RailAccount(40 + number, f"alipay-{mode}", "alipay", "CNY", settings, names)
        return cls(found, account, kept)

    def make_rail(self) -> Any:
        """The rail under test, made anew; its clock is the provider's."""
        deps = RailDeps(self.outside.client, self.kept.__getitem__, self.clock)
        if self._make is not None:
            return self._make(deps)
        from paymaster.rails.registry import Registry

        return Registry().build("alipay", deps)

    def now(self) -> Any:
        """The provider signs with the machine's time, and as far ahead as it is."""
        return self.clock.now()

    def add_user(self, number: int, name: str = "王小明") -> Payee:
        """Somebody who was never paid."""
        user_id = f"2088{number:012d}"
        world = self.outside.world
        with world.chassis.tx() as tx:
            person = User(user_id, f"p{number}@example.com", name, verified=True, blocked=False)
            world.alipay.apps.add_user(tx, person)
        return Payee("alipay", {"user_id": user_id})

    def instructions(self, count: int, amounts: Sequence[int] = ()) -> list[Instruction]:
        """Payments to people of their own."""
        made: list[Instruction] = []
        for place in range(count):
            number = next(self.outside.numbers)
            at = time_floor(milliseconds(self.now()))
            money = Money(LEAST + (amounts[place] if amounts else 500 + place), "CNY")
            payee = self.add_user(number)
            made.append(
                Instruction(reference(1, at + number), money, payee, "任务奖励", self.now())
            )
        return made

    def payee_id(self, item: Instruction) -> str:
        """How the world calls the payee."""
        return item.payee.details["user_id"]

    async def decide(self, instruction: Instruction, fate: Fate) -> None:
        """Tell the oracle."""
        payee = self.payee_id(instruction)
        body: dict[str, object] = {"payee": payee, "outcome": self.fates[fate]}
        code = {Fate.REFUSED: "PAYEE_USER_INFO_ERROR", Fate.RETURNED: "PAYEE_CARD_REFUND"}[fate]
        await self.outside.control("/oracle", {**body, "code": code, "uses": None})

    async def arm(self, fault: Fault) -> None:
        """One of the provider's knobs."""
        knobs: dict[Fault, dict[str, object]] = {
            Fault.LOSE_ANSWER: {f"drop_answers@{TRANSFER}": 1},
            Fault.FAIL_BEFORE: {f"fail_before@{TRANSFER}": 1},
            Fault.PAY_LATER: {"late_seconds": 1},
        }
        await self.outside.control("/alipay/faults", knobs[fault])

    async def knob(self, **knobs: int) -> None:
        """What goes wrong with the next transfers."""
        at = {f"{name}@{TRANSFER}": value for name, value in knobs.items()}
        await self.outside.control("/alipay/faults", dict(at))

    async def reset(self) -> None:
        """No fault of an earlier check is left over."""
        await super().reset()
        found = await self.outside.control("/alipay/faults")
        faults = found["faults"]
        assert isinstance(faults, dict)
        keep = {"notice_copies": 1, "notice_late_seconds": 5}
        quiet: dict[str, object] = {
            str(name): keep.get(str(name), 0) for name in faults if name != "skew_seconds"
        }
        await self.outside.control("/alipay/faults", quiet)

    async def close_day(self) -> None:
        """Go on to tomorrow."""
        await self.outside.overnight()

    async def calls(self) -> int:
        """Transfers that were made or asked for."""
        return await self._events("alipay.transfer")

    async def deliveries(self) -> list[Delivery]:
        """What this app's address got since."""
        asked, came = self.outside.hooks.asked, self.outside.came
        since = len(came)
        new = list(zip(asked[self._heard : since], came[self._heard : since], strict=True))
        self._heard = since
        path = "/" + self.account.settings["app_id"]
        return [Delivery(one.headers, one.body, at) for one, at in new if one.path == path]

    def unreachable(self) -> RailAccount:
        """A port that nobody listens on."""
        nowhere = {"url": "http://127.0.0.1:9"}
        return replace(self.account, settings={**self.account.settings, **nowhere})

    def foreign(self) -> RailAccount:
        """Another app."""
        return replace(
            self.account, settings={**self.account.settings, "app_id": "2099999999999999"}
        )
