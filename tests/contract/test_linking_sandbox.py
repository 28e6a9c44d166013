"""Linking against the sandboxes of WeChat and Alipay: their pages, codes and signatures."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.contract.keys import key_pair, lend_keys, request_for_certificate
from tests.linking import APPID, Browser, browser_of, code_of, keep_secret, number_of
from tests.served import Served, client, serve
from tests.world import PostgresServer

from paymaster.api.app import build_api
from paymaster.kernel.clock import WallClock
from paymaster.people import destinations
from paymaster.rails.http import new_client
from paymaster_sandbox import World, WorldConfig

USER = "2088000000000017"
OPENID = "oW0000000000000000000000ada1"
APP_ID = "2000000000000042"


@dataclass
class Outside:
    """A world of providers, an installation that links there, and its earners."""

    world: World
    served: Served
    http: httpx.AsyncClient

    async def control(self, path: str, **body: Any) -> Any:
        answer = await self.http.post(f"{self.world.http_url}/_control/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def provider(self, name: str, url: str, page: str, app_id: str, *kept: str) -> None:
        settings = {"app_id": app_id, "authorize_url": f"{url}{page}", "api_url": url}
        names = {each: f"{name}-{each}".replace("_", "-") for each in kept}
        body = {"settings": settings, "secrets": names}
        await self.served.ok("PUT", f"/v1/link-providers/{name}", body)

    async def link(self, browser: Browser, provider: str, **who: str) -> httpx.Response:
        """The whole way: begin, agree on the provider's page, come back."""
        begun = await browser.page.post(f"/v1/me/links/{provider}", json={})
        assert begun.status_code == 201, begun.text
        for cookie in begun.cookies.jar:
            browser.plain.cookies.set(cookie.name, cookie.value or "", domain="api.test", path="/")
        address = begun.json()["authorize_url"].partition("#")[0]
        agreed = await self.http.get(httpx.URL(address).copy_merge_params(who))
        assert agreed.status_code in {302, 303}, agreed.text
        back = urlsplit(agreed.headers["location"])
        query = {name: values[0] for name, values in parse_qs(back.query).items()}
        assert back.path == f"/v1/links/callback/{provider}"
        return await browser.plain.get(back.path, params=query)

    async def payee(self, link: dict[str, Any]) -> dict[str, str]:
        """What would be paid to."""
        number = number_of(link["destination"])
        sealer = self.served.deps.secrets.sealer
        found = await self.served.world.run(
            lambda tx: destinations.open_payees(tx, sealer, [number])
        )
        return dict(found[number].details)


@pytest.fixture
async def outside(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Outside]:
    lend_keys(tmp_path / "world")
    config = WorldConfig(data=tmp_path / "world", scan_seconds=60)
    async with (
        World(config) as world,
        new_client() as http,
        serve(postgres, tmp_path / "ours") as served,
    ):
        # The providers sign with the machine's time.
        deps = replace(served.deps, clock=WallClock(), http=http)
        app = build_api(deps)
        async with client(app) as api:
            api.headers["Authorization"] = served.api.headers["Authorization"]
            yield Outside(world, replace(served, deps=deps, app=app, api=api), http)
        await app.close()


@pytest.fixture
async def anna(outside: Outside) -> AsyncIterator[Browser]:
    found = await browser_of(outside.served, "anna")
    yield found
    await found.close()


async def wechat(outside: Outside, **user: Any) -> str:
    """An app and a person of WeChat; the openid."""
    secret = secrets.token_hex(16)
    keys = {"apiv3_key": secrets.token_hex(16), "apiv2_key": secrets.token_hex(16)}
    _, public = key_pair("1900000042")
    merchant = {"mchid": "1900000042", "public_key": public, "appids": [APPID], **keys}
    await outside.control(
        "wechat/merchants", **merchant, product="transfer-bills", notify_url="http://127.0.0.1:9/"
    )
    await outside.control("wechat/apps", appid=APPID, secret=secret)
    keep_secret(outside.served, "wechat-app-secret", secret)
    url = outside.world.wechat_url
    await outside.provider("wechat", url, "/connect/oauth2/authorize", APPID, "app_secret")
    body = {"appid": APPID, "person": "ada", "openid": OPENID, "real_name": "张三", **user}
    made = await outside.control("wechat/users", **body)
    return str(made["openid"])


async def alipay(outside: Outside, **more: Any) -> None:
    """An app and a person of Alipay."""
    private, request = request_for_certificate(APP_ID)
    body = {"app_id": APP_ID, "seller_id": "2088000000000042", "request": request, **more}
    shown = await outside.control("alipay/apps", **body)
    await outside.control("alipay/users", user_id=USER, logon_id="ada@example.com", name="艾达")
    kept = {
        "private_key": private,
        "app_certificate": shown["app_certificate"],
        "alipay_root_certificate": shown["alipay_root_certificate"],
        "alipay_certificates": json.dumps([shown["alipay_certificate"]]),
    }
    for name, value in kept.items():
        keep_secret(outside.served, f"alipay-{name}".replace("_", "-"), value)
    page = "/oauth2/publicAppAuthorize.htm"
    await outside.provider("alipay", outside.world.alipay_url, page, APP_ID, *kept)


async def test_a_wechat_account_is_linked(outside: Outside, anna: Browser) -> None:
    openid = await wechat(outside)
    answer = await outside.link(anna, "wechat", person="ada")
    assert answer.status_code == 200, answer.text
    assert await outside.payee(answer.json()) == {"appid": APPID, "openid": openid}


async def test_a_snapshot_user_of_wechat_is_refused(outside: Outside, anna: Browser) -> None:
    await wechat(outside, snapshot=True)
    answer = await outside.link(anna, "wechat", person="ada")
    assert code_of(answer) == (422, "link-snapshot-user")


async def test_who_does_not_agree_on_wechats_page(outside: Outside, anna: Browser) -> None:
    await wechat(outside)
    answer = await outside.link(anna, "wechat", person="")
    assert code_of(answer) == (422, "link-denied")


async def test_an_alipay_account_is_linked(outside: Outside, anna: Browser) -> None:
    await alipay(outside)
    answer = await outside.link(anna, "alipay", user=USER)
    assert answer.status_code == 200, answer.text
    assert await outside.payee(answer.json()) == {"user_id": USER}


async def test_a_newer_app_of_alipay_gets_an_open_id(outside: Outside, anna: Browser) -> None:
    await alipay(outside, open_id_only=True)
    answer = await outside.link(anna, "alipay", user=USER)
    assert answer.status_code == 200, answer.text
    assert set(await outside.payee(answer.json())) == {"open_id"}


async def test_an_answer_that_alipay_did_not_sign_says_nothing(
    outside: Outside, anna: Browser
) -> None:
    await alipay(outside)
    await outside.control("alipay/faults", bad_signature=1)
    answer = await outside.link(anna, "alipay", user=USER)
    assert code_of(answer) == (503, "link-provider-unavailable")
    assert (await anna.page.get("/v1/me/links")).json()["data"] == []


async def test_a_code_that_was_used_is_refused_by_alipay(outside: Outside, anna: Browser) -> None:
    await alipay(outside)
    state = await anna.begin("alipay")
    params = {"state": state, "auth_code": "0" * 32}
    answer = await anna.plain.get("/v1/links/callback/alipay", params=params)
    assert code_of(answer) == (422, "link-code-refused")
