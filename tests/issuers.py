"""An issuer on loopback whose keys, documents and tokens a test makes as it likes."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.served import Served
from tests.world import ACTOR

from paymaster.db.tx import ControlTx
from paymaster.people import issuers
from paymaster.people.issuers import Issuer, NewIssuer
from paymaster.people.oidc_keys import DISCOVERY

AUDIENCE = "app"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def packed(part: Mapping[str, Any] | str) -> str:
    """A part of a token; text goes as it is, so that it need not be good JSON."""
    return b64((part if isinstance(part, str) else json.dumps(part)).encode())


def new_key(algorithm: str) -> Any:
    if algorithm == "RS256":
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def public_jwk(key: Any, kid: str | None, algorithm: str) -> dict[str, Any]:
    kinds = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    made: dict[str, Any] = json.loads(kinds[algorithm].to_jwk(key.public_key()))
    named = {} if kid is None else {"kid": kid}
    return {**made, **named, "alg": algorithm, "use": "sig"}


@dataclass
class LocalIssuer:
    """`documents` are what it publishes, by path; `asked` counts who looked at what."""

    url: str
    keys: dict[str, tuple[str, Any]] = field(default_factory=dict[str, tuple[str, Any]])
    documents: dict[str, tuple[int, bytes]] = field(default_factory=dict[str, tuple[int, bytes]])
    asked: Counter[str] = field(default_factory=Counter[str])

    def publish(self, **more: Any) -> None:
        """Publish the keys as they are now."""
        found = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **more}
        jwks = [public_jwk(key, kid, algorithm) for kid, (algorithm, key) in self.keys.items()]
        self.documents[DISCOVERY] = (200, json.dumps(found).encode())
        self.documents["/keys"] = (200, json.dumps({"keys": jwks}).encode())

    def add_key(self, kid: str, algorithm: str = "RS256") -> Any:
        """A new key, published."""
        key = new_key(algorithm)
        self.keys[kid] = (algorithm, key)
        self.publish()
        return key

    def claims(self, now: datetime, **more: Any) -> dict[str, Any]:
        """What an honest token says."""
        expires = now + timedelta(minutes=5)
        made = {"iss": self.url, "aud": AUDIENCE, "sub": "anna", "iat": now, "exp": expires}
        return {
            name: int(value.timestamp()) if isinstance(value, datetime) else value
            for name, value in {**made, **more}.items()
            if value is not None
        }

    def token(
        self, claims: Mapping[str, Any], kid: str = "one", header: Mapping[str, Any] | None = None
    ) -> str:
        """A token that is signed as it says."""
        algorithm, key = self.keys[kid]
        return jwt.encode(dict(claims), key, algorithm, {"kid": kid, **(header or {})})

    def signed(self, header: Mapping[str, Any] | str, claims: Any, kid: str = "one") -> str:
        """A token of any header and claims, under a true signature of RS256."""
        text = f"{packed(header)}.{packed(claims)}"
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(text.encode(), self.keys[kid][1])
        return f"{text}.{b64(signature)}"


@contextmanager
def local_issuer() -> Generator[LocalIssuer]:
    """An issuer with one RSA key, `one`."""
    found: LocalIssuer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked[self.path] += 1
            status, body = found.documents.get(self.path, (404, b"{}"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            """Nothing: tests print what matters."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = LocalIssuer(f"http://127.0.0.1:{server.server_port}")
        found.add_key("one")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


async def trust(served: Served, url: str, environment_id: int = 1, **more: Any) -> Issuer:
    """Have an environment trust an issuer."""
    dbs = served.world.dbs
    environment = dbs.environment(environment_id)
    new = NewIssuer(url, **{"audiences": [AUDIENCE], **more})

    async def work(tx: ControlTx) -> Issuer:
        return await issuers.add(tx, environment, new)

    return await dbs.control.run(ACTOR, "", work)


@asynccontextmanager
async def trusted(
    served: Served, url: str, environment_id: int = 1, **more: Any
) -> AsyncIterator[Issuer]:
    """The same for a while."""
    made = await trust(served, url, environment_id, **more)
    try:
        yield made
    finally:
        await served.world.dbs.control.run(
            ACTOR, "", lambda tx: issuers.remove(tx, environment_id, made.id, "done")
        )
