"""Linking an account with a wallet provider, over HTTP, with the provider on a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.linking import (
    RETURN,
    Browser,
    FakeWeChat,
    browsers,
    cell_of,
    code_of,
    fake_wechat,
    number_of,
    state_of,
    subject,
)
from tests.served import Served, serve
from tests.world import PostgresServer, owner_rows

from paymaster.people import destinations

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


# -------------------------------------------------------------------------------- the good way


async def test_a_linked_account_becomes_a_destination_and_no_token_is_kept(
    served: Served, wechat: FakeWeChat, anna: Browser
) -> None:
    mine = subject()
    begun = await anna.page.post("/v1/me/links/wechat", json={})
    url = begun.json()["authorize_url"]
    assert url.startswith(f"{wechat.url}/connect/oauth2/authorize?appid=wx0123456789abcdef&")
    assert url.endswith("#wechat_redirect")
    assert state_of(url).isalnum()
    assert len(state_of(url)) <= 128
    assert "httponly" in begun.headers["set-cookie"].lower()
    answer = await anna.link(wechat, mine)
    made = answer.json()
    assert answer.status_code == 200, answer.text
    assert (made["provider"], made["destination_state"]) == ("wechat", "active")
    assert mine not in answer.text
    assert made["mask"] == f"{mine[:3]}****{mine[-4:]}"
    user = f"/v1/users/{anna.name}"
    [place] = (await served.ok("GET", f"{user}/destinations"))["data"]
    assert (place["id"], place["kind"], place["currency"]) == (
        made["destination"],
        "wechat",
        "CNY",
    )
    waits = (await served.ok("GET", f"{user}/links"))["data"]
    assert waits == (await anna.page.get("/v1/me/links")).json()["data"] == [made]
    # The money waits like for any new destination, and nothing of the provider's is in the clear.
    assert place["usable_at"] > place["created_at"]
    everything = json.dumps(
        [
            owner_rows(served.world, f"SELECT to_jsonb(t) FROM {table} t")
            for table in ("link", "link_way", "outbox", "audit", "destination")
        ],
        default=str,
    )
    for secret in (mine, "ACCESS-TOKEN", "REFRESH-TOKEN", "the-secret-of-the-app"):
        assert secret not in everything
    opened = await served.world.run(
        lambda tx: destinations.open_payees(
            tx, served.deps.secrets.sealer, [number_of(made["destination"])]
        ),
        cell_of(made["destination"]),
    )
    [payee] = opened.values()
    assert payee.details == {"appid": "wx0123456789abcdef", "openid": mine}


async def test_the_browser_is_sent_back_to_the_app(wechat: FakeWeChat, anna: Browser) -> None:
    state = await anna.begin(return_to=RETURN)
    answer = await anna.come_back(state, wechat.code(subject()))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{RETURN}?link=ln_")
    state = await anna.begin(return_to=RETURN)
    answer = await anna.come_back(state, "nonsense")
    assert answer.headers["location"] == f"{RETURN}?link_error=link-code-refused"
    foreign = await anna.page.post(
        "/v1/me/links/wechat", json={"return_to": "https://evil.example"}
    )
    assert code_of(foreign) == (400, "link-return-unknown")


# --------------------------------------------------------------------------- once, and by whom


async def test_two_redirects_at_once_make_one_exchange_and_get_the_same_answer(
    wechat: FakeWeChat, anna: Browser
) -> None:
    """WeChat opens the way back twice; the second one waits for what the first one gets."""
    wechat.gate = threading.Event()
    state, code = await anna.begin(), wechat.code(subject())
    tasks = [asyncio.create_task(anna.come_back(state, code)) for _ in range(4)]
    assert await asyncio.to_thread(wechat.reached.wait, 20)
    wechat.gate.set()
    answers = await asyncio.gather(*tasks)
    assert [each.status_code for each in answers] == [200] * 4
    assert len({each.json()["id"] for each in answers}) == 1
    assert wechat.used[code] == 1
    again = await anna.come_back(state, code)
    assert again.json() == answers[0].json()
    assert wechat.used[code] == 1


async def test_a_way_is_gone_once(wechat: FakeWeChat, anna: Browser) -> None:
    state = await anna.begin()
    assert (await anna.come_back(state, wechat.code(subject()))).status_code == 200
    other = wechat.code(subject())
    assert code_of(await anna.come_back(state, other)) == (400, "link-state-used")
    assert wechat.used[other] == 0


async def test_only_the_browser_that_began_comes_back(served: Served, wechat: FakeWeChat) -> None:
    """Who sends a victim the address of his own link gets nothing linked."""
    async with browsers(served, wechat, 2) as (attacker, victim):
        state, code = await attacker.begin(), wechat.code(subject())
        assert code_of(await victim.come_back(state, code)) == (400, "link-state-invalid")
        await victim.begin()
        assert code_of(await victim.come_back(state, code)) == (400, "link-state-invalid")
        assert wechat.used[code] == 0
        assert (await attacker.come_back(state, code)).status_code == 200


@pytest.mark.parametrize("bent", ["", "x", "0" * 63, "change", "truncate", "provider"])
async def test_a_state_that_is_none_of_ours(wechat: FakeWeChat, anna: Browser, bent: str) -> None:
    state, provider = await anna.begin(), "wechat"
    if bent == "change":
        state = state[:-1] + ("0" if state[-1] != "0" else "1")
    elif bent == "truncate":
        state = state[:-1]
    elif bent == "provider":
        provider = "alipay"
    else:
        state = bent
    code = wechat.code(subject())
    answer = await anna.come_back(state, code, provider)
    assert code_of(answer) == (400, "link-state-invalid")
    assert wechat.used[code] == 0


async def test_a_way_is_open_for_ten_minutes(
    served: Served, wechat: FakeWeChat, anna: Browser
) -> None:
    state = await anna.begin()
    served.world.clock.advance(timedelta(minutes=10))
    assert code_of(await anna.come_back(state, wechat.code(subject()))) == (
        400,
        "link-state-invalid",
    )


async def test_only_an_earner_links_and_not_without_end(
    served: Served, wechat: FakeWeChat, anna: Browser
) -> None:
    await served.refused(403, "earners-only", "POST", "/v1/me/links/wechat", {})
    for _ in range(10):
        await anna.begin()
    answer = await anna.page.post("/v1/me/links/wechat", json={})
    assert code_of(answer) == (429, "link-too-many")


async def test_who_does_not_agree_has_nothing_linked(anna: Browser) -> None:
    state = await anna.begin()
    for _ in range(2):
        assert code_of(await anna.come_back(state, None)) == (422, "link-denied")


# ------------------------------------------------------------------------------ refused people


async def test_a_made_up_user_is_refused(wechat: FakeWeChat, anna: Browser) -> None:
    state = await anna.begin()
    code = wechat.code(subject(), is_snapshotuser=1)
    for _ in range(2):
        assert code_of(await anna.come_back(state, code)) == (422, "link-snapshot-user")
    assert wechat.used[code] == 1, "the second time the end is told again"
    assert (await anna.page.get("/v1/me/links")).json()["data"] == []


async def test_one_account_belongs_to_one_user_of_anycell_of(
    served: Served, wechat: FakeWeChat
) -> None:
    async with browsers(served, wechat, 6) as people:
        mine = subject()
        first, *others = people
        assert (await first.link(wechat, mine)).status_code == 200
        for other in others:
            assert code_of(await other.link(wechat, mine)) == (409, "link-already-bound")
            places = await served.ok("GET", f"/v1/users/{other.name}/destinations")
            assert places["data"] == []
        cells = {(await served.ok("GET", f"/v1/users/{p.name}"))["id"][3:5] for p in people}
        assert len(cells) == 2, "earners of both cells took part"
        detail = owner_rows(
            served.world, "SELECT detail FROM audit WHERE action = 'link.refuse' ORDER BY commit_id"
        )
        assert detail[-1][0]["slug"] == "link-already-bound"


async def test_two_users_who_link_one_account_at_once(served: Served, wechat: FakeWeChat) -> None:
    async with browsers(served, wechat, 4) as people:
        mine = subject()
        answers = await asyncio.gather(*(one.link(wechat, mine) for one in people))
        assert sorted(each.status_code for each in answers) == [200, 409, 409, 409]
        linked = [p for p in people if (await p.page.get("/v1/me/links")).json()["data"]]
        assert len(linked) == 1


async def test_a_second_account_needs_the_first_one_to_go(
    wechat: FakeWeChat, anna: Browser
) -> None:
    mine, second = subject(), subject()
    one = (await anna.link(wechat, mine)).json()
    assert code_of(await anna.link(wechat, second)) == (409, "link-exists")
    same = (await anna.link(wechat, mine)).json()
    assert same == one, "the same again changes nothing"
    assert (await anna.page.delete("/v1/me/links/wechat")).status_code == 200
    assert (await anna.link(wechat, second)).status_code == 200


async def test_what_a_refused_link_noted_does_not_bind_the_account(
    served: Served, wechat: FakeWeChat
) -> None:
    async with browsers(served, wechat, 2) as (anna, ben):
        second = subject()
        assert (await anna.link(wechat, subject())).status_code == 200
        assert code_of(await anna.link(wechat, second)) == (409, "link-exists")
        assert (await ben.link(wechat, second)).status_code == 200


async def test_a_suspended_user_links_nothing(served: Served, wechat: FakeWeChat) -> None:
    async with browsers(served, wechat, 2) as (anna, ben):
        state, mine = await anna.begin(), subject()
        await served.ok(
            "PUT", f"/v1/users/{anna.name}", {"status": "suspended", "reason": "a doubt"}
        )
        assert code_of(await anna.come_back(state, wechat.code(mine))) == (422, "user-suspended")
        assert (await ben.link(wechat, mine)).status_code == 200
