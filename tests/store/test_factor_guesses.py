"""Codes guessed at: brute force is locked, alone and side by side, and nobody else with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import pytest_asyncio
from tests.served import Served
from tests.stepping import new_person, stepping
from tests.world import PostgresServer, owner_rows

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with stepping(postgres, tmp_path_factory.mktemp("factors")) as made:
        yield made


async def test_brute_force_on_a_totp_locks_codes_of_this_user_only(served: Served) -> None:
    person, other = await new_person(served), await new_person(served)
    served.world.clock.advance(timedelta(seconds=30))
    asked = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{asked['id']}/verify")
    for _ in range(5):
        await served.refused(422, "code-wrong", "POST", where, {"code": person.wrong_code()})
    # The right code is refused as well, as is a recovery code.
    for right in ({"code": person.code()}, {"recovery_code": person.codes[0]}):
        problem = await served.refused(429, "codes-locked", "POST", where, right)
        assert problem["retryable"] is True
    answer = await served.api.post(where, json={"code": person.code()})
    assert 890 <= int(answer.headers["retry-after"]) <= 900
    user = await person.id()
    [(kind, subject)] = owner_rows(
        served.world,
        "SELECT payload->>'kind', payload->>'subject' FROM control.outbox"
        " WHERE topic = 'security.locked_out' AND payload->>'subject' = %s",
        user,
    )
    assert (kind, subject) == ("totp", user)
    assert owner_rows(
        served.world,
        "SELECT count(*) FROM control.audit WHERE action = 'security.locked_out' AND subject = %s",
        f"totp:{user}",
    ) == [(1,)]
    # Another user is not concerned, nor is the money of this one anywhere else.
    theirs = await other.ask_withdrawal()
    assert (await other.verify(theirs["id"], code=other.code()))["state"] == "verified"
    # When the lock is over, the right code is right again.
    served.world.clock.advance(timedelta(seconds=901))
    later = await person.ask_withdrawal()
    assert (await person.verify(later["id"], code=person.code()))["state"] == "verified"


async def test_brute_force_on_recovery_codes_is_locked_too(served: Served) -> None:
    person = await new_person(served)
    asked = await person.ask_withdrawal()
    where = person.path(f"/step-ups/{asked['id']}/verify")
    for _ in range(5):
        bad = {"recovery_code": "0000-0000-0000-0000"}
        await served.refused(422, "code-wrong", "POST", where, bad)
    await served.refused(429, "codes-locked", "POST", where, {"recovery_code": person.codes[0]})
    left = (await served.ok("GET", person.path("/factors")))["recovery_codes_left"]
    assert left == 10


async def test_guesses_side_by_side_are_no_more_than_one_after_the_other(served: Served) -> None:
    person = await new_person(served)
    asked = [await person.ask_withdrawal() for _ in range(4)]
    wrong = {"code": person.wrong_code()}
    answers = await asyncio.gather(
        *(
            served.api.post(person.path(f"/step-ups/{asked[number % 4]['id']}/verify"), json=wrong)
            for number in range(24)
        )
    )
    told = [answer.json()["code"] for answer in answers]
    assert sorted(set(told)) == ["code-wrong", "codes-locked"]
    assert told.count("code-wrong") == 5


async def test_a_right_code_forgets_the_wrong_ones(served: Served) -> None:
    person = await new_person(served)
    for _ in range(3):
        asked = await person.ask_withdrawal()
        where = person.path(f"/step-ups/{asked['id']}/verify")
        for _ in range(3):
            await served.refused(422, "code-wrong", "POST", where, {"code": person.wrong_code()})
        await person.verify(asked["id"], code=person.fresh_code())


async def test_what_cannot_be_verified_is_no_guess(served: Served) -> None:
    person = await new_person(served)
    done = await person.proven()
    where = person.path(f"/step-ups/{done}/verify")
    for _ in range(8):
        await served.refused(422, "step-up-verified", "POST", where, {"code": "000000"})
    unknown = person.path("/step-ups/su_0100000000000ZZ/verify")
    for _ in range(8):
        await served.refused(404, "step-up-unknown", "POST", unknown, {"code": "000000"})
    for bad in ({}, {"code": "000000", "recovery_code": "x"}):
        await served.refused(422, "answer-kind", "POST", where, bad)
    await person.proven()
