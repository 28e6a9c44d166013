"""A worker links an account at WeChat or Alipay, in a browser, on the provider's own page."""

from __future__ import annotations

from http.client import FOUND, SEE_OTHER
from typing import Any
from urllib.parse import quote

import httpx

from paymaster.cli.demo import payees
from paymaster.cli.demo.client import Client
from paymaster.cli.demo.merchants import APPID
from paymaster.cli.demo.scene import WECHAT, Story


async def register(story: Story, worker: str, provider: str, *, accepts: bool) -> None:
    """The worker has an account there; `accepts` whether payments are accepted as they come."""
    if provider == WECHAT:
        body: dict[str, Any] = {
            "appid": APPID,
            "person": worker,
            "openid": payees.openid(worker),
            "real_name": worker,
            "behaviour": "confirm" if accepts else "wait",
        }
    else:
        body = {
            "user_id": payees.alipay_user(worker),
            "logon_id": f"{payees.alipay_user(worker)}@example.com",
            "name": worker,
        }
    await story.sandbox.post(f"/_control/{provider}/users", body)


async def link(story: Story, worker: str, provider: str) -> str:
    """The destination that the linked account is; linked once, whenever this is called."""
    path = f"/v1/users/{quote(worker, safe='')}"
    for known in (await story.app.get(f"{path}/links"))["data"]:
        if known["provider"] == provider:
            return known["destination"]
    token = (await story.app.send("POST", f"{path}/tokens")).json()["token"]
    # Its own browser: the way back works only where it was begun, by a cookie.
    async with httpx.AsyncClient(timeout=60, trust_env=False) as browser:
        page = Client(browser, story.addresses.api).showing(token)
        address = (await page.post(f"/v1/me/links/{provider}"))["authorize_url"]
        agreed = await Client(browser, "").send(
            "GET", _as(address, worker, provider), accept=(FOUND, SEE_OTHER)
        )
        back = await Client(browser, "").get(agreed.headers["location"])
    return back["destination"]


def _as(address: str, worker: str, provider: str) -> str:
    """The page's address with who agrees there, which the sandbox takes for a click."""
    who = {"person": worker} if provider == WECHAT else {"user": payees.alipay_user(worker)}
    return str(httpx.URL(address.partition("#")[0]).copy_merge_params(who))
