"""Attacks on tokens, each by its name: none logs anybody in, and each is answered alike."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.attacking import attacked, honest, refused, taken, trusted_issuer
from tests.issuers import LocalIssuer, b64, local_issuer, new_key, packed, public_jwk, trusted
from tests.served import Served, add_environment, client
from tests.world import PostgresServer

from paymaster.kernel.ids import parse_text_id

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with attacked(postgres, tmp_path_factory) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def issuer(served: Served) -> AsyncIterator[LocalIssuer]:
    async with trusted_issuer(served) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def other_environment(served: Served) -> int:
    return await add_environment(served)


async def test_an_honest_token_of_each_algorithm_is_taken(
    served: Served, issuer: LocalIssuer
) -> None:
    for kid in ("RS256", "ES256", "EdDSA"):
        issuer.add_key(kid, kid)
    for kid in ("RS256", "ES256", "EdDSA"):
        await taken(served, issuer.token(honest(served, issuer), kid))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
async def test_alg_none(served: Served, issuer: LocalIssuer, alg: str) -> None:
    head = packed({"alg": alg, "typ": "JWT"})
    body = packed(honest(served, issuer))
    signature = issuer.token(honest(served, issuer)).rpartition(".")[2]
    for end in ("", "AA", signature):
        await refused(served, f"{head}.{body}.{end}")


@pytest.mark.parametrize("alg", ["HS256", "HS512"])
async def test_hmac_with_the_public_key(served: Served, issuer: LocalIssuer, alg: str) -> None:
    await taken(served, issuer.token(honest(served, issuer)))
    public = issuer.keys["one"][1].public_key()
    digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[alg]
    text = f"{packed({'alg': alg, 'kid': 'one'})}.{packed(honest(served, issuer))}"
    for form in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        json.dumps(public_jwk(issuer.keys["one"][1], "one", "RS256")).encode(),
        b"",
    ):
        await refused(served, f"{text}.{b64(hmac.digest(form, text.encode(), digest))}")


async def test_psychic_signature_of_zeros(served: Served, issuer: LocalIssuer) -> None:
    issuer.add_key("curve", "ES256")
    head, body, _ = issuer.token(honest(served, issuer), "curve").split(".")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for r, s in ((0, 0), (0, 1), (1, 0), (order, order)):
        await refused(served, f"{head}.{body}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}")
    await refused(served, f"{head}.{body}.{b64(bytes.fromhex('3006020100020100'))}")


async def test_wrong_audience(served: Served, issuer: LocalIssuer) -> None:
    for audience in ("other", "App", "app ", "*", "", "app,other", "app2"):
        await refused(served, issuer.token(honest(served, issuer, aud=audience)))


async def test_missing_audience(served: Served, issuer: LocalIssuer) -> None:
    await refused(served, issuer.token(honest(served, issuer, aud=None)))
    for audience in ([], {}, 7, True, {"app": 1}):
        await refused(
            served,
            issuer.signed(
                {"alg": "RS256", "kid": "one"}, {**honest(served, issuer), "aud": audience}
            ),
        )


async def test_audience_list_of_other_things_than_text(served: Served, issuer: LocalIssuer) -> None:
    for audience in (["app", None], [["app"]], [{"app": 1}], ["other"], ["app"] * 21):
        await refused(
            served,
            issuer.signed(
                {"alg": "RS256", "kid": "one"}, {**honest(served, issuer), "aud": audience}
            ),
        )
    await taken(served, issuer.token(honest(served, issuer, aud=["other", "app"])))


async def test_audience_list_of_two_environments(
    served: Served, issuer: LocalIssuer, other_environment: int
) -> None:
    async with trusted(served, issuer.url, other_environment, audiences=["theirs"]):
        await refused(served, issuer.token(honest(served, issuer, aud=["app", "theirs"])))
        await taken(served, issuer.token(honest(served, issuer, aud=["app", "unknown"])))


async def test_issuer_that_nobody_trusts(served: Served, issuer: LocalIssuer) -> None:
    for url in ("http://127.0.0.1:1", "https://login.example.com", "", "urn:paymaster:x"):
        await refused(served, issuer.token(honest(served, issuer, iss=url)))
    for url in (None, 7, [issuer.url], {"url": issuer.url}):
        await refused(
            served,
            issuer.signed({"alg": "RS256", "kid": "one"}, {**honest(served, issuer), "iss": url}),
        )


async def test_issuer_of_which_ours_is_a_part(served: Served, issuer: LocalIssuer) -> None:
    for url in (
        f"{issuer.url}/",
        f"{issuer.url}.evil.example",
        f"{issuer.url}/evil",
        issuer.url[:-1],
        issuer.url.upper(),
        f" {issuer.url}",
        issuer.url.replace("127.0.0.1", "localhost"),
    ):
        await refused(served, issuer.token(honest(served, issuer, iss=url)))


async def test_expired(served: Served, issuer: LocalIssuer) -> None:
    now = served.deps.clock.now()
    within = issuer.token(honest(served, issuer, exp=now - timedelta(seconds=59)))
    await taken(served, within)
    for late in (60, 61, 86_400):
        token = issuer.token(honest(served, issuer, exp=now - timedelta(seconds=late)))
        await refused(served, token, "token-expired")


@pytest.mark.parametrize("value", [None, "never", "9999999999", True, [9999999999], {}])
async def test_no_usable_exp(served: Served, issuer: LocalIssuer, value: Any) -> None:
    claims = {**honest(served, issuer), "exp": value}
    await refused(served, issuer.signed({"alg": "RS256", "kid": "one"}, claims))
    del claims["exp"]
    await refused(served, issuer.signed({"alg": "RS256", "kid": "one"}, claims))


async def test_exp_that_is_no_number_of_json(served: Served, issuer: LocalIssuer) -> None:
    whole = json.dumps({**honest(served, issuer), "exp": 0})
    for number in ("NaN", "Infinity", "1e999", "-Infinity"):
        await refused(
            served,
            issuer.signed(
                {"alg": "RS256", "kid": "one"}, whole.replace('"exp": 0', f'"exp": {number}')
            ),
        )


async def test_not_yet_valid(served: Served, issuer: LocalIssuer) -> None:
    now = served.deps.clock.now()
    await taken(served, issuer.token(honest(served, issuer, nbf=now + timedelta(seconds=60))))
    await refused(served, issuer.token(honest(served, issuer, nbf=now + timedelta(seconds=61))))


async def test_issued_in_the_future(served: Served, issuer: LocalIssuer) -> None:
    now = served.deps.clock.now()
    await taken(served, issuer.token(honest(served, issuer, iat=now + timedelta(seconds=60))))
    await refused(served, issuer.token(honest(served, issuer, iat=now + timedelta(seconds=61))))


@pytest.mark.parametrize(
    "kid",
    ["../../../../dev/null", "/dev/null", "one' OR '1'='1", "one'; DROP TABLE issuer; --", "one\0",
     "", "x" * 257, "http://127.0.0.1/keys", "one/../one", ["one"], {"kid": "one"}, 1],
)  # fmt: skip
async def test_kid_that_leads_elsewhere(served: Served, issuer: LocalIssuer, kid: Any) -> None:
    await refused(served, issuer.signed({"alg": "RS256", "kid": kid}, honest(served, issuer)))
    await taken(served, issuer.token(honest(served, issuer)))


@pytest.mark.parametrize("name", ["jku", "x5u", "x5c"])
async def test_header_that_says_where_the_key_is(
    served: Served, issuer: LocalIssuer, name: str
) -> None:
    with local_issuer() as evil:
        for kid in ("one", "evil"):
            evil.keys = {kid: ("RS256", evil.keys.popitem()[1][1])}
            evil.publish()
            where = [f"{evil.url}/keys"] if name == "x5c" else f"{evil.url}/keys"
            token = evil.token(honest(served, issuer), kid, {name: where})
            await refused(served, token)
        assert not evil.asked


async def test_header_with_a_key_of_its_own(served: Served, issuer: LocalIssuer) -> None:
    own = new_key("RS256")
    header = {"kid": "one", "jwk": public_jwk(own, "one", "RS256")}
    await refused(served, jwt.encode(honest(served, issuer), own, "RS256", header))
    del header["jwk"]
    await refused(served, jwt.encode(honest(served, issuer), own, "RS256", header))


async def test_critical_extension_that_is_unknown(served: Served, issuer: LocalIssuer) -> None:
    for more in (
        {"crit": ["x"], "x": 1},
        {"crit": []},
        {"crit": ["exp"]},
        {"b64": False},
        {"crit": ["b64"], "b64": False},
        {"zip": "DEF"},
    ):
        await refused(
            served, issuer.signed({"alg": "RS256", "kid": "one", **more}, honest(served, issuer))
        )


async def test_tampered_claims(served: Served, issuer: LocalIssuer) -> None:
    head, _, signature = issuer.token(honest(served, issuer)).split(".")
    other = packed(honest(served, issuer, sub="berta"))
    await refused(served, f"{head}.{other}.{signature}")


async def test_tampered_header(served: Served, issuer: LocalIssuer) -> None:
    _, body, signature = issuer.token(honest(served, issuer)).split(".")
    await refused(served, f"{packed({'alg': 'RS256', 'kid': 'one', 'x': 1})}.{body}.{signature}")


async def test_truncated_signature(served: Served, issuer: LocalIssuer) -> None:
    whole = issuer.token(honest(served, issuer))
    text, _, signature = whole.rpartition(".")
    for cut in (
        "",
        signature[:-4],
        signature[:43],
        signature[4:],
        signature + "AAAA",
        signature + "=",
        signature[:-1] + "!",
    ):
        await refused(served, f"{text}.{cut}")
    await refused(served, text)


async def test_signature_in_another_writing(served: Served, issuer: LocalIssuer) -> None:
    """The unused bits of the last letter are no second form of the same token: it may be taken,
    but the letters of base64 that are not those of base64url are not."""
    whole = issuer.token(honest(served, issuer))
    await refused(served, whole.replace("-", "+").replace("_", "/") + "=")
    await refused(served, f"{whole}\n{whole}")
    await refused(served, whole.replace(".", ".\u200b"[:1] + "%20", 1))


async def test_token_of_the_issuer_of_another_environment(
    served: Served, issuer: LocalIssuer, other_environment: int
) -> None:
    mine = await taken(served, issuer.token(honest(served, issuer)))
    with local_issuer() as theirs:
        async with trusted(served, theirs.url, other_environment):
            token = theirs.token(theirs.claims(served.deps.clock.now()))
            other = await taken(served, token)
            assert other != mine
            assert parse_text_id("us", other).cell == 2
            async with client(served.app, token) as earner:
                assert (await earner.get(f"/v1/users/{mine}")).status_code == 404
            # Their key under our issuer's name, and our issuer's key under theirs.
            await refused(served, theirs.token(honest(served, issuer)))
            await refused(served, issuer.token(theirs.claims(served.deps.clock.now())))


async def test_key_of_another_kind_than_the_algorithm(served: Served, issuer: LocalIssuer) -> None:
    issuer.add_key("curve", "ES256")
    issuer.add_key("edwards", "EdDSA")
    for kid in ("curve", "edwards"):
        await refused(served, issuer.signed({"alg": "RS256", "kid": kid}, honest(served, issuer)))
    key = issuer.keys["edwards"][1]
    for header in ({"alg": "ES256", "kid": "edwards"}, {"alg": "EdDSA", "kid": "one"}):
        text = f"{packed(header)}.{packed(honest(served, issuer))}"
        await refused(served, f"{text}.{b64(key.sign(text.encode()))}")


async def test_algorithm_that_the_issuer_is_not_trusted_for(
    served: Served, issuer: LocalIssuer
) -> None:
    with local_issuer() as strict:
        async with trusted(served, strict.url, algorithms=["ES256"], user_prefix="s:"):
            now = served.deps.clock.now()
            await refused(served, strict.token(strict.claims(now)))
            strict.add_key("curve", "ES256")
            await taken(served, strict.token(strict.claims(now), "curve"), "s:anna")
    key = issuer.keys["one"][1]
    for algorithm in ("RS384", "RS512", "PS256"):
        await refused(served, jwt.encode(honest(served, issuer), key, algorithm, {"kid": "one"}))


async def test_encrypted_and_nested_tokens(served: Served, issuer: LocalIssuer) -> None:
    inner = issuer.token(honest(served, issuer))
    await refused(served, issuer.signed({"alg": "RS256", "kid": "one", "cty": "JWT"}, inner))
    await refused(served, issuer.signed({"alg": "RS256", "kid": "one"}, json.dumps(inner)))
    head = packed({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "one"})
    await refused(served, f"{head}.{b64(b'key')}.{b64(b'iv')}.{packed(inner)}.{b64(b'tag')}")
    head = packed({"alg": "dir", "enc": "A256GCM"})
    await refused(served, f"{head}..{b64(b'iv')}.{packed(inner)}.{b64(b'tag')}")
    await refused(served, packed({"payload": inner}) + ".")


async def test_oversized_token(served: Served, issuer: LocalIssuer) -> None:
    await taken(served, issuer.token(honest(served, issuer, more="x" * 4000)))
    await refused(served, issuer.token(honest(served, issuer, more="x" * 9000)))
    deep = '{"a":' * 1500 + "1" + "}" * 1500
    await refused(served, f"{packed({'alg': 'RS256'})}.{packed(deep)}.AAAA"[:8192])


async def test_member_that_occurs_twice(served: Served, issuer: LocalIssuer) -> None:
    whole = json.dumps(honest(served, issuer))
    header = {"alg": "RS256", "kid": "one"}
    for more in ('"sub": "berta"', '"aud": "other"', '"exp": 9999999999'):
        await refused(served, issuer.signed(header, f"{whole[:-1]}, {more}}}"))
        await refused(served, issuer.signed(header, f"{{{more}, {whole[1:]}"))
    await refused(served, issuer.signed('{"alg":"RS256","kid":"one","alg":"none"}', whole))


async def test_parts_that_are_no_objects(served: Served, issuer: LocalIssuer) -> None:
    claims = honest(served, issuer)
    for header in ("[]", "null", '"x"', "{", "", "\ufeff{}", '{"alg":7}', '{"alg":["RS256"]}'):
        await refused(served, f"{packed(header) or 'e30'}.{packed(claims)}.AAAA")
    for body in ("[]", "null", "7", '{"sub"', "\xff"):
        await refused(served, issuer.signed({"alg": "RS256", "kid": "one"}, body))


async def test_subject_that_is_no_name(served: Served, issuer: LocalIssuer) -> None:
    victim = await taken(served, issuer.token(honest(served, issuer)))
    for subject in (None, 7, "", [], "x" * 129, "a\nb", "\0", victim, "us_x"):
        claims = {**honest(served, issuer), "sub": subject}
        await refused(served, issuer.signed({"alg": "RS256", "kid": "one"}, claims))


async def test_type_of_another_use(served: Served, issuer: LocalIssuer) -> None:
    for kind in ("secevent+jwt", "dpop+jwt", "logout+jwt", "user+jwt", "", 7, None):
        header = {"alg": "RS256", "kid": "one", "typ": kind}
        if kind is None:
            del header["typ"]
            await taken(served, issuer.signed(header, honest(served, issuer)))
        else:
            await refused(served, issuer.signed(header, honest(served, issuer)))
    for kind in ("JWT", "at+jwt", "application/at+JWT"):
        header = {"alg": "RS256", "kid": "one", "typ": kind}
        await taken(served, issuer.signed(header, honest(served, issuer)))
