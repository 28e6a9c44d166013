"""A little Vault for tests: the parts of the HTTP API that a client of KV version 2 meets.

Written from the documented API (KV version 2, token and Kubernetes auth): namespaces, policies by
path, tokens with a lease that runs out unless it is renewed, versions with soft deletion,
destruction and `delete_version_after`. It refuses what Vault refuses: a call without a token, with
one that ran out, in another namespace, to a path the policy does not name.
"""

from __future__ import annotations

import json
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


def _text(moment: datetime) -> str:
    """As Vault writes it: with nanoseconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"


@dataclass
class Version:
    """One version of an entry."""

    data: dict[str, Any] | None
    created: datetime
    deletion: datetime | None = None
    destroyed: bool = False

    @property
    def gone(self) -> bool:
        """Whether its data is not given out."""
        past = self.deletion is not None and self.deletion <= datetime.now(UTC)
        return self.destroyed or past

    def facts(self) -> dict[str, Any]:
        """Its metadata."""
        return {
            "created_time": _text(self.created),
            "deletion_time": "" if self.deletion is None else _text(self.deletion),
            "destroyed": self.destroyed,
        }


@dataclass
class Token:
    """What a caller shows, in one namespace."""

    namespace: str
    ends_at: float
    ttl: float
    renewable: bool
    may_list: bool = True
    denied: frozenset[str] = frozenset()


@dataclass
class Vault:
    """The state of one server; a test changes it as an operator would."""

    mount: str = "secret"
    entries: dict[tuple[str, str], dict[int, Version]] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)
    jwts: dict[tuple[str, str], str] = field(default_factory=dict)
    down: bool = False
    lease_seconds: float = 3600.0
    calls: list[str] = field(default_factory=list)
    renewals: int = 0
    logins: int = 0
    address: str = ""

    # ------------------------------------------------------------------ what an operator does

    def token(self, namespace: str = "", *, ttl: float = 3600.0, **more: Any) -> str:
        """A new token."""
        made = "hvs." + secrets.token_urlsafe(24)
        self.tokens[made] = Token(namespace, time.monotonic() + ttl, ttl, ttl > 0, **more)
        return made

    def put(self, path: str, value: Any, namespace: str = "", **more: Any) -> int:
        """A new version with `value` in the field of that name; its number."""
        versions = self.entries.setdefault((namespace, path), {})
        number = max(versions, default=0) + 1
        versions[number] = Version({"value": value}, more.pop("created", datetime.now(UTC)), **more)
        return number

    def delete(self, path: str, number: int, namespace: str = "") -> None:
        """Soft deletion: the version is kept and not given out."""
        self.entries[(namespace, path)][number].deletion = datetime.now(UTC) - timedelta(seconds=1)

    def destroy(self, path: str, number: int, namespace: str = "") -> None:
        """The data is gone for good."""
        version = self.entries[(namespace, path)][number]
        version.destroyed, version.data = True, None

    # ------------------------------------------------------------------------ what it answers

    def answer(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one request."""
        parts = urlsplit(target)
        self.calls.append(f"{method} {target}")
        if self.down:
            return 503, {"errors": ["Vault is sealed"]}
        if headers.get("x-vault-request") != "true":
            return 400, {"errors": ["missing header"]}
        space, path = headers.get("x-vault-namespace", ""), parts.path.removeprefix("/v1/")
        if path.startswith("auth/") and path.endswith("/login"):
            return self._login(space, path, json.loads(body or b"{}"))
        token = self.tokens.get(headers.get("x-vault-token", ""))
        if token is None or token.namespace != space or token.ends_at <= time.monotonic():
            return 403, {"errors": ["permission denied"]}
        if path == "auth/token/lookup-self":
            left = max(int(token.ends_at - time.monotonic()), 1)
            return 200, {"data": {"ttl": left, "renewable": token.renewable}}
        if path == "auth/token/renew-self":
            return self._renew(headers["x-vault-token"], token)
        return self._kv(token, space, path, parse_qs(parts.query))

    def _login(self, space: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        role = self.jwts.get((space, str(body.get("jwt"))))
        if path != "auth/kubernetes/login" or role is None or role != body.get("role"):
            return 403, {"errors": ["permission denied"]}
        self.logins += 1
        made = self.token(space, ttl=self.lease_seconds)
        lease = {"lease_duration": self.lease_seconds, "renewable": True}
        return 200, {"auth": {"client_token": made, **lease}}

    def _renew(self, name: str, token: Token) -> tuple[int, dict[str, Any]]:
        if not token.renewable:
            return 400, {"errors": ["lease is not renewable"]}
        self.renewals += 1
        token.ends_at = time.monotonic() + token.ttl
        lease = {"lease_duration": token.ttl, "renewable": True}
        return 200, {"auth": {"client_token": name, **lease}}

    def _kv(
        self, token: Token, space: str, path: str, query: dict[str, list[str]]
    ) -> tuple[int, dict[str, Any]]:
        mount, _, rest = path.partition("/")
        kind, _, name = rest.partition("/")
        if mount != self.mount or kind not in ("metadata", "data") or name in token.denied:
            return 403, {"errors": ["1 error occurred: permission denied"]}
        if kind == "metadata" and query.get("list") == ["true"]:
            return self._list(token, space, name)
        versions = self.entries.get((space, name))
        if versions is None:
            return 404, {"errors": []}
        if kind == "metadata":
            facts = {str(n): version.facts() for n, version in versions.items()}
            return 200, {"data": {"versions": facts, "current_version": max(versions)}}
        number = int(query.get("version", ["0"])[0]) or max(versions)
        version = versions.get(number)
        if version is None:
            return 404, {"errors": []}
        metadata = {**version.facts(), "version": number}
        shown = None if version.gone else version.data
        return (404 if shown is None else 200), {"data": {"data": shown, "metadata": metadata}}

    def _list(self, token: Token, space: str, folder: str) -> tuple[int, dict[str, Any]]:
        if not token.may_list:
            return 403, {"errors": ["1 error occurred: permission denied"]}
        inside = folder.rstrip("/") + "/" if folder else ""
        below = [
            p.removeprefix(inside) for s, p in self.entries if s == space and p.startswith(inside)
        ]
        keys = sorted({first + more for first, more, _ in (one.partition("/") for one in below)})
        return (200, {"data": {"keys": keys}}) if keys else (404, {"errors": []})


@contextmanager
def serve(vault: Vault, certificate: tuple[Path, Path] | None = None) -> Iterator[Vault]:
    """The server on a free port of this machine, over TLS if there is `(certificate, key)`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, body = vault.answer(self.command, self.path, headers, self.rfile.read(length))
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = _do  # noqa: N815 - the names of the library

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing: tests read `Vault.calls`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    vault.address = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    try:
        yield vault
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
