"""Users with second factors, for tests: what an app does when it talks to the API for a user."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.authenticator import Authenticator
from tests.served import Served, earner, serve
from tests.world import PostgresServer

from paymaster.people.factors import totp

SETTINGS: Mapping[str, Any] = {
    "relying_parties": {"acme/test": "localhost"},
    "origins": {"acme/test": "http://localhost:8080"},
    "cooling_off_seconds": 3600,
}
PATH = "/v1/withdrawals"
OTHER_IBAN = {"iban": "FR1420041010050500013M02606", "holder": "B. Example"}
_numbers = itertools.count(1)


@asynccontextmanager
async def stepping(
    postgres: PostgresServer, folder: Path, *, cells: int = 1
) -> AsyncIterator[Served]:
    """An installation with a relying party."""
    async with serve(postgres, folder, cells=cells, step_up=SETTINGS) as served:
        yield served


@dataclass
class Person:
    """A user of the app, with a phone full of secrets."""

    served: Served
    name: str
    destination: dict[str, Any]
    seeds: dict[str, bytes] = field(default_factory=dict[str, bytes])
    codes: list[str] = field(default_factory=list[str])
    device: Authenticator | None = None

    def path(self, rest: str = "") -> str:
        return f"/v1/users/{self.name}{rest}"

    async def id(self) -> str:
        return (await self.served.ok("GET", self.path()))["id"]

    async def begin(self, kind: str = "totp", step_up: str | None = None) -> Any:
        body = {"kind": kind, "name": "My phone"}
        return await self.served.ok(
            "POST", self.path("/factors"), {**body, "step_up": step_up} if step_up else body
        )

    async def confirm(self, begun: dict[str, Any]) -> Any:
        """By the app's code, or by a new device."""
        if begun["totp"] is not None:
            seed = seed_of(begun["totp"]["secret"])
            self.seeds[begun["id"]] = seed
            answer: dict[str, Any] = {"code": self.code(seed)}
        else:
            self.device = Authenticator()
            answer = {"passkey": self.device.create(begun["passkey"])}
        done = await self.served.ok("POST", self.path(f"/factors/{begun['id']}/confirm"), answer)
        self.codes = done["recovery_codes"] or self.codes
        return done

    async def enrol(self, kind: str = "totp", step_up: str | None = None) -> Any:
        return await self.confirm(await self.begin(kind, step_up))

    def code(self, seed: bytes | None = None, steps: int = 0) -> str:
        """The code that the app shows now, or so many steps later."""
        seed = seed or next(iter(self.seeds.values()))
        return totp.code_of(seed, totp.step_of(self.served.world.clock.now()) + steps)

    def fresh_code(self) -> str:
        """A code that was not used: half a minute later."""
        self.served.world.clock.advance(timedelta(seconds=30))
        return self.code()

    def wrong_code(self) -> str:
        near = {self.code(seed, step) for seed in self.seeds.values() for step in (-1, 0, 1)}
        return next(code for code in (f"{n:06d}" for n in range(100)) if code not in near)

    async def ask(self, **binding: Any) -> Any:
        return await self.served.ok("POST", self.path("/step-ups"), binding)

    async def ask_withdrawal(self, amount: str = "2.00", **more: Any) -> Any:
        return await self.ask(
            purpose="withdrawal",
            amount={"amount": amount, "currency": "EUR"},
            destination=more.get("destination", self.destination["id"]),
        )

    async def verify(self, step_up: str, **answer: Any) -> Any:
        return await self.served.ok("POST", self.path(f"/step-ups/{step_up}/verify"), answer)

    async def proven(self, **binding: Any) -> str:
        """A verified step-up: for a withdrawal of 2.00, unless told otherwise."""
        asked = await (self.ask(**binding) if binding else self.ask_withdrawal())
        await self.verify(asked["id"], code=self.fresh_code())
        return asked["id"]

    def body(self, amount: str = "2.00", **more: Any) -> dict[str, Any]:
        """A request for a withdrawal."""
        return {
            "user": self.name,
            "destination": self.destination["id"],
            "amount": {"amount": amount, "currency": "EUR"},
            **more,
        }

    async def withdraw(self, amount: str = "2.00", **more: Any) -> Any:
        return await self.served.api.post(
            "/v1/withdrawals", json=self.body(amount, **more), headers=new_key()
        )


def seed_of(secret: str) -> bytes:
    import base64

    return base64.b32decode(secret)


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": f"key-{next(_numbers)}"}


async def new_person(served: Served, *, enrolled: bool = True, waits: bool = True) -> Person:
    """A user with 20.00 EUR and a destination; enrolled, with the cooling-off behind."""
    name = f"person-{next(_numbers)}"
    person = Person(served, name, await earner(served, name))
    if enrolled:
        await person.enrol()
        if waits:
            served.world.clock.advance(timedelta(seconds=SETTINGS["cooling_off_seconds"] + 1))
    return person


async def set_policy(served: Served, *rules: dict[str, Any]) -> Any:
    return await served.ok("PUT", "/v1/step-up-policy", {"rules": list(rules), "reason": "test"})


EVERY_WITHDRAWAL = {"purpose": "withdrawal"}
EVERY_DESTINATION = {"purpose": "destination"}


def above(amount: str, **more: Any) -> dict[str, Any]:
    return {"purpose": "withdrawal", "above": {"amount": amount, "currency": "EUR"}, **more}


async def told(person: Person, amount: str = "2.00", **more: Any) -> tuple[int, str | None]:
    """Status and code of a request for a withdrawal."""
    answer = await person.withdraw(amount, **more)
    return answer.status_code, answer.json().get("code")
