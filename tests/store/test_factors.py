"""Second factors through the API: added, confirmed, removed, lost; codes guessed at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from tests.authenticator import Authenticator
from tests.served import Served
from tests.stepping import Person, new_person, seed_of, stepping
from tests.world import PostgresServer, owner_rows

from paymaster.kernel.ids import parse_text_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with stepping(postgres, tmp_path_factory.mktemp("factors")) as made:
        yield made


async def acts(served: Served, subject: str) -> list[str]:
    return [
        row[0]
        for row in owner_rows(
            served.world,
            "SELECT action FROM audit WHERE subject = %s OR detail->>'user' = %s"
            " ORDER BY commit_id, ordinal",
            subject,
            subject,
        )
    ]


async def topics(served: Served, user: str) -> list[str]:
    rows = owner_rows(
        served.world,
        "SELECT topic FROM outbox WHERE key = %s AND topic LIKE 'security.%%'"
        " ORDER BY commit_id, ordinal",
        user,
    )
    return [row[0] for row in rows]


async def test_an_app_is_added_and_its_secret_shown_once(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    begun = await person.begin()
    assert begun["state"] == "pending"
    assert begun["totp"]["address"].startswith("otpauth://totp/Paymaster:")
    assert len(seed_of(begun["totp"]["secret"])) == 20
    done = await person.confirm(begun)
    assert (done["state"], len(done["recovery_codes"])) == ("active", 10)
    listed = await served.ok("GET", person.path("/factors"))
    assert listed["recovery_codes_left"] == 10
    [shown] = listed["data"]
    assert (shown["id"], shown["name"], shown["state"]) == (done["id"], "My phone", "active")
    assert begun["totp"]["secret"] not in str(listed)
    user = await person.id()
    assert await topics(served, user) == ["security.recovery_codes_made", "security.factor_added"]
    assert {"factor.begin", "factor.confirm"} <= set(await acts(served, user))


async def test_nothing_of_a_factor_is_readable_in_the_database(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    begun = await served.ok(
        "POST", person.path("/factors"), {"kind": "totp", "name": "Name-Nobody-Reads"}
    )
    await person.confirm(begun)
    seed = seed_of(begun["totp"]["secret"])
    planted = [
        begun["totp"]["secret"],
        seed.hex(),
        "Name-Nobody-Reads",
        *person.codes,
        *(code.replace("-", "") for code in person.codes),
    ]
    with psycopg.connect(served.world.owner_dsn, autocommit=True) as connection:
        for schema in ("control", "cell_1"):
            tables = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = %s"
                " AND table_type = 'BASE TABLE'",
                (schema,),
            ).fetchall()
            assert len(tables) > 10
            for (table,) in tables:
                rows = connection.execute(
                    sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, table))
                ).fetchall()
                text = str(rows)
                assert not [one for one in planted if one in text], (schema, table)


async def test_a_code_never_works_twice(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    done = await person.enrol()
    assert done["state"] == "active"
    served.world.clock.advance(timedelta(seconds=3601))
    asked = await person.ask_withdrawal()
    code = person.code()
    assert (await person.verify(asked["id"], code=code))["state"] == "verified"
    again = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{again['id']}/verify")
    await served.refused(422, "code-wrong", "POST", where, {"code": code})
    # Nor does the code of the step before.
    await served.refused(422, "code-wrong", "POST", where, {"code": person.code(steps=-1)})
    assert (await person.verify(again["id"], code=person.code(steps=1)))["state"] == "verified"


async def test_the_code_that_confirmed_a_factor_proves_nothing_more(served: Served) -> None:
    person = Person(served, "confirms", {"id": "de_x"})
    await served.ok("PUT", person.path(), {})
    begun = await person.begin()
    await person.confirm(begun)
    asked = await person.ask(purpose="factor", act="add")
    where = person.path(f"/step-ups/{asked['id']}/verify")
    await served.refused(422, "code-wrong", "POST", where, {"code": person.code()})


async def test_each_recovery_code_serves_once_and_new_ones_void_the_old(served: Served) -> None:
    person = await new_person(served)
    first, second = person.codes[:2]
    asked = await person.ask_withdrawal()
    done = await person.verify(asked["id"], recovery_code=first.lower().replace("-", " "))
    assert (done["state"], done["method"]) == ("verified", "recovery_code")
    again = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{again['id']}/verify")
    await served.refused(422, "code-wrong", "POST", where, {"recovery_code": first})
    assert (await served.ok("GET", person.path("/factors")))["recovery_codes_left"] == 9
    codes = person.path("/recovery-codes")
    await served.refused(422, "step-up-required", "POST", codes, {})
    proof = await person.proven(purpose="factor", act="recovery-codes")
    made = await served.ok("POST", codes, {"step_up": proof})
    assert len(set(made["recovery_codes"])) == 10
    assert not set(made["recovery_codes"]) & set(person.codes)
    await served.refused(422, "code-wrong", "POST", where, {"recovery_code": second})
    done = await person.verify(again["id"], recovery_code=made["recovery_codes"][3])
    assert done["state"] == "verified"
    user = await person.id()
    assert "security.recovery_code_used" in await topics(served, user)


async def test_another_factor_and_a_removal_need_a_fresh_proof(served: Served) -> None:
    person = await new_person(served)
    where, body = person.path("/factors"), {"kind": "passkey", "name": "Key"}
    problem = await served.refused(422, "step-up-required", "POST", where, body)
    assert problem["next"].endswith("/step-ups")
    wrong = await person.proven(purpose="factor", act="recovery-codes")
    await served.refused(422, "step-up-mismatch", "POST", where, {**body, "step_up": wrong})
    proof = await person.proven(purpose="factor", act="add")
    begun = await person.begin("passkey", proof)
    added = await person.confirm(begun)
    assert added["recovery_codes"] is None
    await served.refused(422, "step-up-used", "POST", where, {**body, "step_up": proof})
    [app, key] = (await served.ok("GET", where))["data"]
    renamed = await served.ok("PUT", f"{where}/{key['id']}", {"name": "Blue key"})
    assert renamed["name"] == "Blue key"
    await served.refused(422, "step-up-required", "DELETE", f"{where}/{key['id']}")
    other = await person.proven(purpose="factor", act="remove", factor=app["id"])
    problem = await served.refused(
        422, "step-up-mismatch", "DELETE", f"{where}/{key['id']}?step_up={other}"
    )
    assert problem["fault"] == "payee"
    await served.ok("DELETE", f"{where}/{app['id']}?step_up={other}")
    left = await served.ok("GET", where)
    assert ([one["id"] for one in left["data"]], left["recovery_codes_left"]) == ([key["id"]], 10)


async def test_with_the_last_factor_go_recovery_codes_and_open_step_ups(served: Served) -> None:
    person = await new_person(served)
    [app] = (await served.ok("GET", person.path("/factors")))["data"]
    asked = await person.ask_withdrawal()
    proof = await person.proven(purpose="factor", act="remove", factor=app["id"])
    await served.ok("DELETE", person.path(f"/factors/{app['id']}?step_up={proof}"))
    left = await served.ok("GET", person.path("/factors"))
    assert (left["data"], left["recovery_codes_left"]) == ([], 0)
    shown = await served.ok("GET", person.path(f"/step-ups/{asked['id']}"))
    assert shown["state"] == "void"
    where = person.path(f"/step-ups/{asked['id']}/verify")
    bad = {"recovery_code": person.codes[0]}
    await served.refused(422, "step-up-void", "POST", where, bad)
    await served.refused(
        422, "factor-missing", "POST", person.path("/step-ups"), {"purpose": "factor", "act": "add"}
    )


async def test_a_factor_begun_before_the_first_one_does_not_slip_in(served: Served) -> None:
    """A thief begins one while there is none, and confirms it when the user has added theirs."""
    person = await new_person(served, enrolled=False)
    thief = Person(served, person.name, person.destination)
    sleeping = await thief.begin("passkey")
    await person.enrol()
    device = Authenticator()
    where = person.path(f"/factors/{sleeping['id']}/confirm")
    body = {"passkey": device.create(sleeping["passkey"])}
    await served.refused(422, "step-up-required", "POST", where, body)


async def test_a_pending_factor_ends_by_itself(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    begun = await person.begin()
    served.world.clock.advance(timedelta(minutes=5))
    where = person.path(f"/factors/{begun['id']}/confirm")
    code = person.code(seed_of(begun["totp"]["secret"]))
    await served.refused(404, "factor-unknown", "POST", where, {"code": code})
    assert (await served.ok("GET", person.path("/factors")))["data"] == []


async def test_a_confirmation_must_be_right_and_comes_once(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    begun = await person.begin()
    where = person.path(f"/factors/{begun['id']}/confirm")
    person.seeds = {"x": seed_of(begun["totp"]["secret"])}
    await served.refused(422, "code-wrong", "POST", where, {"code": person.wrong_code()})
    await served.refused(422, "answer-kind", "POST", where, {})
    await person.confirm(begun)
    await served.refused(422, "factor-confirmed", "POST", where, {"code": person.code(steps=1)})
    other = await new_person(served, enrolled=False)
    theirs = other.path(f"/factors/{begun['id']}")
    for method, path, body in (
        ("POST", f"{theirs}/confirm", {"code": person.code(steps=1)}),
        ("PUT", theirs, {"name": "Mine"}),
        ("DELETE", theirs, None),
    ):
        await served.refused(404, "factor-unknown", method, path, body)


async def test_factors_are_limited(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    for kind in ("totp", "totp", *["passkey"] * 8):
        await person.begin(kind)
    body = {"kind": "passkey", "name": "One more"}
    await served.refused(422, "factors-too-many", "POST", person.path("/factors"), body)


async def test_a_first_factor_of_one_who_has_money_cools_off(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    done = await person.enrol()
    assert done["cooling_off_until"] is not None
    asked = {
        "purpose": "withdrawal",
        "amount": {"amount": "2.00", "currency": "EUR"},
        "destination": person.destination["id"],
    }
    problem = await served.refused(
        422, "step-up-cooling-off", "POST", person.path("/step-ups"), asked
    )
    assert problem["until"] == done["cooling_off_until"]
    # Acts on factors are not kept waiting.
    await person.proven(purpose="factor", act="add")
    served.world.clock.advance(timedelta(seconds=3600))
    assert (await served.ok("GET", person.path("/factors")))["cooling_off_until"] is None
    await person.proven()


async def test_a_first_factor_of_one_who_has_nothing_need_not_wait(served: Served) -> None:
    await served.ok("PUT", "/v1/users/newcomer", {})
    person = Person(served, "newcomer", {"id": "de_x"})
    assert (await person.enrol())["cooling_off_until"] is None


async def test_staff_reset_lost_factors_and_a_cooling_off_begins(served: Served) -> None:
    person = await new_person(served)
    verified = await person.proven()
    where = person.path("/factors/reset")
    weak = {"Authorization": f"Bearer {await served.key(['users', 'read'])}"}
    await served.refused(403, "scope-missing", "POST", where, {"reason": "x"}, headers=weak)
    done = await served.ok("POST", where, {"reason": "lost the phone"})
    left = await served.ok("GET", person.path("/factors"))
    assert (left["data"], left["recovery_codes_left"]) == ([], 0)
    assert left["cooling_off_until"] == done["cooling_off_until"]
    shown = await served.ok("GET", person.path(f"/step-ups/{verified}"))
    assert shown["state"] == "void"
    person.seeds.clear()
    await person.enrol()
    problem = await served.refused(
        422,
        "step-up-cooling-off",
        "POST",
        person.path("/step-ups"),
        {
            "purpose": "withdrawal",
            "amount": {"amount": "2.00", "currency": "EUR"},
            "destination": person.destination["id"],
        },
    )
    assert problem["until"] >= done["cooling_off_until"]
    user = await person.id()
    assert "security.factors_reset" in await topics(served, user)
    [(reason,)] = owner_rows(
        served.world,
        "SELECT reason FROM audit WHERE action = 'factor.reset' AND subject = %s",
        user,
    )
    assert reason == "lost the phone"


async def test_nothing_opens_after_erasure(served: Served) -> None:
    person = await new_person(served)
    asked = await person.ask_withdrawal()
    number = parse_text_id("us", await person.id()).id
    with psycopg.connect(served.world.owner_dsn, autocommit=True) as connection:
        connection.execute("SET search_path TO cell_1")
        connection.execute("DELETE FROM data_key WHERE user_id = %s", (number,))
    assert (await served.ok("GET", person.path("/factors")))["data"] == []
    where = person.path(f"/step-ups/{asked['id']}/verify")
    await served.refused(422, "user-erased", "POST", where, {"code": person.code()})
    body = {"kind": "totp", "name": "x"}
    await served.refused(422, "user-erased", "POST", person.path("/factors"), body)


async def test_a_suspended_user_proves_nothing(served: Served) -> None:
    person = await new_person(served)
    asked = await person.ask_withdrawal()
    await served.ok("PUT", person.path(), {"status": "suspended", "reason": "x"})
    calls: list[tuple[str, Any]] = [
        (f"/step-ups/{asked['id']}/verify", {"code": person.code()}),
        ("/step-ups", {"purpose": "factor", "act": "add"}),
        ("/factors", {"kind": "totp", "name": "x"}),
    ]
    for path, body in calls:
        await served.refused(422, "user-suspended", "POST", person.path(path), body)
