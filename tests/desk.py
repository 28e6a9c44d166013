"""Persons and keys at one desk, and what they have to decide, for the tests of four eyes."""

from __future__ import annotations

from typing import Any

import httpx
from tests.served import Served, client
from tests.staffing import browser, cookie_for, invite, owned_key
from tests.withdrawals import made_in
from tests.world import ACTOR

from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.people import four_eyes
from paymaster.people.staff_roles import Role

REASON = {"reason": "looked at it"}


async def limit(served: Served, act: str, amount: str, currency: str = "EUR") -> None:
    """A limit, put in force without asking anybody."""
    minor = Money.parse(amount, currency).minor
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: four_eyes.set_limit(tx, 1, act, currency, minor, "test")
    )


class Desk:
    """Persons and keys at one desk."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.open: list[httpx.AsyncClient] = []

    async def session(self, name: str, role: Role = Role.FINANCE) -> httpx.AsyncClient:
        return await self.again(await invite(self.served, name, role))

    async def again(self, person_id: int) -> httpx.AsyncClient:
        made = browser(self.served, await cookie_for(self.served, person_id))
        self.open.append(made)
        return made

    async def key(self, person_id: int | None) -> httpx.AsyncClient:
        made = client(self.served.app, await owned_key(self.served, person_id))
        self.open.append(made)
        return made


async def in_review(served: Served, amount: str = "40.00") -> tuple[Any, int, str]:
    """A withdrawal in review: its earner, number and address."""
    earner, number = await made_in(served.world, "in_review", amount)
    return earner, number, f"/v1/withdrawals/{text_id('wd', 1, number)}"


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")
