"""Why a withdrawal stands as it does, where a user's money is, and receipts: over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.explaining import EN, ZH, asked, attempt, in_state, own
from tests.served import Served, client, serve
from tests.withdrawals import BANK, bring
from tests.world import PostgresServer

from paymaster.db.tx import Actor
from paymaster.dispatch import purse
from paymaster.dispatch import store as dispatch_store
from paymaster.kernel.ids import new_trace_id, parse_text_id
from paymaster.kernel.language import LANGUAGES
from paymaster.people import destinations
from paymaster.withdraw import holds, words
from paymaster.withdraw.machine import WAITING, WITHDRAWAL, Event
from paymaster.withdraw.moves import Step, move

pytestmark = pytest.mark.asyncio(loop_scope="module")
HAN = re.compile(r"[一-鿿]")
BEFORE_THE_RAIL = ["requested", "in_review", "challenged", "approved", "queued", "held"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: PostgresServer, tmp_path_factory: Any) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("explained")
    async with serve(postgres, folder) as found:
        yield found


async def explained(served: Served, text: str, headers: Any = None, **params: str) -> Any:
    path = f"/v1/withdrawals/{text}/explain"
    return await served.ok("GET", path, headers=headers or EN, params=params)


# ------------------------------------------------------------------------------------ words


@pytest.mark.parametrize("state", sorted(WITHDRAWAL.states()))
async def test_every_state_is_explained_in_both_languages(served: Served, state: str) -> None:
    _, text, number = await asked(served)
    if state != "requested":
        await bring(served.world, number, state)
    for headers, tag, chinese in ((EN, "en", False), (ZH, "zh-CN", True)):
        said = await explained(served, text, headers)
        assert said["language"] == tag
        for words_of in (
            said["message"],
            said["money"]["message"],
            said["next"]["message"],
            said["expected"]["message"],
            *(step["message"] for step in said["history"]),
        ):
            assert bool(HAN.search(words_of)) == chinese, words_of
        assert said["staff"] is None
        assert "because" not in json.dumps(said), "reasons are the staff's"
    staff = await explained(served, text, ZH, **{"for": "staff"})
    assert staff["staff"]["state"] == state
    assert HAN.search(staff["staff"]["message"])
    held = state not in {"paid", "failed", "returned", "denied", "cancelled"}
    assert (said["money"]["where"] in {"set-aside", "on-its-way"}) == held
    assert (said["next"]["who"] == "nobody") <= (not held)
    over = said["expected"]["message"] == words.common("expected", "over").zh
    assert over == (said["money"]["where"] in {"with-payee", "back"})


async def test_the_words_are_exactly_those_of_the_machine() -> None:
    assert words.states().keys() == {*WITHDRAWAL.states(), words.ANSWERED}
    here = {state for state, entry in words.states().items() if entry.money == "set-aside"}
    assert here == {*WAITING, words.ANSWERED}
    for entry in words.states().values():
        for said in (entry.now, entry.then, entry.staff):
            assert all(said.text(language) for language in LANGUAGES)
            assert HAN.search(said.zh)
            assert not HAN.search(said.en)


async def test_what_happened_is_told_in_order(served: Served) -> None:
    _, text, _ = await in_state(served, "returned")
    said = await explained(served, text)
    assert [step["stage"] for step in said["history"]] == [
        "checking", "preparing", "on-its-way", "paid", "returned",
    ]  # fmt: skip
    moments = [step["at"] for step in said["history"]]
    assert moments == sorted(moments)
    staff = await explained(served, text, **{"for": "staff"})
    assert [step["state"] for step in staff["history"]] == [
        "requested", "screening", "approved", "sending", "paid", "returned",
    ]  # fmt: skip
    assert {step["actor"] for step in staff["history"][1:]} == {"test"}


async def test_who_asks_in_no_language_is_answered_in_that_of_the_profile(served: Served) -> None:
    name, text, _ = await asked(served)
    silent = {"Accept-Language": "*"}
    assert (await explained(served, text, silent))["language"] == "en"
    await served.ok("PUT", f"/v1/users/{name}", {"profile": {"language": "zh-Hans"}})
    answer = await served.api.get(f"/v1/withdrawals/{text}/explain", headers=silent)
    assert answer.json()["language"] == answer.headers["content-language"] == "zh-CN"
    assert (await explained(served, text, EN))["language"] == "en"


# ------------------------------------------------------------------------------------ privacy


async def test_nobody_else_finds_it_and_an_earner_reads_his_own_words(served: Served) -> None:
    name, text, number = await asked(served)
    await served.world.run(
        lambda tx: move(tx, [Step(number, Event.HOLD, reason="Quetzal looks fishy")])
    )
    other, _, _ = await asked(served)
    async with await own(served, other) as stranger, await own(served, name) as himself:
        for path in ("explain", "receipt"):
            answer = await stranger.get(f"/v1/withdrawals/{text}/{path}")
            assert answer.status_code == 404
            assert answer.json()["code"] == "not-found"
        for params in ({}, {"for": "staff"}):
            answer = await himself.get(f"/v1/withdrawals/{text}/explain", params=params)
            said = answer.json()
            assert (answer.status_code, said["stage"]) == (200, "under-review")
            assert said["staff"] is None
            assert "Quetzal" not in answer.text
            assert "held" not in answer.text
    staff = await explained(served, text, **{"for": "staff"})
    assert staff["staff"]["reason"] == "Quetzal looks fishy"


@pytest.mark.parametrize("kind", ["user", "destination", "withdrawal"])
@pytest.mark.parametrize("state", BEFORE_THE_RAIL)
async def test_an_order_of_an_authority_looks_like_any_review(
    served: Served, state: str, kind: str
) -> None:
    name, text, number = await asked(served)
    if state != "requested":
        await bring(served.world, number, state)
    row = await served.ok("GET", f"/v1/withdrawals/{text}")
    subject = {"user": row["user"], "destination": row["destination"], "withdrawal": text}[kind]
    prefix = subject.partition("_")[0]
    subject_id = parse_text_id(prefix, subject).id
    await served.world.run(lambda tx: holds.place(tx, kind, subject_id, "ORDER-4711", "a court"))
    async with await own(served, name) as himself:
        answer = await himself.get(f"/v1/withdrawals/{text}/explain", headers=EN)
        money = await himself.get("/v1/me/money", headers=EN)
        row = await himself.get(f"/v1/withdrawals/{text}")
        [listed] = (await himself.get("/v1/withdrawals")).json()["data"]
    said = answer.json()
    assert row.json()["state"] == listed["state"] == "in_review", "everywhere the same"
    for found in (answer.text, money.text):
        assert not re.search("4711|court|order|frozen|hold|legal|authority", found, re.IGNORECASE)
    assert said["stage"] == "under-review"
    assert said["message"] == words.of("in_review").now.en
    assert said["next"]["who"] == "operator"
    assert said["expected"]["by"] is None
    [item] = money.json()["data"][0]["held"]["items"]
    assert (item["stage"], item["message"]) == ("under-review", said["message"])
    staff = await explained(served, text, **{"for": "staff"})
    assert staff["staff"]["order"] == "ORDER-4711"
    reader = await served.key(["read"])
    async with client(served.app, reader) as clerk:
        answer = await clerk.get(f"/v1/withdrawals/{text}/explain", params={"for": "staff"})
    assert answer.json()["staff"]["order"] is None


# ------------------------------------------------------------------------------------ failures


async def failed(served: Served, reason: str) -> Any:
    name, text, number = await in_state(served, "sending")
    await served.world.run(lambda tx: move(tx, [Step(number, Event.REJECT, reason=reason)]))
    return name, text, number


async def test_a_failure_says_what_to_do_in_the_earners_language(served: Served) -> None:
    name, text, _ = await failed(served, "AC04")
    said = await explained(served, text, ZH)
    assert said["failure"] == {
        "code": None,
        "message": "收款账户已销户。请添加其他收款账户后重新提现。",
        "fix": "replace-destination",
        "retryable": False,
        "category": None,
        "operator": None,
        "closes_destination": None,
    }
    assert (said["next"]["who"], said["money"]["where"]) == ("user", "back")
    staff = (await explained(served, text, **{"for": "staff"}))["failure"]
    assert (staff["code"], staff["category"]) == ("AC04", "destination")
    assert "Closed account" in staff["operator"]
    data = (await served.ok("GET", f"/v1/users/{name}/money", headers=EN))["data"][0]
    [back] = data["returned"]["items"]
    assert (back["ref"], back["failure"]["fix"]) == (text, "replace-destination")
    assert back["amount"] == {"amount": "12.50", "currency": "EUR"}


async def test_an_unknown_code_is_told_honestly(served: Served) -> None:
    _, text, _ = await failed(served, "QX77")
    said = await explained(served, text)
    assert "not told why" in said["failure"]["message"]
    staff = await explained(served, text, **{"for": "staff"})
    assert "QX77" in staff["failure"]["operator"]


async def test_what_a_person_typed_as_proof_is_not_told(served: Served) -> None:
    _, text, number = await in_state(served, "sending")
    proof = "Ms Quetzal of the bank says so"
    await served.world.dbs.cell(1).run(
        Actor("person:pe_1"),
        new_trace_id(),
        lambda tx: move(tx, [Step(number, Event.REJECT, reason=proof)]),
    )
    said = await explained(served, text)
    assert "Quetzal" not in json.dumps(said)
    assert said["failure"]["fix"] == "contact-support"
    staff = await explained(served, text, **{"for": "staff"})
    assert staff["history"][-1]["reason"] == proof


async def test_a_payment_that_waits_for_our_money_says_whose_turn_it_is(served: Served) -> None:
    _, text, number = await in_state(served, "sending")
    proof = "AM04: attempt at_1 was refused"
    await served.world.run(lambda tx: move(tx, [Step(number, Event.QUEUE, reason=proof)]))
    said = await explained(served, text)
    assert (said["failure"]["fix"], said["next"]["who"]) == ("wait", "operator")
    assert said["history"][-1]["message"] == words.common("then", "resent").en
    staff = await explained(served, text, **{"for": "staff"})
    assert staff["failure"]["fix"] == "top-up-float"


async def test_what_waits_for_an_account_or_for_money_is_ours(served: Served) -> None:
    _, text, number = await in_state(served, "approved")
    assert (await explained(served, text))["next"]["who"] == "paymaster"
    later = datetime(2030, 1, 1, tzinfo=UTC)
    await served.world.run(
        lambda tx: dispatch_store.postpone_approved(tx, [number], later, "no-route")
    )
    said = await explained(served, text)
    assert (said["next"]["who"], said["expected"]["by"]) == ("operator", None)
    short = f"{purse.REASON}; bank: the only account that can pay it"
    await served.world.run(
        lambda tx: move(tx, [Step(number, Event.QUEUE, reason=short, rail_account_id=BANK)])
    )
    said = await explained(served, text)
    assert (said["stage"], said["next"]["who"]) == ("preparing", "operator")
    assert said["expected"]["by"] is None


async def test_a_review_because_of_his_own_destination_says_so(served: Served) -> None:
    _, text, number = await asked(served)
    view = await served.ok("GET", f"/v1/withdrawals/{text}")
    place = parse_text_id("de", view["destination"]).id
    await bring(served.world, number, "approved")
    await served.world.run(lambda tx: destinations.pause(tx, place, "AG01", 3))
    [moved] = await served.world.run(
        lambda tx: move(tx, [Step(number, Event.SEND, rail_account_id=BANK)])
    )
    assert (moved.slug, moved.state) == ("destination-paused", "in_review")
    said = await explained(served, text)
    assert said["failure"]["fix"] == "replace-destination"
    assert (said["stage"], said["next"]["who"]) == ("under-review", "operator")


# ------------------------------------------------------------------------------------ receipts


async def test_there_is_a_receipt_once_it_was_paid(served: Served) -> None:
    name, text, number = await in_state(served, "sent")
    path = f"/v1/withdrawals/{text}/receipt"
    await served.refused(409, "receipt-not-yet", "GET", path)
    await attempt(served, number)
    await served.world.run(lambda tx: move(tx, [Step(number, Event.SETTLE)]))
    async with await own(served, name) as himself:
        answer = await himself.get(path)
        made = answer.json()
        assert made["amount"] == made["payout"] == {"amount": "12.50", "currency": "EUR"}
        assert made["total"] == {"amount": "12.50", "currency": "EUR"}
        assert (made["provider_id"], made["rate"], made["booked_on"]) == ("p-77", None, None)
        assert re.fullmatch("[0-9A-Z]{15}", made["reference"])
        assert made["paid_at"] >= made["requested_at"]
        paper = await himself.get(path, params={"format": "pdf"})
        again = await himself.get(path, params={"format": "pdf"})
    assert paper.headers["content-type"] == "application/pdf"
    assert paper.content[:5] == b"%PDF-"
    assert paper.content == again.content, "the same receipt is the same file"
    assert f"receipt-{text}.pdf" in paper.headers["content-disposition"]
    await served.world.run(lambda tx: move(tx, [Step(number, Event.RETURN, reason="AC04")]))
    back = await served.ok("GET", path)
    assert back["state"] == "returned"
    assert back["returned_at"]
