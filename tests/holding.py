"""Users with a withdrawal, and orders of an authority that freeze one or the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from tests.desk import REASON
from tests.planted import new_iban
from tests.served import Served
from tests.served import earner as enrolled
from tests.withdrawals import Earner, bring

from paymaster.kernel.ids import parse_text_id

ORDER = "AG 12 Gs 345/26"


@dataclass
class Case:
    """A user with 20.00 EUR, of which 5.00 are asked for."""

    served: Served
    name: str
    user: str
    destination: str
    withdrawal: str
    number: int
    earner: Earner

    @property
    def path(self) -> str:
        return f"/v1/withdrawals/{self.withdrawal}"

    async def ask(self, key: str) -> httpx.Response:
        return await ask(self.served, self.name, self.user, self.destination, key)


async def ask(served: Served, name: str, user: str, destination: str, key: str) -> httpx.Response:
    amount = {"amount": "5.00", "currency": "EUR"}
    body = {"user": user, "destination": destination, "amount": amount}
    headers = {"Idempotency-Key": f"{name}-{key}"}
    return await served.api.post("/v1/withdrawals", json=body, headers=headers)


async def case(
    served: Served, name: str, state: str = "in_review", iban: str | None = None
) -> Case:
    """One whose account nobody else has, unless it is given."""
    destination = await enrolled(served, name, iban=iban or new_iban())
    user = destination["user"]
    made = (await ask(served, name, user, destination["id"], "first")).json()["id"]
    number = parse_text_id("wd", made).id
    await bring(served.world, number, state)
    ids = parse_text_id("us", user).id, parse_text_id("de", destination["id"]).id
    return Case(served, name, user, destination["id"], made, number, Earner(*ids))


async def place(risk: httpx.AsyncClient, subject: str, reference: str = ORDER) -> str:
    body = {"subject": subject, "reference": reference, "reason": "served today"}
    answer = await risk.post("/v1/holds", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def lift(risk: httpx.AsyncClient, other: httpx.AsyncClient, hold: str) -> Any:
    """By two persons."""
    asked = await risk.post(f"/v1/holds/{hold}/lift", json=REASON)
    assert asked.status_code == 202, asked.text
    path = f"/v1/approvals/{asked.json()['approval']}/approve"
    done = await other.post(path, json=REASON)
    assert done.is_success, done.text
    return done.json()["result"]
