"""Tokens by themselves: what is read, and what a signature is good for."""

from __future__ import annotations

import jwt
import pytest
from tests.issuers import b64, new_key, packed

from paymaster.kernel.errors import Unauthenticated
from paymaster.people import oidc_token

CLAIMS = {"iss": "https://login.example.com", "aud": "app", "sub": "anna"}
ALGORITHMS = tuple(oidc_token.ALGORITHMS)


@pytest.mark.parametrize("said", ALGORITHMS)
@pytest.mark.parametrize("asked", [*ALGORITHMS, "HS256", "none"])
@pytest.mark.parametrize("kind", ALGORITHMS)
def test_algorithm_key_and_token_must_agree(said: str, asked: str, kind: str) -> None:
    signing, other = new_key(said), new_key(kind)
    token = oidc_token.read(jwt.encode(CLAIMS, signing, said))
    key = signing if said == kind else other
    if said == asked == kind:
        oidc_token.check_signature(token, key.public_key(), asked)
        return
    with pytest.raises(Unauthenticated, match="not accepted"):
        oidc_token.check_signature(token, key.public_key(), asked)


def test_a_private_key_or_a_secret_is_no_key_to_verify_with() -> None:
    signing = new_key("EdDSA")
    token = oidc_token.read(jwt.encode(CLAIMS, signing, "EdDSA"))
    for key in (signing, b"secret", "secret", None):
        with pytest.raises(Unauthenticated, match="not accepted"):
            oidc_token.check_signature(token, key, "EdDSA")  # pyright: ignore[reportArgumentType]


def test_what_reads_well_is_shown_and_never_printed() -> None:
    made = jwt.encode({**CLAIMS, "aud": ["app", "web"]}, new_key("EdDSA"), "EdDSA", {"kid": "one"})
    token = oidc_token.read(made)
    assert (token.algorithm, token.kid, token.issuer) == ("EdDSA", "one", CLAIMS["iss"])
    assert token.audiences == ("app", "web")
    assert token.text_claim("sub") == "anna"
    assert made not in repr(token)
    assert "anna" not in repr(token)


def test_a_member_twice_in_a_nested_object() -> None:
    claims = '{"iss":"i","aud":"a","act":{"sub":"x","sub":"y"}}'
    with pytest.raises(Unauthenticated, match="claims of the token cannot be read"):
        oidc_token.read(f"{packed({'alg': 'RS256'})}.{packed(claims)}.{b64(b'x')}")


def test_the_two_kinds_of_bearer_are_told_apart() -> None:
    assert oidc_token.looks_like("a.b.c")
    assert oidc_token.looks_like("eyJhbGciOiJub25lIn0")
    assert not oidc_token.looks_like(f"pk_test_1a2b3c4d_{'x' * 43}")
