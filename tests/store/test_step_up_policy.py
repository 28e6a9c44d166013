"""Step-ups by who asks: earners, servers, thieves; the policy; several cells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests import staffing
from tests.authenticator import Authenticator
from tests.served import Served
from tests.stepping import (
    EVERY_DESTINATION,
    EVERY_WITHDRAWAL,
    OTHER_IBAN,
    PATH,
    Person,
    above,
    new_key,
    new_person,
    set_policy,
    stepping,
    told,
)
from tests.world import PostgresServer, owner_rows

from paymaster.kernel.ids import parse_text_id
from paymaster.people.factors import step_ups
from paymaster.people.staff_roles import Role

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with stepping(postgres, tmp_path_factory.mktemp("stepup")) as made:
        yield made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def no_policy(served: Served) -> None:
    await set_policy(served)


async def signed_in(person: Person) -> dict[str, str]:
    """What an earner sends with his token."""
    made_ = await person.served.ok("POST", person.path("/tokens"))
    return {"Authorization": f"Bearer {made_['token']}"}


async def test_an_earner_does_it_all_himself_and_for_nobody_else(served: Served) -> None:
    person, other = await new_person(served), await new_person(served)
    await set_policy(served, {**EVERY_WITHDRAWAL, "applies_to": "users"})
    own = await signed_in(person)
    mine = {"headers": {**own, **new_key()}}
    await served.refused(
        422, "step-up-required", "POST", PATH, {**person.body(), "user": "me"}, **mine
    )
    ask = {"purpose": "withdrawal", "amount": person.body()["amount"]}
    asked = await served.ok(
        "POST",
        "/v1/users/me/step-ups",
        {**ask, "destination": person.destination["id"]},
        headers=own,
    )
    await served.ok(
        "POST",
        f"/v1/users/me/step-ups/{asked['id']}/verify",
        {"code": person.fresh_code()},
        headers=own,
    )
    body = {**person.body(step_up=asked["id"]), "user": "me"}
    done = await served.ok("POST", PATH, body, headers={**own, **new_key()})
    assert done["user"] == asked["user"]
    # A server is not asked under this policy.
    assert await told(person) == (202, None)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/factors", None),
        ("POST", "/factors", {"kind": "totp", "name": "x"}),
        ("POST", "/step-ups", {"purpose": "factor", "act": "add"}),
        ("GET", f"/step-ups/{asked['id']}", None),
        ("POST", f"/step-ups/{asked['id']}/verify", {"code": "000000"}),
        ("POST", "/recovery-codes", {}),
    ]
    for method, path, sent in calls:
        await served.refused(404, "user-unknown", method, other.path(path), sent, headers=own)
    theirs = await other.ask_withdrawal()
    where = f"/v1/users/me/step-ups/{theirs['id']}"
    await served.refused(404, "step-up-unknown", "GET", where, headers=own)
    for method, path in (("POST", "/v1/users/me/factors/reset"), ("PUT", "/v1/step-up-policy")):
        answer = await served.api.request(
            method, path, json={"reason": "x", "rules": []}, headers=own
        )
        assert answer.status_code in (403, 404), (path, answer.text)


async def test_a_thief_with_a_session_alone_gets_no_money_out(served: Served) -> None:
    """The victim has no factor; the thief has the victim's token and adds one of his own."""
    await set_policy(served, above("5.00"), EVERY_DESTINATION)
    victim = await new_person_before_policy(served)
    token = await signed_in(victim)
    thief = Authenticator()
    begun = await served.ok(
        "POST", "/v1/users/me/factors", {"kind": "passkey", "name": "T"}, headers=token
    )
    where = f"/v1/users/me/factors/{begun['id']}/confirm"
    added = await served.ok(
        "POST", where, {"passkey": thief.create(begun["passkey"])}, headers=token
    )
    until = added["cooling_off_until"]
    amount = {"amount": "6.00", "currency": "EUR"}
    asked = {
        "purpose": "withdrawal",
        "amount": amount,
        "destination": victim.destination["id"],
    }
    account = {
        "purpose": "destination",
        "account": {"kind": "iban", "currency": "EUR", "details": OTHER_IBAN},
    }
    for body in (asked, account):
        problem = await served.refused(
            422, "step-up-cooling-off", "POST", "/v1/users/me/step-ups", body, headers=token
        )
        assert problem["until"] == until
    keyed_ = {**token, **new_key()}
    await served.refused(
        422, "step-up-cooling-off", "POST", PATH, victim.body("6.00"), headers=keyed_
    )
    await served.refused(
        422,
        "step-up-cooling-off",
        "POST",
        "/v1/users/me/destinations",
        account["account"],
        headers=token,
    )


async def new_person_before_policy(served: Served) -> Person:
    rules = (await served.ok("GET", "/v1/step-up-policy"))["rules"]
    await set_policy(served)
    person = await new_person(served, enrolled=False)
    await set_policy(served, *rules)
    return person


async def test_the_policy_is_data_shown_and_audited(served: Served) -> None:
    rules = [
        {"purpose": "destination", "above": None, "applies_to": "users"},
        {
            "purpose": "withdrawal",
            "above": {"amount": "100.00", "currency": "EUR"},
            "applies_to": "both",
        },
        {
            "purpose": "withdrawal",
            "above": {"amount": "10000", "currency": "JPY"},
            "applies_to": "servers",
        },
    ]
    assert await set_policy(served, *rules) == {"rules": rules}
    assert await served.ok("GET", "/v1/step-up-policy") == {"rules": rules}
    [(before, after)] = owner_rows(
        served.world,
        "SELECT detail->'before', detail->'after' FROM control.audit"
        " WHERE action = 'step-up-policy.change' ORDER BY commit_id DESC LIMIT 1",
    )
    assert (before, after) == ([], rules)
    weak = {"Authorization": f"Bearer {await served.key(['read', 'users'])}"}
    body = {"rules": [], "reason": "x"}
    await served.refused(403, "scope-missing", "PUT", "/v1/step-up-policy", body, headers=weak)


@pytest.mark.parametrize(
    ("rules", "status", "code"),
    [
        ([EVERY_WITHDRAWAL, EVERY_WITHDRAWAL], 422, "step-up-policy-invalid"),
        ([above("-1.00")], 422, "step-up-policy-invalid"),
        ([{"purpose": "factor"}], 400, "request-invalid"),
        ([{"purpose": "withdrawal", "applies_to": "nobody"}], 400, "request-invalid"),
        ([{**above("1.00"), "purpose": "destination"}], 400, "request-invalid"),
        ([{"purpose": "withdrawal", "above": {"amount": "1", "currency": "X"}}], 400,
         "currency-unknown"),
    ],
)  # fmt: skip
async def test_a_policy_with_faults_is_refused(
    served: Served, rules: list[Any], status: int, code: str
) -> None:
    body = {"rules": rules, "reason": "x"}
    await served.refused(status, code, "PUT", "/v1/step-up-policy", body)
    assert await served.ok("GET", "/v1/step-up-policy") == {"rules": []}


async def test_a_used_up_step_up_is_on_the_record(served: Served) -> None:
    person = await new_person(served)
    proof = await person.proven()
    done = await person.withdraw(step_up=proof)
    assert done.status_code == 202
    rows = owner_rows(
        served.world,
        "SELECT action, detail->>'for', detail->>'method' FROM audit WHERE subject = %s"
        " ORDER BY commit_id, ordinal",
        proof,
    )
    assert rows == [("step-up.verify", None, "totp"), ("step-up.use", done.json()["id"], None)]


async def test_with_several_cells_the_policy_is_the_environments(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with stepping(postgres, tmp_path, cells=3) as many:
        people = [await new_person(many) for _ in range(4)]
        cells = {parse_text_id("de", person.destination["id"]).cell for person in people}
        assert len(cells) > 1
        await set_policy(many, EVERY_WITHDRAWAL)
        for person in people:
            assert await told(person) == (422, "step-up-required")
            proof = await person.proven()
            for other in people:
                if other is not person:
                    assert await told(other, step_up=proof) == (422, "step-up-mismatch")
            assert await told(person, step_up=proof) == (202, None)


async def test_step_ups_long_past_and_factors_never_confirmed_are_forgotten(
    served: Served,
) -> None:
    person = await new_person(served)
    old = await person.proven(purpose="factor", act="recovery-codes")
    await person.begin(step_up=await person.proven(purpose="factor", act="add"))
    assert await forgotten(served) == 0
    served.world.clock.advance(timedelta(minutes=6))
    assert await forgotten(served) == 1
    assert len((await served.ok("GET", person.path("/factors")))["data"]) == 1
    where = person.path(f"/step-ups/{old}")
    assert (await served.ok("GET", where))["state"] == "expired"
    served.world.clock.advance(timedelta(days=30))
    assert await forgotten(served) > 1
    await served.refused(404, "step-up-unknown", "GET", where)
    assert len((await served.ok("GET", person.path("/factors")))["data"]) == 1


async def forgotten(served: Served) -> int:
    return await served.world.run(lambda tx: step_ups.forget(tx, 1000))


async def test_staff_look_and_reset_and_prove_nothing_for_others(served: Served) -> None:
    customer = await new_person(served)
    async with staffing.person(served, "ines", Role.ADMIN) as ines:
        listed = await ines.get(customer.path("/factors"))
        [factor] = listed.json()["data"]
        step_ups_ = customer.path("/step-ups")
        asked = await customer.ask(purpose="factor", act="add")
        for method, path, body in (
            ("POST", customer.path("/factors"), {"kind": "totp", "name": "x"}),
            ("POST", customer.path(f"/factors/{factor['id']}/confirm"), {"code": "123456"}),
            ("PUT", customer.path(f"/factors/{factor['id']}"), {"name": "x"}),
            ("DELETE", customer.path(f"/factors/{factor['id']}"), None),
            ("POST", customer.path("/recovery-codes"), {}),
            ("POST", step_ups_, {"purpose": "factor", "act": "add"}),
            ("POST", f"{step_ups_}/{asked['id']}/verify", {"code": customer.fresh_code()}),
        ):
            answer = await ines.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "not-for-staff"), path
        done = await ines.post(customer.path("/factors/reset"), json={"reason": "lost"})
        assert done.status_code == 200
    user = await customer.id()
    [(actor,)] = owner_rows(
        served.world,
        "SELECT actor FROM audit WHERE action = 'factor.reset' AND subject = %s",
        user,
    )
    assert actor.startswith("person:")


async def test_codes_go_by_the_phones_time_and_the_cooling_off_by_the_test_clock(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with stepping(postgres, tmp_path) as own:
        person = await new_person(own, waits=False)
        until = (await own.ok("GET", person.path("/factors")))["cooling_off_until"]
        assert until is not None
        await own.ok("PUT", "/v1/test-clock", {"to": until, "reason": "not to wait"})
        asked = await person.ask_withdrawal()
        assert asked["created_at"] >= until
        done = await person.verify(asked["id"], code=person.code(steps=1))
        assert done["state"] == "verified"
        assert await told(person, step_up=asked["id"]) == (202, None)
