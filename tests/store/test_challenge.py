"""Screening asks the user for a proof: given once for this amount and payee, or not in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.desk import REASON, code
from tests.screening import rule_set
from tests.served import Served, client
from tests.stepping import OTHER_IBAN, Person, new_key, new_person, stepping
from tests.withdrawals import Earner, assert_proven, available, state_of
from tests.world import PostgresServer, owner_rows

from paymaster.kernel.ids import parse_text_id
from paymaster.people import four_eyes
from paymaster.roles.work import _unanswered
from paymaster.screen import decide as screening
from paymaster.screen.decide import Decided

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKS = rule_set(
    7,
    {"rule": "minimum", "parameters": {"amounts": {"EUR": "20"}, "outcome": "challenge"}},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with stepping(postgres, tmp_path_factory.mktemp("challenge")) as made:
        yield made
        await assert_proven(made.world)


async def screened(served: Served, number: int) -> Decided:
    """One round of the screening worker."""
    claimed = await served.world.run(lambda tx: screening.claim(tx, 100))
    decided = await served.world.run(lambda tx: screening.decide(tx, claimed, ASKS))
    return next(one for one in decided if one.withdrawal_id == number)


async def challenged(served: Served, *, enrolled: bool = True) -> tuple[Person, str, int]:
    """A person, and the withdrawal of 2.00 that asks for a proof."""
    person = await new_person(served, enrolled=enrolled)
    made = (await person.withdraw()).json()["id"]
    number = parse_text_id("wd", made).id
    assert (await screened(served, number)).state == "challenged"
    return person, f"/v1/withdrawals/{made}", number


async def token(served: Served, person: Person) -> str:
    found: str = (await served.ok("POST", person.path("/tokens")))["token"]
    return found


async def test_answered_by_the_earner_and_judged_anew(served: Served) -> None:
    person, path, number = await challenged(served)
    step_up = await person.proven()
    async with client(served.app, await token(served, person)) as own:
        done = await own.post(f"{path}/challenge", json={"step_up": step_up})
        assert (done.status_code, done.json()["state"]) == (200, "challenged"), done.text
        assert done.json()["challenge"] == "answered"
        again = await own.post(f"{path}/challenge", json={"step_up": step_up})
        assert again.status_code == 200, "twice is harmless, while it waits to be judged"
    assert (await screened(served, number)).state == "approved"
    used = await served.ok("GET", person.path(f"/step-ups/{step_up}"))
    assert (used["state"], used["used_for"]) == ("used", path.rpartition("/")[2])
    late = await served.api.post(f"{path}/challenge", json={"step_up": step_up})
    assert code(late) == (409, "illegal-move")
    assert late.json()["state"] == "approved"
    acts = owner_rows(
        served.world,
        "SELECT action, actor LIKE 'user:%%' FROM audit WHERE subject = %s ORDER BY commit_id",
        path.rpartition("/")[2],
    )
    assert ("withdrawal.prove", True) in acts


async def test_it_is_told_whether_the_proof_was_given(served: Served) -> None:
    person, path, number = await challenged(served)

    async def told(caller: Any) -> list[Any]:
        one = (await caller.get(path)).json()
        [listed] = (await caller.get("/v1/withdrawals", params={"user": person.name})).json()[
            "data"
        ]
        said = (await caller.get(f"{path}/explain")).json()
        found = [one["state"], one["challenge"], listed["challenge"]]
        return [*found, said["challenge"], said["stage"], said["next"]["who"]]

    async def both() -> list[Any]:
        async with client(served.app, await token(served, person)) as own:
            mine = await told(own)
        assert await told(served.api) == mine
        return mine

    asked = ["challenged", "asked", "asked", "asked", "proof-needed", "user"]
    assert await both() == asked
    body = {"step_up": await person.proven()}
    assert (await served.api.post(f"{path}/challenge", json=body)).status_code == 200
    given = ["challenged", "answered", "answered", "answered", "checking", "paymaster"]
    assert await both() == given
    money = await served.ok("GET", f"{person.path()}/money")
    [held] = money["data"][0]["held"]["items"]
    assert (held["stage"], held["next"]) == ("checking", "paymaster")
    staff = await served.ok("GET", f"{path}/explain", params={"for": "staff"})
    assert staff["staff"]["message"].startswith("The earner has given the proof")

    hold = await served.ok(
        "POST", "/v1/holds",
        {"subject": path.rpartition("/")[2], "reference": "7 Gs 7", "reason": "served"},
    )  # fmt: skip
    async with client(served.app, await token(served, person)) as own:
        assert await told(own) == ["in_review", None, None, None, "under-review", "operator"]
    await _lifted(served, hold["id"])
    assert await both() == given
    assert (await screened(served, number)).state == "approved"
    assert (await served.ok("GET", path))["challenge"] is None


async def test_the_app_passes_it_on_too(served: Served) -> None:
    person, path, number = await challenged(served)
    body = {"step_up": await person.proven()}
    assert (await served.api.post(f"{path}/challenge", json=body)).status_code == 200
    assert (await screened(served, number)).state == "approved"


async def test_only_a_proof_for_this_amount_and_payee(served: Served) -> None:
    person, path, number = await challenged(served)
    account = {"kind": "iban", "currency": "EUR", "details": OTHER_IBAN}
    second = await served.ok("POST", person.path("/destinations"), account)
    stranger = await new_person(served)
    open_one = (await person.ask_withdrawal())["id"]
    dearer = await person.ask_withdrawal("2.01")
    elsewhere = await person.ask_withdrawal(destination=second["id"])
    for asked in (dearer, elsewhere):
        await person.verify(asked["id"], code=person.fresh_code())
    for step_up, wanted in (
        (None, "step-up-required"),
        (open_one, "step-up-unverified"),
        (dearer["id"], "step-up-mismatch"),
        (elsewhere["id"], "step-up-mismatch"),
        (await stranger.proven(), "step-up-mismatch"),
        ("su_0100000000000ZZ", "step-up-mismatch"),
    ):
        body = {} if step_up is None else {"step_up": step_up}
        answer = await served.api.post(f"{path}/challenge", json=body)
        assert code(answer) == (422, wanted)
    assert await screening_finds_nothing(served, number)
    assert await state_of(served.world, number) == "challenged"


async def screening_finds_nothing(served: Served, number: int) -> bool:
    """What was not answered is not taken up by a worker, however long it waits."""
    claimed = await served.world.run(lambda tx: screening.claim(tx, 100))
    return number not in [one.withdrawal_id for one in claimed]


async def test_nobody_answers_for_another(served: Served) -> None:
    person, path, _ = await challenged(served)
    stranger = await new_person(served)
    body = {"step_up": await person.proven()}
    async with client(served.app, await token(served, stranger)) as other:
        assert code(await other.post(f"{path}/challenge", json=body)) == (404, "not-found")
    assert (await served.api.post(f"{path}/challenge", json=body)).status_code == 200


async def test_one_step_up_answers_one_challenge(served: Served) -> None:
    person, path, _ = await challenged(served)
    made = (await served.api.post(
        "/v1/withdrawals", json=person.body(), headers=new_key())).json()["id"]  # fmt: skip
    number = parse_text_id("wd", made).id
    assert (await screened(served, number)).state == "challenged"
    body = {"step_up": await person.proven()}
    assert (await served.api.post(f"{path}/challenge", json=body)).status_code == 200
    second = await served.api.post(f"/v1/withdrawals/{made}/challenge", json=body)
    assert code(second) == (422, "step-up-used")


async def test_a_user_without_a_factor_is_told_where_to_add_one(served: Served) -> None:
    _, path, _ = await challenged(served, enrolled=False)
    answer = await served.api.post(f"{path}/challenge", json={})
    assert code(answer) == (422, "step-up-required")
    assert answer.json()["next"].endswith("/factors")


async def reminded(served: Served, path: str) -> list[dict[str, Any]]:
    rows = owner_rows(
        served.world,
        "SELECT payload FROM outbox WHERE topic = 'withdrawal.challenge_reminder'"
        " AND payload ->> 'id' = %s",
        path.rpartition("/")[2],
    )
    return [row[0] for row in rows]


async def test_reminded_once_and_then_denied(served: Served) -> None:
    person, path, _ = await challenged(served)
    passed, passed_path, passed_number = await challenged(served)
    body = {"step_up": await passed.proven()}
    assert (await served.api.post(f"{passed_path}/challenge", json=body)).status_code == 200
    cell, rules = served.world.dbs.cell(1), served.deps.settings.step_up
    await _unanswered(served.deps, cell)
    assert await reminded(served, path) == []
    served.world.clock.advance(timedelta(hours=rules.remind_hours))
    for _ in range(2):
        await _unanswered(served.deps, cell)
    (reminder,) = await reminded(served, path)
    assert reminder["amount"] == {"amount": "2.00", "currency": "EUR"}
    assert reminder["answer_by"] > reminder["asked_at"]
    assert await reminded(served, passed_path) == [], "that one has answered"
    served.world.clock.advance(timedelta(hours=rules.answer_hours - rules.remind_hours))
    await _unanswered(served.deps, cell)
    found = await served.ok("GET", path)
    assert (found["state"], found["reason"]) == ("denied", "challenge-unanswered")
    user = await served.ok("GET", person.path())
    ids = (parse_text_id("us", user["id"]).id, parse_text_id("de", person.destination["id"]).id)
    assert await available(served.world, Earner(*ids)) == ("20.00", "0.00")
    assert await state_of(served.world, passed_number) == "challenged"
    assert (await screened(served, passed_number)).state == "approved"


async def test_what_is_frozen_is_neither_reminded_of_nor_denied(served: Served) -> None:
    person, path, number = await challenged(served)
    step_up = await person.proven()
    hold = await served.ok(
        "POST", "/v1/holds",
        {"subject": path.rpartition("/")[2], "reference": "8 Gs 8", "reason": "served"},
    )  # fmt: skip
    answer = await served.api.post(f"{path}/challenge", json={"step_up": step_up})
    assert code(answer) == (409, "held-by-order")
    served.world.clock.advance(timedelta(days=30))
    await _unanswered(served.deps, served.world.dbs.cell(1))
    assert await reminded(served, path) == []
    assert await state_of(served.world, number) == "challenged"
    await _lifted(served, hold["id"])
    await _unanswered(served.deps, served.world.dbs.cell(1))
    assert await state_of(served.world, number) == "denied"


async def test_a_proof_stays_given_while_it_is_frozen(served: Served) -> None:
    person, path, number = await challenged(served)
    body = {"step_up": await person.proven()}
    assert (await served.api.post(f"{path}/challenge", json=body)).status_code == 200
    hold = await served.ok(
        "POST", "/v1/holds",
        {"subject": path.rpartition("/")[2], "reference": "9 Gs 9", "reason": "served"},
    )  # fmt: skip
    assert await screening_finds_nothing(served, number)
    await _lifted(served, hold["id"])
    assert (await screened(served, number)).state == "approved"


async def _lifted(served: Served, hold: str) -> None:
    from paymaster.withdraw import holds

    number = parse_text_id("lh", hold).id
    await served.world.run(lambda tx: holds.lift(tx, number, "over"))
    assert four_eyes.LIFT_ACT == "hold.lift"


async def test_an_operator_decides_instead(served: Served) -> None:
    _, path, number = await challenged(served)
    done: httpx.Response = await served.api.post(f"{path}/approve", json=REASON)
    assert done.json()["state"] == "approved"
    assert await state_of(served.world, number) == "approved"
