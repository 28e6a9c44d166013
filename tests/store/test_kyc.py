"""How well a user is known: evidence, its end, and what follows for limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served, client, earner, serve
from tests.world import ACTOR, PostgresServer

from paymaster.api.hot import Hot
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.money import Money
from paymaster.people import kyc
from paymaster.roles.work import _judge
from paymaster.screen import activate

BASIC = {"level": "basic", "provider": "acme-id", "reference": "r1", "jurisdiction": "DE"}


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as made:
        await earner(made, "anna", "900.00")
        yield made


async def known(served: Served) -> tuple[str, str | None, str | None]:
    shown = await served.ok("GET", "/v1/users/anna/kyc")
    return shown["level"], shown["jurisdiction"], shown["expires_at"]


async def add(served: Served, **changes: Any) -> dict[str, Any]:
    return await served.ok("POST", "/v1/users/anna/kyc", {**BASIC, **changes})


async def test_expired_evidence_lowers_the_level_to_what_the_rest_proves(served: Served) -> None:
    assert await known(served) == ("none", None, None)
    now = served.world.clock.now()
    await add(served, expires_at=rfc3339(now + timedelta(days=400)))
    until = rfc3339(now + timedelta(days=30))
    await add(served, level="full", reference="r2", jurisdiction="AT", expires_at=until)
    assert await known(served) == ("full", "AT", until)
    served.world.clock.advance(timedelta(days=30))
    assert await known(served) == ("basic", "DE", rfc3339(now + timedelta(days=400)))
    served.world.clock.advance(timedelta(days=370))
    assert await known(served) == ("none", None, None)


async def test_the_same_evidence_again_changes_nothing(served: Served) -> None:
    first = await add(served)
    assert await add(served) == first
    assert len(first["records"]) == 1
    await served.refused(
        409, "kyc-evidence-used", "POST", "/v1/users/anna/kyc", {**BASIC, "jurisdiction": "FR"}
    )


async def test_what_was_taken_back_does_not_come_back_by_a_retry(served: Served) -> None:
    await add(served)
    gone = {"level": "none", "reference": "case-7", "jurisdiction": None, "reason": "forged"}
    await add(served, **gone)
    assert await known(served) == ("none", None, None)
    await add(served, **gone)
    await served.refused(409, "kyc-evidence-used", "POST", "/v1/users/anna/kyc", BASIC)
    await add(served, reference="r9")
    assert (await known(served))[0] == "basic"
    body = {**BASIC, **gone}
    await served.refused(409, "kyc-evidence-used", "POST", "/v1/users/anna/kyc", body)


async def test_what_counts_can_be_taken_back_however_much_was_recorded(served: Served) -> None:
    """The last room is never needed to say that somebody is not who he seemed to be."""

    async def fill(tx: CellTx) -> None:
        user = await tx.value("SELECT id FROM app_user")
        for number in range(kyc.MOST_RECORDS):
            await kyc.record(tx, user, kyc.Evidence("full", "acme-id", f"r{number}"))

    await served.world.run(fill)
    await served.refused(409, "kyc-full", "POST", "/v1/users/anna/kyc", BASIC)
    gone = {"level": "none", "reference": "case-7", "jurisdiction": None, "reason": "forged"}
    await add(served, **gone)
    assert await known(served) == ("none", None, None)
    await add(served, **gone)
    more = {**BASIC, **gone, "reference": "case-8"}
    await served.refused(409, "kyc-full", "POST", "/v1/users/anna/kyc", more)
    await served.refused(409, "kyc-full", "POST", "/v1/users/anna/kyc", {**BASIC, "reference": "x"})


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"provider": "Ac me"}, "/provider"),
        ({"reference": ""}, "/reference"),
        ({"jurisdiction": "de"}, "/jurisdiction"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"level": "none"}, "/reason"),
    ],
)
async def test_bad_evidence_is_refused_and_changes_nothing(
    served: Served, change: dict[str, Any], pointer: str
) -> None:
    body = {**BASIC, **change}
    problem = await served.refused(422, "kyc-invalid", "POST", "/v1/users/anna/kyc", body)
    assert [one["pointer"] for one in problem["errors"]] == [pointer]
    assert await known(served) == ("none", None, None)


async def test_the_level_moves_are_told_and_kept(served: Served) -> None:
    await add(served)
    await add(served, reference="r2")
    rows = await served.world.read(
        lambda tx: tx.tuples("SELECT payload FROM outbox WHERE topic = 'user.kyc_level'")
    )
    assert [(row[0]["before"], row[0]["level"]) for row in rows] == [("none", "basic")]
    acts = await served.world.read(
        lambda tx: tx.value("SELECT count(*) FROM audit WHERE action = 'kyc.record'")
    )
    assert acts == 2


RULES = {
    "rules": [
        {
            "rule": "maximum",
            "parameters": {
                "amounts": {"EUR": "50.00"},
                "levels": {"basic": {"EUR": "100.00"}},
                "jurisdictions": {"DE": {"levels": {"basic": {"EUR": "80.00"}}}},
            },
        }
    ]
}


async def ask(served: Served, key: str, amount: str) -> tuple[int, str]:
    listed = await served.ok("GET", "/v1/users/anna/destinations")
    answer = await served.api.post(
        "/v1/withdrawals",
        json={
            "user": "anna",
            "destination": listed["data"][0]["id"],
            "amount": {"amount": amount, "currency": "EUR"},
        },
        headers={"Idempotency-Key": key},
    )
    body = answer.json()
    if answer.status_code != 202:
        return answer.status_code, body["code"]
    await _judge(served.deps, served.world.cell)
    shown = await served.ok("GET", f"/v1/withdrawals/{body['id']}")
    return answer.status_code, shown["state"]


async def test_limits_go_by_level_and_jurisdiction(served: Served) -> None:
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: activate.activate(tx, 1, RULES, based_on=1)
    )
    assert await ask(served, "k1", "60.00") == (202, "denied")
    await add(served, jurisdiction="AT")
    assert await ask(served, "k2", "100.00") == (202, "approved")
    assert (await ask(served, "k3", "100.01"))[0] == 422
    await add(served, reference="r2")
    assert await ask(served, "k4", "100.00") == (202, "denied")
    assert await ask(served, "k5", "80.00") == (202, "approved")


async def test_what_is_refused_at_once_is_refused_for_everybody(served: Served) -> None:
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: activate.activate(tx, 1, RULES, based_on=1)
    )
    bounds = await served.world.dbs.control.read(lambda tx: Hot(served.deps).limits(tx, 1))
    assert bounds["EUR"].maximum == Money(10_000, "EUR")


async def test_an_earner_sees_his_level_and_cannot_raise_it(served: Served) -> None:
    token = (await served.ok("POST", "/v1/users/anna/tokens"))["token"]
    async with client(served.app, token) as own:
        assert (await own.get("/v1/users/me/kyc")).json()["level"] == "none"
        assert (await own.post("/v1/users/me/kyc", json=BASIC)).status_code == 403
