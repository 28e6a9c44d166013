"""The keys of issuers: what is read, how often, how long it is good, and what is never used."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from tests.issuers import new_key, public_jwk

from paymaster.kernel.errors import Broken, Busy, Unauthenticated
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.people import oidc_keys
from paymaster.people.oidc_keys import (
    DISCOVERY,
    FRESH_SECONDS,
    LOOK_SECONDS,
    LOOKS,
    STALE_SECONDS,
    IssuerKeys,
    parse_keys,
    url_fault,
)

URL = "https://login.example.com"


class Issuer:
    """An issuer behind a transport, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: Counter[str] = Counter()
        self.document: dict[str, Any] = {"issuer": URL, "jwks_uri": f"{URL}/keys"}
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.body: bytes | None = None
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self.known = IssuerKeys(client, lambda: self.now)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked[request.url.path] += 1
        found = self.document if request.url.path == DISCOVERY else {"keys": self.keys}
        return httpx.Response(self.status, content=self.body or json.dumps(found).encode())

    def add(self, kid: str | None, algorithm: str = "EdDSA") -> None:
        self.keys.append(public_jwk(new_key(algorithm), kid, algorithm))

    async def refused(self, kid: str | None, algorithm: str = "EdDSA") -> None:
        with pytest.raises(Unauthenticated, match="token-invalid"):
            await self.known.key(URL, algorithm, kid)

    async def unavailable(self, kid: str = "one") -> None:
        with pytest.raises(Busy, match="issuer-unavailable"):
            await self.known.key(URL, "EdDSA", kid)


@pytest.fixture
def issuer() -> Issuer:
    made = Issuer()
    made.add("one")
    return made


async def test_keys_are_read_once_and_again_after_a_while(issuer: Issuer) -> None:
    for _ in range(5):
        await issuer.known.key(URL, "EdDSA", "one")
    assert issuer.asked == {DISCOVERY: 1, "/keys": 1}
    issuer.now += FRESH_SECONDS
    issuer.keys.clear()
    issuer.add("two")
    await issuer.refused("one")


async def test_many_who_come_at_once_look_once(issuer: Issuer) -> None:
    await asyncio.gather(*(issuer.known.key(URL, "EdDSA", "one") for _ in range(50)))
    assert issuer.asked["/keys"] == 1


async def test_an_unknown_key_is_looked_for_but_not_too_often(issuer: Issuer) -> None:
    await issuer.known.key(URL, "EdDSA", "one")
    issuer.add("two")
    await issuer.known.key(URL, "EdDSA", "two")
    assert issuer.asked["/keys"] == 2
    for number in range(500):
        await issuer.refused(f"made up {number}")
    assert issuer.asked["/keys"] == LOOKS
    await issuer.known.key(URL, "EdDSA", "one")
    issuer.add("three")
    await issuer.refused("three")
    issuer.now += LOOK_SECONDS
    await issuer.known.key(URL, "EdDSA", "three")
    assert issuer.asked["/keys"] == LOOKS + 1


async def test_an_issuer_that_is_down_is_believed_for_a_while(issuer: Issuer) -> None:
    await issuer.known.key(URL, "EdDSA", "one")
    issuer.status = 503
    issuer.now += STALE_SECONDS - 1
    await issuer.known.key(URL, "EdDSA", "one")
    assert issuer.asked[DISCOVERY] == 2
    issuer.now += 1
    await issuer.unavailable()
    issuer.status = 200
    issuer.now += LOOK_SECONDS
    await issuer.known.key(URL, "EdDSA", "one")


async def test_an_issuer_that_was_never_reached_is_not_hammered(issuer: Issuer) -> None:
    issuer.status = 500
    for _ in range(100):
        await issuer.unavailable()
    assert issuer.asked[DISCOVERY] == LOOKS


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example", "jwks_uri": f"{URL}/keys"},
        {"issuer": f"{URL}/", "jwks_uri": f"{URL}/keys"},
        {"jwks_uri": f"{URL}/keys"},
        {"issuer": URL},
        {"issuer": URL, "jwks_uri": 7},
        {"issuer": URL, "jwks_uri": "http://login.example.com/keys"},
        {"issuer": URL, "jwks_uri": "http://127.0.0.1/keys"},
        {"issuer": URL, "jwks_uri": "file:///etc/passwd"},
        {"issuer": URL, "jwks_uri": "https://a:b@login.example.com/keys"},
        {"issuer": URL, "jwks_uri": "//login.example.com/keys"},
    ],
)
async def test_a_document_that_is_not_the_issuers(issuer: Issuer, document: dict[str, Any]) -> None:
    issuer.document = document
    await issuer.unavailable()
    assert issuer.asked["/keys"] == 0


@pytest.mark.parametrize(
    "body",
    [b"x" * 70_000, b"[]", b"{", b"\xff", b'{"a":' * 5000, b"null"],
)
async def test_an_answer_that_is_too_large_or_no_object(issuer: Issuer, body: bytes) -> None:
    issuer.body = body
    await issuer.unavailable()


async def test_redirects_are_not_followed(issuer: Issuer) -> None:
    issuer.status = 302
    await issuer.unavailable()


async def test_an_issuer_that_does_not_answer_is_given_up(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(oidc_keys, "FETCH_SECONDS", 0.01)
    issuer.known = IssuerKeys(httpx.AsyncClient(transport=httpx.MockTransport(never)))
    await issuer.unavailable()


async def test_no_network_inside_a_transaction(issuer: Issuer) -> None:
    token = TRANSACTION_OPEN.set(True)
    try:
        with pytest.raises(Broken, match="network-inside-transaction"):
            await issuer.known.key(URL, "EdDSA", "one")
    finally:
        TRANSACTION_OPEN.reset(token)


async def test_a_token_without_key_id_fits_the_only_key(issuer: Issuer) -> None:
    await issuer.known.key(URL, "EdDSA", None)
    issuer.add("two")
    issuer.now += FRESH_SECONDS
    await issuer.refused(None)


async def test_a_key_is_for_its_own_algorithm_only(issuer: Issuer) -> None:
    await issuer.refused("one", "ES256")
    await issuer.refused("one", "RS256")
    await issuer.refused(None, "ES256")
    await issuer.known.key(URL, "EdDSA", "one")


def jwk(made: Any, kind: Any, **more: Any) -> dict[str, Any]:
    return {**json.loads(kind.to_jwk(made.public_key())), "kid": "one", **more}


def test_keys_that_are_not_used() -> None:
    good = jwk(new_key("RS256"), RSAAlgorithm)
    assert [key.algorithm for key in parse_keys({"keys": [good]})] == ["RS256"]
    weak = jwk(rsa.generate_private_key(65537, 1024), RSAAlgorithm)  # noqa: S505 - what is refused
    curve = jwk(ec.generate_private_key(ec.SECP384R1()), ECAlgorithm)
    edwards = jwk(ed448.Ed448PrivateKey.generate(), OKPAlgorithm)
    bad: list[Any] = [
        weak,
        curve,
        edwards,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "one", "alg": "HS256"},
        {**good, "use": "enc"},
        {**good, "alg": "HS256"},
        {**good, "alg": "ES256"},
        {**good, "key_ops": ["encrypt"]},
        {**good, "key_ops": "verify"},
        {**good, "kid": 7},
        {**good, "kty": ["RSA"]},
        {**good, "n": 7},
        {**good, "n": "!"},
        {**good, "e": "AA"},
        {"kty": "RSA"},
        "RSA",
        None,
    ]
    assert parse_keys({"keys": bad}) == []
    mixed = parse_keys({"keys": [*bad, good]})
    assert [key.algorithm for key in mixed] == ["RS256"]


def test_a_private_key_that_was_published_is_no_more_than_its_public_half() -> None:
    made = new_key("RS256")
    whole = {**json.loads(RSAAlgorithm.to_jwk(made)), "kid": "one", "key_ops": ["verify"]}
    [key] = parse_keys({"keys": [whole]})
    assert isinstance(key.public, RSAPublicKey)
    assert key.public.public_numbers() == made.public_key().public_numbers()


@pytest.mark.parametrize("found", [{}, {"keys": {}}, {"keys": None}, {"keys": [{}] * 101}])
def test_what_is_no_set_of_keys(found: dict[str, object]) -> None:
    with pytest.raises(oidc_keys._Unusable):
        parse_keys(found)


def test_addresses() -> None:
    for url in (URL, f"{URL}/realms/a", f"{URL}:8443"):
        assert url_fault(url, plain=False) is None
    assert url_fault("http://127.0.0.1:1", plain=True) is None
    for url in (
        "http://login.example.com",
        "ftp://login.example.com",
        "login.example.com",
        "https://",
        f"{URL}?a=b",
        f"{URL}#a",
        f"{URL}#",
        "https://a@login.example.com",
        f"{URL}/" + "x" * 500,
        "https://l\u00f6gin.example.com",
        "",
        "https://[::1",
    ):
        assert url_fault(url, plain=False) is not None, url
