"""Step-ups by passkeys: what a browser signs, and what no honest one would."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
import pytest_asyncio
from tests.authenticator import Authenticator
from tests.served import Served
from tests.stepping import (
    EVERY_WITHDRAWAL,
    Person,
    new_person,
    set_policy,
    stepping,
    told,
)
from tests.world import PostgresServer, owner_rows
from webauthn.helpers import base64url_to_bytes

from paymaster.kernel.ids import parse_text_id

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


async def keyed(served: Served) -> Person:
    """A user with a passkey only."""
    person = await new_person(served, enrolled=False)
    await person.enrol("passkey")
    served.world.clock.advance(timedelta(seconds=3601))
    return person


def device_of(person: Person) -> Authenticator:
    assert person.device is not None
    return person.device


async def test_a_passkey_signs_this_amount_and_payee(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person = await keyed(served)
    asked = await person.ask_withdrawal()
    assert asked["methods"] == ["passkey", "recovery_code"]
    lines = asked["statement"].split("\n")
    assert lines[1:] == [
        asked["id"],
        asked["user"],
        "withdrawal",
        "2.00 EUR",
        person.destination["id"],
    ]
    nonce = base64url_to_bytes(asked["nonce"])
    told_ = hashlib.sha256(nonce + asked["statement"].encode()).digest()
    assert base64url_to_bytes(asked["passkey"]["challenge"]) == told_
    answer = device_of(person).get(asked["passkey"])
    done = await person.verify(asked["id"], passkey=answer)
    assert (done["state"], done["method"]) == ("verified", "passkey")
    assert await told(person, step_up=asked["id"]) == (202, None)


@pytest.mark.parametrize("column", ["amount = 100000", "payee = 'de_0100000000000ZZ'"])
async def test_an_assertion_does_not_hold_for_a_row_that_was_altered(
    served: Served, column: str
) -> None:
    person = await keyed(served)
    asked = await person.ask_withdrawal()
    answer = device_of(person).get(asked["passkey"])
    number = parse_text_id("su", asked["id"]).id
    with psycopg.connect(served.world.owner_dsn, autocommit=True) as connection:
        statement = f"UPDATE cell_1.step_up SET {column} WHERE id = %s"
        connection.execute(statement.encode(), (number,))
    where = person.path(f"/step-ups/{asked['id']}/verify")
    problem = await served.refused(422, "passkey-refused", "POST", where, {"passkey": answer})
    assert problem["fault"] == "challenge"


async def test_a_replayed_assertion_is_refused(served: Served) -> None:
    person = await keyed(served)
    asked = await person.ask_withdrawal()
    answer = device_of(person).get(asked["passkey"])
    await person.verify(asked["id"], passkey=answer)
    where = person.path(f"/step-ups/{asked['id']}/verify")
    await served.refused(422, "step-up-verified", "POST", where, {"passkey": answer})
    again = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{again['id']}/verify")
    problem = await served.refused(422, "passkey-refused", "POST", where, {"passkey": answer})
    assert problem["fault"] == "challenge"


async def test_a_challenge_is_taken_once_and_a_code_may_still_follow(served: Served) -> None:
    person = await new_person(served)
    await person.enrol("passkey", await person.proven(purpose="factor", act="add"))
    asked = await person.ask_withdrawal()
    device = device_of(person)
    device.origin = "https://evil.example"
    where = person.path(f"/step-ups/{asked['id']}/verify")
    bad = {"passkey": device.get(asked["passkey"])}
    await served.refused(422, "passkey-refused", "POST", where, bad)
    device.origin = "http://localhost:8080"
    good = {"passkey": device.get(asked["passkey"])}
    await served.refused(422, "challenge-spent", "POST", where, good)
    shown = await served.ok("GET", person.path(f"/step-ups/{asked['id']}"))
    assert shown["methods"] == ["totp", "recovery_code"]
    await person.verify(asked["id"], code=person.fresh_code())


async def test_another_users_passkey_proves_nothing(served: Served) -> None:
    person, thief = await keyed(served), await keyed(served)
    asked = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{asked['id']}/verify")
    answer = {"passkey": device_of(thief).get(asked["passkey"])}
    problem = await served.refused(422, "passkey-refused", "POST", where, answer)
    assert problem["fault"] == "user"


async def test_a_passkey_belongs_to_one_user(served: Served) -> None:
    person, thief = await keyed(served), await new_person(served, enrolled=False)
    begun = await thief.begin("passkey")
    where = thief.path(f"/factors/{begun['id']}/confirm")
    answer = {"passkey": device_of(person).create(begun["passkey"])}
    await served.refused(422, "passkey-known", "POST", where, answer)


async def test_a_counter_that_goes_back_is_refused_and_told(served: Served) -> None:
    person = await keyed(served)
    device = device_of(person)
    asked = await person.ask_withdrawal()
    device.counter = 7
    await person.verify(asked["id"], passkey=device.get(asked["passkey"]))
    device.counter = 3
    again = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{again['id']}/verify")
    copied = {"passkey": device.get(again["passkey"])}
    await served.refused(422, "passkey-copied", "POST", where, copied)
    user = asked["user"]
    assert owner_rows(
        served.world,
        "SELECT count(*) FROM outbox WHERE key = %s AND topic = 'security.passkey_copied'",
        user,
    ) == [(1,)]


async def test_a_wrong_registration_spends_its_challenge(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    begun = await person.begin("passkey")
    where = person.path(f"/factors/{begun['id']}/confirm")
    device = Authenticator(verifies=False)
    bad = {"passkey": device.create(begun["passkey"])}
    problem = await served.refused(422, "passkey-refused", "POST", where, bad)
    assert problem["fault"] == "verification"
    device.verifies = True
    good = {"passkey": device.create(begun["passkey"])}
    await served.refused(422, "challenge-spent", "POST", where, good)


async def test_guesses_at_codes_do_not_keep_a_passkey_from_serving(served: Served) -> None:
    person = await keyed(served)
    asked = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{asked['id']}/verify")
    for _ in range(5):
        await served.refused(422, "code-wrong", "POST", where, {"code": "000000"})
    await served.refused(429, "codes-locked", "POST", where, {"code": "000000"})
    answer = device_of(person).get(asked["passkey"])
    assert (await person.verify(asked["id"], passkey=answer))["state"] == "verified"
