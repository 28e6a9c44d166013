"""Passkeys in a real browser: Chromium with a virtual authenticator, on pages of this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.virtual_authenticator import VirtualAuthenticatorOptions
from tests.served import Served, serve
from tests.stepping import (
    EVERY_WITHDRAWAL,
    Person,
    new_person,
    set_policy,
    told,
)
from tests.world import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("install chromium and chromedriver", allow_module_level=True)

CREATE = """
const done = arguments[arguments.length - 1];
navigator.credentials.create({
  publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(arguments[0])
}).then(made => done({made: made.toJSON()}), fault => done({fault: fault.name}));
"""
GET = """
const done = arguments[arguments.length - 1];
navigator.credentials.get({
  publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(arguments[0])
}).then(made => done({made: made.toJSON()}), fault => done({fault: fault.name}));
"""


class Page(BaseHTTPRequestHandler):
    """A page of the app."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>App</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@pytest.fixture(scope="module")
def sites() -> Generator[tuple[int, int]]:
    """The ports of two sites: the app's, and another's on the same machine."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Page) for _ in range(2)]
    threads = [threading.Thread(target=one.serve_forever, daemon=True) for one in servers]
    for thread in threads:
        thread.start()
    yield servers[0].server_address[1], servers[1].server_address[1]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Generator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield started
    started.quit()


@dataclass
class Browser:
    """A browser on a page, with an authenticator that knows its user."""

    driver: webdriver.Chrome

    def on(self, port: int, host: str = "localhost") -> None:
        self.driver.get(f"http://{host}:{port}/")

    async def asks(self, script: str, options: dict[str, Any]) -> dict[str, Any]:
        """What the page's script was given, as JSON that went through text once."""
        found = await asyncio.to_thread(self.driver.execute_async_script, script, options)
        return json.loads(json.dumps(found))


@pytest.fixture
def browser(driver: webdriver.Chrome, sites: tuple[int, int]) -> Generator[Browser]:
    made = Browser(driver)
    made.on(sites[0])
    device = VirtualAuthenticatorOptions(
        protocol=VirtualAuthenticatorOptions.Protocol.CTAP2,
        transport=VirtualAuthenticatorOptions.Transport.INTERNAL,
        has_resident_key=True,
        has_user_verification=True,
        is_user_verified=True,
    )
    driver.add_virtual_authenticator(device)
    driver.set_script_timeout(20)
    yield made
    driver.remove_virtual_authenticator()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
    sites: tuple[int, int],
) -> AsyncIterator[Served]:
    folder: Path = tmp_path_factory.mktemp("passkeys")
    rules = {
        "relying_parties": {"acme/test": "localhost"},
        "origins": {"acme/test": f"http://localhost:{sites[0]}"},
        "cooling_off_seconds": 0,
    }
    async with serve(postgres, folder, step_up=rules) as made:
        await set_policy(made, EVERY_WITHDRAWAL)
        yield made


async def enrolled(served: Served, browser: Browser) -> Person:
    """A user whose passkey the browser has made."""
    person = await new_person(served, enrolled=False)
    begun = await person.begin("passkey")
    found = await browser.asks(CREATE, begun["passkey"])
    where = person.path(f"/factors/{begun['id']}/confirm")
    done = await served.ok("POST", where, {"passkey": found["made"]})
    assert (done["state"], len(done["recovery_codes"])) == ("active", 10)
    return person


async def test_a_browser_makes_a_passkey_and_proves_a_withdrawal_with_it(
    served: Served, browser: Browser
) -> None:
    person = await enrolled(served, browser)
    assert await told(person) == (422, "step-up-required")
    for _ in range(2):
        asked = await person.ask_withdrawal()
        answer = (await browser.asks(GET, asked["passkey"]))["made"]
        done = await person.verify(asked["id"], passkey=answer)
        assert (done["state"], done["method"]) == ("verified", "passkey")
        assert await told(person, "2.01", step_up=asked["id"]) == (422, "step-up-mismatch")
        assert await told(person, step_up=asked["id"]) == (202, None)
        where = person.path(f"/step-ups/{asked['id']}/verify")
        await served.refused(422, "step-up-used", "POST", where, {"passkey": answer})


async def test_a_page_of_another_site_is_refused(
    served: Served, browser: Browser, sites: tuple[int, int]
) -> None:
    person = await enrolled(served, browser)
    asked = await person.ask_withdrawal()
    browser.on(sites[1])
    answer = (await browser.asks(GET, asked["passkey"]))["made"]
    where = person.path(f"/step-ups/{asked['id']}/verify")
    problem = await served.refused(422, "passkey-refused", "POST", where, {"passkey": answer})
    assert problem["fault"] == "origin"


async def test_the_browser_itself_refuses_another_domain_and_an_unverified_user(
    served: Served, browser: Browser, sites: tuple[int, int]
) -> None:
    person = await enrolled(served, browser)
    asked = await person.ask_withdrawal()
    browser.driver.set_user_verified(False)
    assert await browser.asks(GET, asked["passkey"]) == {"fault": "NotAllowedError"}
    browser.driver.set_user_verified(True)
    browser.on(sites[0], "127.0.0.1")
    assert await browser.asks(GET, asked["passkey"]) == {"fault": "SecurityError"}


async def test_a_passkey_that_is_there_is_not_made_again(served: Served, browser: Browser) -> None:
    person = await enrolled(served, browser)
    asked = await person.ask(purpose="factor", act="add")
    answer = (await browser.asks(GET, asked["passkey"]))["made"]
    await person.verify(asked["id"], passkey=answer)
    begun = await person.begin("passkey", asked["id"])
    assert await browser.asks(CREATE, begun["passkey"]) == {"fault": "InvalidStateError"}
