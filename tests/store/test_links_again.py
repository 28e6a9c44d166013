"""Links that end, begin again, are broken off; providers that fail; and where they are set up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.linking import (
    Browser,
    FakeWeChat,
    browser_of,
    browsers,
    cell_of,
    code_of,
    fake_wechat,
    keep_secret,
    number_of,
    set_up,
    subject,
)
from tests.served import Served, serve
from tests.world import ACTOR, PostgresServer, owner_rows

from paymaster.db.tx import CellTx, ControlTx
from paymaster.people.links import store
from paymaster.people.links.finish import LEASE

pytestmark = pytest.mark.asyncio(loop_scope="module")
COOLING = 86_400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(postgres: PostgresServer, tmp_path_factory: Any) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("linked")
    limits = {"destination_cooling_seconds": COOLING}
    async with serve(postgres, folder, cells=2, limits=limits) as found:
        yield found


@pytest.fixture
def wechat() -> Iterator[FakeWeChat]:
    with fake_wechat() as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def anna(served: Served, wechat: FakeWeChat) -> AsyncIterator[Browser]:
    async with browsers(served, wechat, 1) as (one,):
        yield one


# ----------------------------------------------------------------------------- unlink, relink


async def test_unlinking_closes_the_destination_and_relinking_waits_again(
    served: Served, wechat: FakeWeChat, anna: Browser
) -> None:
    mine = subject()
    made = (await anna.link(wechat, mine)).json()
    served.world.clock.advance(timedelta(days=3))
    again = await browser_of(served, anna.name)
    gone = await again.page.delete("/v1/me/links/wechat", params={"reason": "a new phone"})
    assert gone.json()["destination_state"] == "closed"
    assert (await again.page.get("/v1/me/links")).json()["data"] == []
    path = f"/v1/users/{anna.name}/destinations"
    [place] = (await served.ok("GET", path))["data"]
    assert (place["state"], place["closed_reason"]) == ("closed", "unlinked")
    assert code_of(await again.page.delete("/v1/me/links/wechat")) == (404, "link-unknown")
    back = (await again.link(wechat, mine)).json()
    assert back["destination"] == made["destination"]
    assert back["id"] != made["id"]
    assert back["usable_at"] > made["usable_at"]
    [place] = (await served.ok("GET", path))["data"]
    assert (place["state"], place["closed_reason"]) == ("active", None)
    assert place["usable_at"] == back["usable_at"]
    acts = owner_rows(
        served.world,
        "SELECT action, reason FROM audit WHERE action IN ('link.add', 'link.remove')"
        " AND subject = %s ORDER BY commit_id, ordinal",
        made["user"],
    )
    assert acts == [("link.add", None), ("link.remove", "a new phone"), ("link.add", None)]
    await again.close()


async def test_an_account_that_was_let_go_may_be_another_users(
    served: Served, wechat: FakeWeChat
) -> None:
    async with browsers(served, wechat, 2) as (anna, ben):
        mine = subject()
        await anna.link(wechat, mine)
        await anna.page.delete("/v1/me/links/wechat")
        assert (await ben.link(wechat, mine)).status_code == 200
        assert code_of(await anna.link(wechat, mine)) == (409, "link-already-bound")


async def test_a_destination_that_was_closed_for_a_reason_stays_closed(
    served: Served, wechat: FakeWeChat, anna: Browser
) -> None:
    mine = subject()
    made = (await anna.link(wechat, mine)).json()
    await served.ok("DELETE", f"/v1/destinations/{made['destination']}?reason=fraud")
    await anna.page.delete("/v1/me/links/wechat")
    assert code_of(await anna.link(wechat, mine)) == (422, "destination-closed")


async def test_what_waits_for_it_is_cancelled(served: Served, wechat: FakeWeChat) -> None:
    async with browsers(served, wechat, 1) as (anna,):
        made = (await anna.link(wechat, subject())).json()
        served.world.clock.advance(timedelta(seconds=COOLING))
        fresh = await browser_of(served, anna.name)
        asked = await _asked(served, anna.name, made)
        await fresh.page.delete("/v1/me/links/wechat")
        found = await served.ok("GET", f"/v1/withdrawals/{asked}")
        assert found["state"] == "cancelled"
        await fresh.close()


async def _asked(served: Served, name: str, made: dict[str, Any]) -> str:
    from paymaster.kernel.money import Money
    from paymaster.ledger import recipes
    from paymaster.ledger.entry import Entry
    from paymaster.ledger.post import post

    money, zero = Money.parse("20.00", "CNY"), Money.zero("CNY")

    async def work(tx: CellTx) -> None:
        user = number_of(made["user"])
        reward = recipes.reward(1, user, money, vests=False, owes=False, commission=zero)
        entries = [
            Entry(tx.id(), "fund", "x", recipes.fund(1, 1, money)),
            Entry(tx.id(), "reward", "x", reward),
        ]
        assert all(posted.done for posted in await post(tx, entries))

    await served.world.run(work, cell_of(made["user"]))
    body = {
        "user": name,
        "destination": made["destination"],
        "amount": {"amount": "8.00", "currency": "CNY"},
    }
    answer = await served.ok(
        "POST", "/v1/withdrawals", body, headers={"Idempotency-Key": f"ask-{name}"}
    )
    return str(answer["id"])


# ------------------------------------------------------------------------------- providers' ways


@pytest.mark.parametrize("trouble", ["status", "silent", "secret"])
async def test_what_is_no_answer_lets_the_same_code_come_again(
    served: Served, wechat: FakeWeChat, anna: Browser, trouble: str
) -> None:
    state, code = await anna.begin(), wechat.code(subject())
    if trouble == "status":
        wechat.status = 502
    elif trouble == "silent":
        wechat.silent = 1
    else:
        keep_secret(served, "wechat-app-secret", "not-this-one")
    assert code_of(await anna.come_back(state, code)) == (503, "link-provider-unavailable")
    other = wechat.code(subject())
    assert code_of(await anna.come_back(state, other)) == (400, "link-state-used")
    wechat.status = 200
    wechat.used.clear()
    keep_secret(served, "wechat-app-secret", "the-secret-of-the-app")
    assert (await anna.come_back(state, code)).status_code == 200


async def test_a_process_that_died_in_the_middle_ends_the_way(
    served: Served, wechat: FakeWeChat, anna: Browser
) -> None:
    state, code = await anna.begin(), wechat.code(subject())
    ref, _ = _parsed(state)

    async def left(tx: CellTx) -> None:
        row = await store.lock_way(tx, ref.id)
        assert row is not None
        from paymaster.people.links.begin import digest

        await store.write_way(
            tx, row, "exchanging", code_hash=digest(code), lease_until=tx.now + LEASE
        )

    await served.world.run(left, ref.cell)
    served.world.clock.advance(LEASE)
    for _ in range(2):
        assert code_of(await anna.come_back(state, code)) == (409, "link-interrupted")
    assert wechat.used[code] == 0


def _parsed(state: str) -> Any:
    from paymaster.people.links.begin import parse_state

    parsed = parse_state(state)
    assert parsed is not None
    return parsed


async def test_what_a_dead_process_noted_in_the_directory_is_taken_over(
    served: Served, wechat: FakeWeChat
) -> None:
    """It had noted whose the account is, and died before there was a link."""
    async with browsers(served, wechat, 2) as (anna, ben):
        mine, sealer = subject(), served.deps.secrets.sealer
        user = number_of((await served.ok("GET", f"/v1/users/{anna.name}"))["id"])
        cell = cell_of((await served.ok("GET", f"/v1/users/{anna.name}"))["id"])
        text = f"wechat\0appid\0wx0123456789abcdef\0openid\0{mine}"
        marks = sealer.fingerprints("link", text)

        async def own(tx: ControlTx) -> None:
            await store.own(tx, 1, "wechat", marks, cell, user, 4711)

        await served.world.dbs.control.run(ACTOR, "", own)
        assert code_of(await ben.link(wechat, mine)) == (409, "link-already-bound")
        served.world.clock.advance(2 * LEASE + timedelta(seconds=1))
        assert (await ben.link(wechat, mine)).status_code == 200
        assert code_of(await anna.link(wechat, mine)) == (409, "link-already-bound")


async def test_a_second_factor_may_be_asked_for(served: Served, wechat: FakeWeChat) -> None:
    async with browsers(served, wechat, 1) as (anna,):
        rules = {"rules": [{"purpose": "destination"}], "reason": "test"}
        await served.ok("PUT", "/v1/step-up-policy", rules)
        try:
            answer = await anna.page.post("/v1/me/links/wechat", json={})
            assert answer.status_code == 422
            assert answer.json()["code"].startswith("step-up-")
        finally:
            await served.ok("PUT", "/v1/step-up-policy", {"rules": [], "reason": "test"})


# ------------------------------------------------------------------------------------- settings


async def test_providers_are_data_of_the_environment(served: Served, wechat: FakeWeChat) -> None:
    made = await set_up(served, wechat)
    assert made["settings"]["scope"] == "snsapi_base"
    assert made["secrets"] == {"app_secret": "wechat-app-secret"}
    body = {"settings": {"app_id": "wx1"}, "secrets": {"app_secret": "x"}}
    for change, pointer in (
        ({"settings": {}}, "/settings/app_id"),
        ({"settings": {"app_id": "wx1", "scope": "all"}}, "/settings/scope"),
        ({"settings": {"app_id": "wx1", "other": "x"}}, "/settings/other"),
        (
            {"settings": {"app_id": "wx1", "api_url": "http://api.example.com"}},
            "/settings/api_url",
        ),
        ({"secrets": {}}, "/secrets/app_secret"),
        ({"return_to": ["https://app.example.com/?x=1"]}, "/return_to/0"),
        ({"return_to": ["http://app.example.com/"]}, "/return_to/0"),
    ):
        problem = await served.refused(
            422, "link-provider-invalid", "PUT", "/v1/link-providers/wechat", {**body, **change}
        )
        assert [each["pointer"] for each in problem["errors"]] == [pointer]
    off = await set_up(served, wechat, enabled=False)
    assert off["version"] > made["version"]
    listed = await served.ok("GET", "/v1/link-providers")
    assert [one["provider"] for one in listed["data"]] == ["wechat"]
    anna = await browser_of(served, "links-nowhere")
    for provider in ("wechat", "alipay"):
        answer = await anna.page.post(f"/v1/me/links/{provider}", json={})
        assert code_of(answer) == (404, "link-provider-unknown")
    await anna.close()
