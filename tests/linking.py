"""A provider's OAuth on a real socket, told by the test what to say; and browsers that link."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from tests.served import BASE, Served, client

from paymaster.kernel.ids import parse_text_id
from paymaster.secrets.opening import secrets_directory

_numbers = iter(range(1, 1000))
APPID = "wx0123456789abcdef"
RETURN = "https://app.example.com/linked"


@dataclass
class FakeWeChat:
    """Codes by whom they are of; every exchange is counted."""

    url: str
    people: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    used: Counter[str] = field(default_factory=Counter)
    status: int = 200
    silent: int = 0
    """So many of the next calls are cut off after they were understood."""
    gate: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)

    def code(self, openid: str, **more: Any) -> str:
        made = f"code{len(self.people):04d}"
        self.people[made] = {"openid": openid, **more}
        return made

    def exchange(self, asked: dict[str, str]) -> dict[str, Any]:
        self.asked.append(asked)
        self.reached.set()
        if self.gate is not None:
            assert self.gate.wait(20)
        code = asked["code"]
        self.used[code] += 1
        if asked["appid"] != APPID or asked["secret"] != "the-secret-of-the-app":
            return {"errcode": 40125, "errmsg": "invalid appsecret, rid: 1"}
        if code not in self.people:
            return {"errcode": 40029, "errmsg": "invalid code, rid: 1"}
        if self.used[code] > 1:
            return {"errcode": 40163, "errmsg": "code been used, rid: 1"}
        tokens = {"access_token": "ACCESS-TOKEN", "refresh_token": "REFRESH-TOKEN"}
        return {"expires_in": 7200, "scope": "snsapi_base", **tokens, **self.people[code]}


@contextmanager
def fake_wechat() -> Generator[FakeWeChat]:
    found: FakeWeChat

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            assert parts.path == "/sns/oauth2/access_token"
            said = found.exchange({k: v[0] for k, v in parse_qs(parts.query).items()})
            if found.silent:
                found.silent -= 1
                self.close_connection = True
                return
            body = json.dumps(said).encode()
            self.send_response(found.status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            """Nothing: tests print what matters."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = FakeWeChat(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def openid(number: int) -> str:
    return f"o{number:027d}"


def keep_secret(served: Served, name: str, value: str) -> None:
    """Put a secret into the installation's store."""
    path = secrets_directory(served.deps.settings) / name
    path.write_text(value)
    path.chmod(0o600)


async def set_up(served: Served, wechat: FakeWeChat, **more: Any) -> Any:
    """Let users of the environment link there."""
    keep_secret(served, "wechat-app-secret", "the-secret-of-the-app")
    body = {
        "settings": {
            "app_id": APPID,
            "authorize_url": f"{wechat.url}/connect/oauth2/authorize",
            "api_url": wechat.url,
        },
        "secrets": {"app_secret": "wechat-app-secret"},
        "return_to": [RETURN],
        **more,
    }
    return await served.ok("PUT", "/v1/link-providers/wechat", body)


@dataclass
class Browser:
    """An earner's browser: the app's page in it has a token, the way back only has its cookies."""

    served: Served
    name: str
    page: httpx.AsyncClient
    plain: httpx.AsyncClient

    async def begin(self, provider: str = "wechat", **body: Any) -> str:
        """The state that the provider will send back."""
        answer = await self.page.post(f"/v1/me/links/{provider}", json=body)
        assert answer.status_code == 201, answer.text
        for cookie in answer.cookies.jar:
            assert cookie.value is not None
            self.plain.cookies.set(cookie.name, cookie.value, domain="api.test", path="/")
        return state_of(answer.json()["authorize_url"])

    async def come_back(self, state: str, code: str | None, provider: str = "wechat") -> Any:
        params = {"state": state} if code is None else {"state": state, "code": code}
        return await self.plain.get(f"/v1/links/callback/{provider}", params=params)

    async def link(self, wechat: FakeWeChat, subject: str, **more: Any) -> Any:
        return await self.come_back(await self.begin(), wechat.code(subject, **more))

    async def close(self) -> None:
        await self.page.aclose()
        await self.plain.aclose()


def state_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["state"][0]


async def browser_of(served: Served, name: str) -> Browser:
    """Of an earner, who is made if there is none of this name."""
    await served.ok("PUT", f"/v1/users/{name}", {})
    token = (await served.ok("POST", f"/v1/users/{name}/tokens"))["token"]
    return Browser(served, name, client(served.app, token), _plain(served))


def _plain(served: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(served.app, client=("192.0.2.9", 4711)), base_url=BASE
    )


@asynccontextmanager
async def browsers(served: Served, wechat: FakeWeChat, count: int) -> AsyncIterator[list[Browser]]:
    """So many earners, each with a browser."""
    await set_up(served, wechat)
    made = [await browser_of(served, f"linker-{next(_numbers)}") for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


def subject() -> str:
    return openid(next(_numbers))


def number_of(text: str) -> int:
    return parse_text_id(text.partition("_")[0], text).id


def cell_of(text: str) -> int:
    return parse_text_id(text.partition("_")[0], text).cell
