"""OAuth: codes work once and for minutes, tokens for hours, and a snapshot user says so."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.contract.sandbox.wechat_support import APPID, Merchant, clock

from paymaster_sandbox import World

SECRET = "not-a-real-secret"


@pytest.fixture
async def app(merchant: Merchant) -> Merchant:
    await merchant.knob("apps", appid=APPID, secret=SECRET)
    return merchant


async def agree(app: Merchant, person: str = "ada", scope: str = "snsapi_base") -> dict[str, str]:
    answer = await app.http.get(
        "/connect/oauth2/authorize",
        params={
            "appid": APPID, "redirect_uri": "https://app.example/back?a=1", "scope": scope,
            "response_type": "code", "state": "s & t", "person": person,
        },
    )  # fmt: skip
    assert answer.status_code == 302, answer.text
    target = urlsplit(answer.headers["location"])
    assert (target.hostname, target.path) == ("app.example", "/back")
    return {name: values[0] for name, values in parse_qs(target.query).items()}


async def ask(app: Merchant, path: str, **params: str) -> dict[str, Any]:
    answer = await app.http.get(f"/sns/{path}", params=params)
    assert answer.status_code == 200
    return answer.json()


async def exchange(app: Merchant, code: str, **change: str) -> dict[str, Any]:
    params = {
        "appid": APPID, "secret": SECRET, "code": code, "grant_type": "authorization_code", **change
    }  # fmt: skip
    return await ask(app, "oauth2/access_token", **params)


async def test_a_code_gives_the_openid_once(app: Merchant) -> None:
    openid = await app.user()
    back = await agree(app)
    assert (back["state"], back["a"]) == ("s & t", "1")
    found = await exchange(app, back["code"])
    assert (found["openid"], found["expires_in"], found["scope"]) == (openid, 7200, "snsapi_base")
    assert "is_snapshotuser" not in found
    assert "unionid" not in found
    assert (await exchange(app, back["code"]))["errcode"] == 40163


async def test_faults_of_the_exchange(app: Merchant, world: World) -> None:
    await app.user()
    code = (await agree(app))["code"]
    assert (await exchange(app, code, appid="wxffffffffffffffff"))["errcode"] == 40013
    assert (await exchange(app, code, secret="wrong"))["errcode"] == 40125
    assert (await exchange(app, ""))["errcode"] == 41008
    assert (await exchange(app, "nothing"))["errcode"] == 40029
    await clock(world, 301)
    assert (await exchange(app, code))["errcode"] == 42003


async def test_a_snapshot_user_is_called_one(app: Merchant) -> None:
    await app.user("ghost", snapshot=True)
    back = await agree(app, "ghost", "snsapi_userinfo")
    found = await exchange(app, back["code"])
    assert found["is_snapshotuser"] == 1
    assert found["unionid"]


async def test_nobody_agrees(app: Merchant) -> None:
    back = await agree(app, "nobody")
    assert "code" not in back


async def test_tokens_are_checked_refreshed_and_run_out(app: Merchant, world: World) -> None:
    openid = await app.user()
    found = await exchange(app, (await agree(app, scope="snsapi_userinfo"))["code"])
    token = {"access_token": found["access_token"], "openid": openid}
    assert await ask(app, "auth", **token) == {"errcode": 0, "errmsg": "ok"}
    assert (await ask(app, "userinfo", **token))["nickname"] == "ada"
    assert (await ask(app, "auth", **{**token, "openid": "other"}))["errcode"] == 40003
    renew = {
        "appid": APPID, "grant_type": "refresh_token", "refresh_token": found["refresh_token"]
    }  # fmt: skip
    same = await ask(app, "oauth2/refresh_token", **renew)
    assert same["access_token"] == found["access_token"]
    await clock(world, 7201)
    assert (await ask(app, "auth", **token))["errcode"] == 42001
    fresh = await ask(app, "oauth2/refresh_token", **renew)
    assert fresh["access_token"] != found["access_token"]
    await clock(world, 31 * 86_400)
    assert (await ask(app, "oauth2/refresh_token", **renew))["errcode"] == 42002
    wrong = await ask(app, "oauth2/refresh_token", **{**renew, "refresh_token": "x"})
    assert wrong["errcode"] == 40030


async def test_a_changed_password_voids_tokens(app: Merchant) -> None:
    openid = await app.user()
    found = await exchange(app, (await agree(app))["code"])
    assert (await app.knob("revoke", person="ada"))["revoked"] == 1
    token = {"access_token": found["access_token"], "openid": openid}
    assert (await ask(app, "auth", **token))["errcode"] == 42007


async def test_the_base_scope_shows_no_profile(app: Merchant) -> None:
    openid = await app.user()
    found = await exchange(app, (await agree(app))["code"])
    answer = await ask(app, "userinfo", access_token=found["access_token"], openid=openid)
    assert answer["errcode"] == 48001


async def test_the_page_escapes_what_it_shows(app: Merchant) -> None:
    await app.user("<b>eve</b>")
    params = {
        "appid": APPID, "redirect_uri": "https://app.example/", "scope": "snsapi_base",
        "response_type": "code", "state": '"><script>',
    }  # fmt: skip
    page = (await app.http.get("/connect/oauth2/authorize", params=params)).text
    assert "&lt;b&gt;eve" in page
    assert "<script>" not in page
    for change in ({"appid": "wx"}, {"scope": "all"}, {"redirect_uri": "nowhere"}):
        answer = await app.http.get("/connect/oauth2/authorize", params={**params, **change})
        assert answer.status_code == 400
