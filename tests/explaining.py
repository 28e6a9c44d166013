"""Earners with withdrawals in any state, over the API, for tests of what people are told."""

from __future__ import annotations

from typing import Any

import httpx
from tests.planted import new_iban
from tests.served import Served, client, earner
from tests.withdrawals import BANK, bring

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import parse_text_id, reference

EN, ZH = {"Accept-Language": "en"}, {"Accept-Language": "zh-CN,en;q=0.5"}
_numbers = iter(range(1, 1000))


async def asked(served: Served, amount: str = "12.50", *, balance: str = "20.00") -> Any:
    """A new earner's withdrawal: `(name, text id, number)`."""
    name = f"earner-{next(_numbers)}"
    place = await earner(served, name, balance, new_iban())
    body = {"user": name, "destination": place["id"]}
    made = await served.ok(
        "POST", "/v1/withdrawals", {**body, "amount": {"amount": amount, "currency": "EUR"}},
        headers={"Idempotency-Key": name},
    )  # fmt: skip
    return name, made["id"], parse_text_id("wd", made["id"]).id


async def in_state(served: Served, state: str, **rest: Any) -> Any:
    name, text, number = await asked(served, **rest)
    await bring(served.world, number, state)
    return name, text, number


async def attempt(served: Served, number: int, *, state: str = "paid", code: str | None = None):
    """An order as dispatch makes them."""

    async def work(tx: CellTx) -> None:
        attempt_id, batch_id = tx.ids(2)
        key = reference(tx.cell, attempt_id)
        await tx.execute(
            "INSERT INTO batch (id, batch_key, rail_account_id, sealed, digest, items, total,"
            " asset, state, tries, lease_token, created_at, trace_id, version)"
            " VALUES (%s, %s, %s, 'x', 'x', 1, 1250, 'EUR', 'sent', 1, 0, %s, %s, 1)",
            (batch_id, f"B{key}", BANK, tx.now, tx.trace_id),
        )
        await tx.execute(
            "INSERT INTO attempt (id, withdrawal_id, number, batch_id, rail_account_id, key,"
            " amount, asset, state, provider_id, code, tries, lease_token, created_at, trace_id,"
            " version) VALUES (%s, %s, 1, %s, %s, %s, 1250, 'EUR', %s, 'p-77', %s, 1, 0, %s, %s,"
            " 1)",
            (attempt_id, number, batch_id, BANK, key, state, code, tx.now, tx.trace_id),
        )

    await served.world.run(work)


async def own(served: Served, name: str) -> httpx.AsyncClient:
    token = (await served.ok("POST", f"/v1/users/{name}/tokens"))["token"]
    return client(served.app, token)
