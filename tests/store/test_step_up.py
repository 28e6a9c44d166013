"""Step-ups: bound to one act, used once; and no way around the policy, the hot path included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from tests.served import IBAN, Served
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

from paymaster.api import hot_withdrawals
from paymaster.kernel.ids import parse_text_id
from paymaster.kernel.money import Money
from paymaster.people.factors.proof import Shown
from paymaster.withdraw.request import RequestWithdrawal, request

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


@pytest.fixture
def answered_here(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request whether it was answered in front of the framework."""
    seen: list[bool] = []
    inner = hot_withdrawals.asked

    async def noting(*given: Any) -> Any:
        seen.append(True)
        return await inner(*given)

    monkeypatch.setattr(hot_withdrawals, "asked", noting)
    return seen


async def made(served: Served, person: Person) -> int:
    """How many withdrawals the user has."""
    return len((await served.ok("GET", f"{PATH}?user={person.name}"))["data"])


async def test_without_a_policy_nothing_is_asked(served: Served, answered_here: list[bool]) -> None:
    person = await new_person(served, enrolled=False)
    assert await told(person) == (202, None)
    assert answered_here == [True]


async def test_the_hot_path_skips_no_step_up(served: Served, answered_here: list[bool]) -> None:
    person = await new_person(served)
    await set_policy(served, above("5.00"))
    assert await told(person, "5.00") == (202, None)
    assert answered_here == [True]
    slowly = {"Content-Encoding": "identity"}
    for number, headers in enumerate(({}, slowly)):
        key = {"Idempotency-Key": f"skip{number}", **headers}
        answer = await served.api.post(PATH, json=person.body("5.01"), headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "step-up-required")
        assert answer.json()["next"].startswith("POST /v1/users/us_")
    # However the amount or the body is written.
    for body in (
        {**person.body("5.01"), "step_up": None},
        {**person.body("5.01"), "amount": {"currency": "EUR", "amount": "5.01"}},
    ):
        answer = await served.api.post(PATH, json=body, headers=new_key())
        assert answer.json()["code"] == "step-up-required"
    assert answered_here == [True]
    assert await made(served, person) == 1
    proof = await proven_for(person, "5.01")
    assert await told(person, "5.01", step_up=proof) == (202, None)
    assert answered_here == [True]


async def proven_for(person: Person, amount: str) -> str:
    asked = await person.ask_withdrawal(amount)
    await person.verify(asked["id"], code=person.fresh_code())
    return asked["id"]


async def test_a_change_of_policy_counts_for_the_next_request(served: Served) -> None:
    person = await new_person(served, enrolled=False)
    assert await told(person, "1.00") == (202, None)
    await set_policy(served, EVERY_WITHDRAWAL)
    assert await told(person, "1.00") == (422, "step-up-required")
    await set_policy(served, {**EVERY_WITHDRAWAL, "applies_to": "users"})
    assert await told(person, "1.00") == (202, None)


async def test_what_was_answered_before_the_policy_came_is_answered_the_same(
    served: Served,
) -> None:
    person = await new_person(served, enrolled=False)
    key, body = new_key(), person.body()
    first = await served.api.post(PATH, json=body, headers=key)
    await set_policy(served, EVERY_WITHDRAWAL)
    again = await served.api.post(PATH, json=body, headers=key)
    assert (again.status_code, again.content) == (202, first.content)
    refused = new_key()
    no = await served.api.post(PATH, json=body, headers=refused)
    assert no.json()["code"] == "step-up-required"
    await set_policy(served)
    kept = await served.api.post(PATH, json=body, headers=refused)
    assert (kept.status_code, kept.content) == (422, no.content)


async def test_a_user_without_a_factor_is_told_to_add_one(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person = await new_person(served, enrolled=False)
    answer = await person.withdraw()
    assert answer.json()["next"].endswith("/factors")
    assert "add one first" in answer.json()["detail"]
    await served.refused(
        422,
        "factor-missing",
        "POST",
        person.path("/step-ups"),
        {"purpose": "factor", "act": "add"},
    )


async def test_a_step_up_serves_once_and_its_replay_is_the_first_answer(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person = await new_person(served)
    proof = await person.proven()
    key, body = new_key(), person.body(step_up=proof)
    first = await served.api.post(PATH, json=body, headers=key)
    assert first.status_code == 202
    again = await served.api.post(PATH, json=body, headers=key)
    assert (again.status_code, again.content) == (202, first.content)
    assert await told(person, step_up=proof) == (422, "step-up-used")
    shown = await served.ok("GET", person.path(f"/step-ups/{proof}"))
    assert (shown["state"], shown["used_for"]) == ("used", first.json()["id"])
    assert await made(served, person) == 1
    where = person.path(f"/step-ups/{proof}/verify")
    await served.refused(422, "step-up-used", "POST", where, {"code": person.fresh_code()})


async def test_two_withdrawals_at_once_share_no_step_up(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person = await new_person(served)
    proof = await person.proven()
    answers = await asyncio.gather(*(told(person, step_up=proof) for _ in range(6)))
    assert sorted(answers) == [(202, None)] + [(422, "step-up-used")] * 5
    assert await made(served, person) == 1


async def test_requests_that_are_merged_share_no_step_up(served: Served) -> None:
    person = await new_person(served)
    proof = await person.proven()
    user = parse_text_id("us", await person.id())
    command = RequestWithdrawal(
        user.id,
        parse_text_id("de", person.destination["id"]).id,
        Money.parse("2.00", "EUR"),
        shown=Shown(required=True, step_up=proof),
    )
    done = await served.world.run(lambda tx: request(tx, [command] * 3), user.cell)
    assert [one.slug for one in done] == [None, "step-up-used", "step-up-used"]
    assert await made(served, person) == 1


async def test_another_amount_payee_purpose_or_user_does_not_fit(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person, other = await new_person(served), await new_person(served)
    second = await served.ok("POST", person.path("/destinations"), {**IBAN, "details": OTHER_IBAN})
    proof = await person.proven()
    for fault, more in {
        "amount": {"amount": {"amount": "2.01", "currency": "EUR"}},
        "payee": {"destination": second["id"]},
    }.items():
        body = {**person.body(step_up=proof), **more}
        problem = await served.refused(
            422, "step-up-mismatch", "POST", PATH, body, headers=new_key()
        )
        assert problem["fault"] == fault
    theirs = other.body(step_up=proof)
    problem = await served.refused(422, "step-up-mismatch", "POST", PATH, theirs, headers=new_key())
    assert problem["fault"] == "user"
    purpose = await person.proven(purpose="factor", act="add")
    mine = person.body(step_up=purpose)
    problem = await served.refused(422, "step-up-mismatch", "POST", PATH, mine, headers=new_key())
    assert problem["fault"] == "purpose"
    # None of that used it up.
    assert await told(person, step_up=proof) == (202, None)


@pytest.mark.parametrize("name", ["su_0100000000000ZZ", "su_ZZ00000000000ZZ", "wd_x", "x", ""])
async def test_a_step_up_that_there_is_not_is_told_as_one_of_another_user(
    served: Served, name: str
) -> None:
    person = await new_person(served, enrolled=False)
    assert await told(person, step_up=name) == (422, "step-up-mismatch")


async def test_one_that_was_not_verified_or_has_expired_does_not_serve(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person = await new_person(served)
    asked = await person.ask_withdrawal()
    assert asked["state"] == "open"
    assert await told(person, step_up=asked["id"]) == (422, "step-up-unverified")
    done = await person.verify(asked["id"], code=person.fresh_code())
    assert done["state"] == "verified"
    served.world.clock.advance(timedelta(minutes=5))
    assert await told(person, step_up=asked["id"]) == (422, "step-up-expired")
    shown = await served.ok("GET", person.path(f"/step-ups/{asked['id']}"))
    assert shown["state"] == "expired"
    late = await person.ask_withdrawal()
    served.world.clock.advance(timedelta(minutes=5))
    where = person.path(f"/step-ups/{late['id']}/verify")
    await served.refused(422, "step-up-expired", "POST", where, {"code": person.code()})


async def test_a_refused_withdrawal_leaves_its_step_up_unused(served: Served) -> None:
    await set_policy(served, EVERY_WITHDRAWAL)
    person = await new_person(served)
    proof = await proven_for(person, "19.00")
    spend = await person.proven()
    assert await told(person, step_up=spend) == (202, None)
    assert await told(person, "19.00", step_up=proof) == (422, "insufficient-funds")
    shown = await served.ok("GET", person.path(f"/step-ups/{proof}"))
    assert shown["state"] == "verified"


async def test_a_given_step_up_is_checked_and_used_up_without_a_policy_too(served: Served) -> None:
    person = await new_person(served)
    proof = await person.proven()
    assert await told(person, "3.00", step_up=proof) == (422, "step-up-mismatch")
    assert await told(person, step_up=proof) == (202, None)
    assert await told(person, step_up=proof) == (422, "step-up-used")


async def test_a_cooling_off_keeps_what_was_proven_before_it(served: Served) -> None:
    await set_policy(served, above("5.00"))
    person = await new_person(served)
    proof = await proven_for(person, "6.00")
    await served.ok("POST", person.path("/factors/reset"), {"reason": "lost"})
    problem = await served.refused(
        422,
        "step-up-cooling-off",
        "POST",
        PATH,
        person.body("6.00", step_up=proof),
        headers=new_key(),
    )
    assert problem["until"] > "2026"
    assert await told(person, "6.00") == (422, "step-up-cooling-off")
    # What needs no step-up goes on.
    assert await told(person, "5.00") == (202, None)
    served.world.clock.advance(timedelta(seconds=3601))
    assert await told(person, "6.00", step_up=proof) == (422, "step-up-void")


async def test_a_new_destination_needs_one_and_the_same_again_does_not(served: Served) -> None:
    person = await new_person(served)
    await set_policy(served, EVERY_DESTINATION)
    where = person.path("/destinations")
    assert (await served.ok("POST", where, IBAN))["id"] == person.destination["id"]
    body = {**IBAN, "details": OTHER_IBAN}
    before = owner_rows(served.world, "SELECT count(*) FROM control.registry")
    await served.refused(422, "step-up-required", "POST", where, body)
    assert owner_rows(served.world, "SELECT count(*) FROM control.registry") == before
    proof = await person.proven(purpose="destination", account=body)
    altered = {**body, "details": {**OTHER_IBAN, "holder": "C. Example"}}
    for wrong in (altered, {**body, "currency": "USD"}):
        problem = await served.refused(
            422, "step-up-mismatch", "POST", where, {**wrong, "step_up": proof}
        )
        assert problem["fault"] == "payee"
    made_ = await served.ok("POST", where, {**body, "step_up": proof})
    # A retry after a lost answer finds it there.
    again = await served.ok("POST", where, {**body, "step_up": proof})
    assert again["id"] == made_["id"]
    shown = await served.ok("GET", person.path(f"/step-ups/{proof}"))
    assert (shown["state"], shown["used_for"]) == ("used", made_["id"])
    assert "M02606" not in shown["payee"]
    third = {**body, "details": {"iban": "NL91ABNA0417164300", "holder": "B. Example"}}
    await served.refused(422, "step-up-mismatch", "POST", where, {**third, "step_up": proof})


async def test_what_a_step_up_is_for_must_be_told_exactly(served: Served) -> None:
    person = await new_person(served)
    where = person.path("/step-ups")
    amount = {"amount": "2.00", "currency": "EUR"}
    for body in (
        {"purpose": "withdrawal", "amount": amount},
        {"purpose": "withdrawal", "destination": person.destination["id"]},
        {"purpose": "factor"},
        {"purpose": "factor", "act": "remove"},
        {"purpose": "factor", "act": "add", "factor": "fa_0100000000000ZZ"},
        {"purpose": "factor", "act": "add", "amount": amount},
        {"purpose": "destination"},
        {"purpose": "anything"},
    ):
        await served.refused(400, "request-invalid", "POST", where, body)
    other = await new_person(served, enrolled=False)
    ask = {"purpose": "withdrawal", "amount": amount}
    await served.refused(
        404,
        "destination-unknown",
        "POST",
        where,
        {**ask, "destination": other.destination["id"]},
    )
    zero = {**ask, "amount": {"amount": "0.00", "currency": "EUR"}}
    await served.refused(
        422,
        "amount-not-positive",
        "POST",
        where,
        {**zero, "destination": person.destination["id"]},
    )
