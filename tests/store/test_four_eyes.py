"""Above a limit an act waits for a second person: who counts as one, and that it runs once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from tests.desk import REASON, Desk, code, in_review, limit
from tests.served import Served, add_environment, serve
from tests.staffing import browser, cookie_for, invite
from tests.withdrawals import available, state_of
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.api.approvals import ACTS
from paymaster.people import four_eyes, staff
from paymaster.people.four_eyes_machine import APPROVAL, ApprovalState
from paymaster.people.staff_roles import Role
from paymaster.roles import staffing


@pytest.fixture
async def served(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(postgres, tmp_path) as found:
        yield found


@pytest.fixture
async def desk(served: Served) -> AsyncIterator[Desk]:
    made = Desk(served)
    yield made
    for one in made.open:
        await one.aclose()


def test_the_table_of_approvals() -> None:
    assert APPROVAL.terminal() == {"approved", "refused", "withdrawn", "expired"}
    assert APPROVAL.initial == ApprovalState.PROPOSED
    assert set(ACTS) == set(four_eyes.ACTS)


async def test_below_the_limit_one_person_decides(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "40.00")
    await limit(served, "withdrawal.deny", "0.00", "USD")
    _, number, path = await in_review(served, "40.00")
    anna = await desk.session("anna")
    assert (await anna.post(f"{path}/approve", json=REASON)).json()["state"] == "approved"
    assert await state_of(served.world, number) == "approved"
    assert (await anna.get("/v1/approvals")).json()["data"] == []


async def test_above_it_a_second_person_does(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.deny", "39.99")
    earner, number, path = await in_review(served)
    anna, bea = await desk.session("anna"), await desk.session("bea", Role.RISK)
    asked = await anna.post(f"{path}/deny", json={"reason": "no such person"})
    waiting = asked.json()
    assert asked.status_code == 202
    assert (waiting["state"], waiting["act"]) == ("proposed", "withdrawal.deny")
    assert waiting["amount"] == {"amount": "40.00", "currency": "EUR"}
    assert await state_of(served.world, number) == "in_review"
    assert (await anna.get(path)).json()["state"] == "in_review"
    again = await anna.post(f"{path}/deny", json={"reason": "again"})
    assert code(again) == (409, "approval-waiting")
    assert again.json()["approval"] == waiting["approval"]
    listed = (await bea.get("/v1/approvals", params={"state": "proposed"})).json()["data"]
    assert [one["approval"] for one in listed] == [waiting["approval"]]
    address = f"/v1/approvals/{waiting['approval']}"
    assert (await bea.get(address)).json() == waiting
    done = (await bea.post(f"{address}/approve", json=REASON)).json()
    assert (done["result"]["state"], done["approval"]["state"]) == ("denied", "approved")
    assert await state_of(served.world, number) == "denied"
    assert await available(served.world, earner) == ("100.00", "0.00")
    acts = owner_rows(
        served.world,
        "SELECT action, actor, reason, detail ->> 'proposer', origin FROM audit"
        " WHERE subject IN (%s, %s) AND action NOT LIKE '%%request' ORDER BY commit_id, ordinal",
        waiting["approval"],
        waiting["subject"],
    )
    proposer, second = waiting["proposer"], done["approval"]["decider"]
    assert proposer != second
    assert acts == [
        ("approval.proposed", proposer, "no such person", proposer, "192.0.2.7"),
        ("approval.approved", second, "looked at it", proposer, "192.0.2.7"),
        ("withdrawal.deny", second, "no such person", None, "192.0.2.7"),
    ]
    commits = owner_rows(
        served.world, "SELECT count(DISTINCT commit_id) FROM audit WHERE actor = %s", second
    )
    assert commits == [(1,)]


async def test_two_keys_of_one_person_are_one_person(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    _, number, path = await in_review(served)
    anna = await invite(served, "anna", Role.FINANCE)
    first, second = await desk.key(anna), await desk.key(anna)
    waiting = (await first.post(f"{path}/approve", json=REASON)).json()["approval"]
    answer = await second.post(f"/v1/approvals/{waiting}/approve", json=REASON)
    assert code(answer) == (403, "second-person-needed")
    assert await state_of(served.world, number) == "in_review"


async def test_a_person_and_a_key_of_that_person_are_one(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    anna = await invite(served, "anna", Role.FINANCE)
    session, key = await desk.again(anna), await desk.key(anna)
    for first, second in ((session, key), (key, session), (session, session)):
        _, number, path = await in_review(served)
        waiting = (await first.post(f"{path}/approve", json=REASON)).json()["approval"]
        answer = await second.post(f"/v1/approvals/{waiting}/approve", json=REASON)
        assert code(answer) == (403, "second-person-needed")
        assert await state_of(served.world, number) == "in_review"


async def test_a_key_without_an_owner_is_nobody(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    _, number, path = await in_review(served)
    anna, nobody = await desk.session("anna"), await desk.key(None)
    assert code(await nobody.post(f"{path}/approve", json=REASON)) == (403, "person-needed")
    waiting = (await anna.post(f"{path}/approve", json=REASON)).json()["approval"]
    for verb in ("approve", "refuse", "withdraw"):
        answer = await nobody.post(f"/v1/approvals/{waiting}/{verb}", json=REASON)
        assert code(answer) == (403, "second-person-needed")
    assert await state_of(served.world, number) == "in_review"


async def test_a_key_of_another_person_is_a_second_one(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    _, number, path = await in_review(served)
    bea = await invite(served, "bea", Role.FINANCE)
    anna, key = await desk.session("anna"), await desk.key(bea)
    waiting = (await anna.post(f"{path}/approve", json=REASON)).json()["approval"]
    environment = served.deps.dbs.environment(1)
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: staff.disable(tx, environment, bea, "left", everywhere=True)
    )
    answer = await key.post(f"/v1/approvals/{waiting}/approve", json=REASON)
    assert answer.status_code in (401, 403), "the key of a person who has left"
    await served.world.dbs.control.run(
        ACTOR, "", lambda tx: staff.enable(tx, environment, bea, "back", everywhere=True)
    )
    assert (await key.post(f"/v1/approvals/{waiting}/approve", json=REASON)).is_success
    assert await state_of(served.world, number) == "approved"


async def test_of_two_approvers_at_once_one_wins(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    _, number, path = await in_review(served)
    anna = await desk.session("anna")
    others = [await desk.session(name) for name in ("bea", "cleo", "dora")]
    waiting = (await anna.post(f"{path}/approve", json=REASON)).json()["approval"]
    answers = await asyncio.gather(
        *(one.post(f"/v1/approvals/{waiting}/approve", json=REASON) for one in others)
    )
    assert sorted(code(one) for one in answers) == [
        (200, ""),
        (409, "illegal-move"),
        (409, "illegal-move"),
    ]
    moves = owner_rows(
        served.world,
        "SELECT count(*) FROM withdrawal_move WHERE withdrawal_id = %s AND event = 'approve'",
        number,
    )
    assert moves == [(1,)]


async def test_it_is_refused_withdrawn_or_too_late(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    anna, bea = await desk.session("anna"), await desk.session("bea")
    found: list[str] = []
    for _ in range(4):
        _, _, path = await in_review(served)
        found.append((await anna.post(f"{path}/approve", json=REASON)).json()["approval"])
    refused, withdrawn, late, swept = (f"/v1/approvals/{one}" for one in found)
    answer = await bea.post(f"{refused}/refuse", json={"reason": "not him"})
    assert answer.json()["approval"]["decision_reason"] == "not him"
    assert code(await anna.post(f"{refused}/withdraw", json=REASON)) == (409, "illegal-move")
    assert code(await bea.post(f"{withdrawn}/withdraw", json=REASON)) == (
        403,
        "second-person-needed",
    )
    assert (await anna.post(f"{withdrawn}/withdraw", json=REASON)).is_success
    assert code(await bea.post(f"{withdrawn}/approve", json=REASON)) == (409, "illegal-move")
    served.world.clock.advance(timedelta(hours=72))
    owner_rows(
        served.world,
        "UPDATE control.staff_session SET used_at = %s, expires_at = %s RETURNING 1",
        served.world.clock.now(),
        served.world.clock.now() + timedelta(hours=1),
    )
    assert code(await bea.post(f"{late}/approve", json=REASON)) == (409, "approval-expired")
    assert await staffing.end_due(served.deps) == 2
    assert (await bea.get(swept)).json()["state"] == "expired"
    assert code(await bea.post(f"{swept}/approve", json=REASON)) == (409, "illegal-move")
    assert await staffing.end_due(served.deps) == 0


async def test_what_cannot_be_done_any_more_is_not_approved(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    _, number, path = await in_review(served)
    anna, bea = await desk.session("anna"), await desk.session("bea")
    waiting = (await anna.post(f"{path}/approve", json=REASON)).json()["approval"]
    assert (await anna.post(f"{path}/deny", json=REASON)).is_success
    answer = await bea.post(f"/v1/approvals/{waiting}/approve", json=REASON)
    assert code(answer) == (409, "illegal-move")
    assert (await bea.get(f"/v1/approvals/{waiting}")).json()["state"] == "proposed"
    assert await state_of(served.world, number) == "denied"
    late = await anna.post(f"{path}/approve", json=REASON)
    assert code(late) == (409, "illegal-move"), "not even proposed"


async def test_the_application_cannot_change_what_waits(
    served: Served, desk: Desk, postgres: PostgresServer
) -> None:
    """Neither the body nor the proposer; and the database itself refuses one person as both."""
    await limit(served, "withdrawal.approve", "1.00")
    _, _, path = await in_review(served)
    anna = await desk.session("anna")
    assert (await anna.post(f"{path}/approve", json=REASON)).status_code == 202
    with psycopg.connect(postgres.app_dsn(served.world.database), autocommit=True) as connection:
        for column in ("body = '{}'", "proposer_id = 1", "amount = 1", "subject = 'x'"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(f"UPDATE cell_1.approval SET {column}".encode())
        with pytest.raises(errors.CheckViolation):
            connection.execute(
                "UPDATE cell_1.approval SET state = 'approved', decided_at = now(),"
                " decider_id = proposer_id"
            )
    owner_rows(
        served.world,
        'UPDATE approval SET body = body || \'{"reason": "other"}\' RETURNING 1',
    )
    bea = await desk.session("bea")
    [one] = (await bea.get("/v1/approvals")).json()["data"]
    answer = await bea.post(f"/v1/approvals/{one['approval']}/approve", json=REASON)
    assert code(answer) == (500, "approval-altered")


async def test_limits_need_two_persons_once_there_is_one(served: Served, desk: Desk) -> None:
    boss, second = await desk.session("boss", Role.ADMIN), await desk.session("bea", Role.ADMIN)
    finance = await desk.session("anna")
    address = "/v1/four-eyes-limits/transfer.request/EUR"
    body = {"limit": {"amount": "10.00", "currency": "EUR"}, "reason": "policy"}
    assert (await finance.put(address, json=body)).status_code == 403
    first = await boss.put(address, json=body)
    assert first.status_code == 200
    assert [one["limit"]["amount"] for one in first.json()["data"]] == ["10.00"]
    higher = {**body, "limit": {"amount": "9999.00", "currency": "EUR"}}
    waiting = await boss.put(address, json=higher)
    assert waiting.status_code == 202
    text = waiting.json()["approval"]
    removal = await second.post(f"{address}/remove", json=REASON)
    assert code(removal) == (409, "approval-waiting")
    assert code(await boss.post(f"/v1/approvals/{text}/approve", json=REASON)) == (
        403,
        "second-person-needed",
    )
    assert code(await finance.post(f"/v1/approvals/{text}/approve", json=REASON)) == (
        403,
        "scope-missing",
    )
    assert (await second.post(f"/v1/approvals/{text}/approve", json=REASON)).is_success
    known = (await finance.get("/v1/four-eyes-limits")).json()["data"]
    assert [one["limit"]["amount"] for one in known] == ["9999.00"]
    nobody = await desk.key(None)
    assert code(await nobody.post(f"{address}/remove", json=REASON)) == (403, "person-needed")
    asked = (await second.post(f"{address}/remove", json=REASON)).json()["approval"]
    assert (await boss.post(f"/v1/approvals/{asked}/approve", json=REASON)).is_success
    assert (await finance.get("/v1/four-eyes-limits")).json()["data"] == []
    for act, currency, wanted in (
        ("nothing", "EUR", (422, "four-eyes-act")),
        ("transfer.request", "USD", (422, "four-eyes-limit")),
    ):
        wrong = await boss.put(f"/v1/four-eyes-limits/{act}/{currency}", json=body)
        assert code(wrong) == wanted
    nowhere = await boss.post("/v1/four-eyes-limits/transfer.request/%00/remove", json=REASON)
    assert code(nowhere) == (400, "currency-unknown")


async def test_approvals_stay_in_their_environment(served: Served, desk: Desk) -> None:
    await limit(served, "withdrawal.approve", "1.00")
    boss = await desk.session("boss", Role.ADMIN)
    _, _, path = await in_review(served)
    in_cell = (await boss.post(f"{path}/approve", json=REASON)).json()["approval"]
    body = {"limit": {"amount": "1.00", "currency": "EUR"}, "reason": "x"}
    asked = await boss.put("/v1/four-eyes-limits/transfer.request/EUR", json=body)
    in_directory = asked.json()["approval"]
    await add_environment(served, 2, "other", "test")
    number = await invite(served, "eve", Role.ADMIN, 2)
    async with browser(served, await cookie_for(served, number, 2)) as eve:
        assert (await eve.get("/v1/approvals")).json()["data"] == []
        for text in (in_cell, in_directory):
            assert (await eve.get(f"/v1/approvals/{text}")).status_code == 404
            for verb in ("approve", "refuse", "withdraw"):
                answer = await eve.post(f"/v1/approvals/{text}/{verb}", json=REASON)
                assert answer.status_code == 404
    pages = [await boss.get("/v1/approvals", params={"limit": 1})]
    pages.append(
        await boss.get(
            "/v1/approvals", params={"limit": 1, "cursor": pages[0].json()["next_cursor"]}
        )
    )
    listed = {page.json()["data"][0]["approval"] for page in pages}
    assert listed == {in_cell, in_directory}
