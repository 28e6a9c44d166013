"""A real OpenID provider for tests: `oidc-provider` under node, on loopback, with keys that rotate.

Its packages are installed once, by `npm ci`, into a cache folder outside the project; where node or
npm cannot be had, tests that need the provider are skipped.

    def test_login(oidc_provider: OidcProvider) -> None:
        oidc_provider.configure(clients=[web_client("console", "http://127.0.0.1:1/callback")])
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).resolve().parent / "oidc"
FILES = ("package.json", "package-lock.json", ".npmrc", "server.js")
REDIRECT = "http://127.0.0.1:1/callback"
"""Where the earner's app gets its code; nobody listens there, the code is read from the address."""

INSTALL_SECONDS, START_SECONDS, CALL_SECONDS = 100, 20, 10


def app_client(client_id: str = "app", *, algorithm: str = "RS256") -> dict[str, Any]:
    """The earner's app: a public client with PKCE, whose tokens are signed by `algorithm`."""
    return {
        "client_id": client_id,
        "token_endpoint_auth_method": "none",
        "redirect_uris": [REDIRECT],
        "id_token_signed_response_alg": algorithm,
    }


def web_client(
    client_id: str, redirect_uri: str, client_secret: str | None = None
) -> dict[str, Any]:
    """A web application that logs people in: confidential when it has a secret."""
    method = "none" if client_secret is None else "client_secret_basic"
    secret = {} if client_secret is None else {"client_secret": client_secret}
    return {
        "client_id": client_id,
        "token_endpoint_auth_method": method,
        "redirect_uris": [redirect_uri],
        **secret,
    }


@dataclass(frozen=True)
class Tokens:
    """What the provider gives out for a code."""

    access_token: str
    id_token: str


@dataclass(frozen=True)
class OidcProvider:
    """A running provider. `issuer` is its address."""

    issuer: str
    process: subprocess.Popen[str]

    def _control(self, name: str, body: Mapping[str, Any]) -> dict[str, int]:
        url = f"{self.issuer}/control/{name}"
        answer = httpx.post(url, json=body, timeout=CALL_SECONDS, trust_env=False)
        assert answer.status_code == 200, answer.text
        found: dict[str, int] = answer.json()
        return found

    def configure(
        self,
        *,
        clients: Sequence[Mapping[str, Any]] | None = None,
        claims: Mapping[str, Mapping[str, Any]] | None = None,
        audience: str | None = None,
    ) -> None:
        """Change clients (all of them), claims by account, or the audience of access tokens."""
        given = {"clients": clients, "claims": claims, "audience": audience}
        self._control("configure", {k: v for k, v in given.items() if v is not None})

    def rotate_keys(self, *, keep_old: bool = True) -> None:
        """Sign with new keys from now on; without the old ones their tokens cannot be verified."""
        self._control("rotate", {"keep": keep_old})

    def go_down(self, *, down: bool = True) -> None:
        """Answer 503 where others look for the discovery document and the keys."""
        self._control("down", {"down": down})

    def counts(self) -> dict[str, int]:
        """How often `discovery` and `keys` were asked for."""
        return self._control("counts", {})

    def log_in(self, account: str, client_id: str = "app") -> Tokens:
        """An earner logs in with the app: authorization code and PKCE, as a browser does it."""
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        asked = {
            "client_id": client_id,
            "response_type": "code",
            "redirect_uri": REDIRECT,
            "scope": "openid profile email",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "state": secrets.token_urlsafe(8),
            "resource": "urn:paymaster",
            "login_hint": account,
        }
        with httpx.Client(base_url=self.issuer, timeout=CALL_SECONDS, trust_env=False) as browser:
            at = follow(browser, str(httpx.URL(f"{self.issuer}/auth", params=asked)), REDIRECT)
            given = browser.post(
                "/token",
                data={
                    "grant_type": "authorization_code",
                    "code": httpx.URL(at).params["code"],
                    "redirect_uri": REDIRECT,
                    "client_id": client_id,
                    "code_verifier": verifier,
                    "resource": "urn:paymaster",
                },
            )
        assert given.status_code == 200, given.text
        return Tokens(given.json()["access_token"], given.json()["id_token"])


def follow(browser: httpx.Client, url: str, until: str) -> str:
    """Follow redirects until one leads to an address that begins with `until`; that address.

    The address of the first page should name `login_hint`, so that no form stands in the way.
    """
    for _ in range(10):
        answer = browser.get(url)
        assert answer.is_redirect, f"{url}: {answer.status_code} {answer.text}"
        url = str(answer.url.join(answer.headers["location"]))
        if url.startswith(until):
            return url
    raise AssertionError(f"redirects never led to {until}")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paymaster-tests"


def installed() -> Path:
    """The folder with the provider and its packages. Skips the test when it cannot be had."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the OpenID provider needs node 20 or later, and npm: install nodejs and npm")
    contents = b"\0".join((HERE / name).read_bytes() for name in FILES)
    folder = _cache() / f"oidc-{hashlib.sha256(contents).hexdigest()[:16]}"
    if folder.exists():
        return folder
    part = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.part")
    part.mkdir(parents=True)
    for name in FILES:
        shutil.copy(HERE / name, part / name)
    done = subprocess.run(
        [npm, "ci", "--omit=dev", "--ignore-scripts"],
        cwd=part,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(part)
        pytest.skip(f"npm could not fetch the OpenID provider: {done.stderr.strip()[-200:]}")
    try:
        part.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(part)
    return folder


@contextmanager
def running(
    clients: Sequence[Mapping[str, Any]] = (), audience: str = "paymaster"
) -> Generator[OidcProvider]:
    """A provider of its own, ended afterwards."""
    folder = installed()
    with subprocess.Popen(
        ["node", "server.js"],
        cwd=folder,
        env={**os.environ, "NODE_NO_WARNINGS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given = {"clients": list(clients) or [app_client()], "audience": audience}
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        issuer = process.stdout.readline().strip()
        try:
            assert issuer.startswith("http://127.0.0.1:"), "the OpenID provider did not start"
            yield OidcProvider(issuer, process)
        finally:
            process.stdin.close()
            process.wait(START_SECONDS)


@pytest.fixture
def oidc_provider() -> Generator[OidcProvider]:
    """A provider of the test's own, with one public client, `app`."""
    with running() as found:
        yield found
